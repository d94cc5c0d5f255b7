import { RollcallError, toError, type Code } from "./errors.js";
import type { EventFrame, Operation, Welcome } from "./protocol.js";
import { Requests } from "./requests.js";
import { findSocketClass, type Socket, type SocketClass } from "./socket.js";
import { claimsOf } from "./token.js";
import { fullJitter, Timers } from "./waiting.js";

/** How long a socket may take until it is welcomed, milliseconds: a resume may wait 15 s for a store that settles. */
const WELCOME_MS = 20_000;
/** How long the application may take for a token, milliseconds. */
const TOKEN_MS = 30_000;
/** How long the answer to a ping may take, milliseconds. */
const ANSWER_MS = 10_000;
/** A connection that lasted so long starts the waits from the beginning, milliseconds. */
const SETTLED_MS = 5_000;
/** A token with less left than this is not used for another hello, milliseconds. */
const FRESH_MS = 10_000;
/** Timers hold 31 bits. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;
/** The close code of a socket that goes without a goodbye and means to come back. */
const DROPPED = 4000;

/** `off`: not asked to connect; `waiting`: comes back by itself; `ended`: does not, `error` says why. */
export type State = "off" | "connecting" | "open" | "waiting" | "ended";

/** Asks the application for a token of the user. Whatever it throws is tried again, but a RollcallError `unauthorized` is not. */
export type TokenSource = () => string | Promise<string>;

export interface LinkOptions {
  readonly url: string;
  readonly token: TokenSource;
  readonly WebSocket?: SocketClass | undefined;
  readonly hello: { readonly device?: string; readonly present?: boolean };
  /** How long an operation waits for a connection, milliseconds. */
  readonly waitMs: number;
}

/** Who is told what the link does. */
export interface LinkListener {
  /** The state is another one. */
  turned(): void;
  welcomed(welcome: Welcome): void;
  heard(frame: EventFrame): void;
  /** Something failed that is tried again by itself. */
  failed(error: RollcallError): void;
}

/** One connection that keeps itself up: hello, resume, answers by id, fresh tokens, and coming back with full jitter. */
export class Link {
  state: State = "off";
  error: RollcallError | undefined;
  welcome: Welcome | undefined;
  #options: LinkOptions;
  #listener: LinkListener;
  #requests: Requests;
  #socket: Socket | undefined;
  #timers = new Timers();
  // What an earlier turn started late has no say any more.
  #turn = 0;
  #attempt = 0;
  #welcomedAt = 0;
  #heardAt = 0;
  #resume: string | undefined;
  #announced: number | undefined;
  #token: string | undefined;
  #isTokenUsed = false;
  #skewMs = 0;

  /** `token` is one that was asked for already, `resume` what an earlier link of the same user handed over. */
  constructor(options: LinkOptions, listener: LinkListener, token?: string, resume?: string) {
    this.#options = options;
    this.#listener = listener;
    this.#token = token;
    this.#resume = resume;
    this.#requests = new Requests((text) => this.#socket?.send(text), options.waitMs);
  }

  /** The token with which somebody else may go on where this link stops. Only in memory: a copied tab has none. */
  get resume(): string | undefined {
    return this.#resume;
  }

  /** Connects, unless it is connected or about to be. */
  start(): void {
    if (this.state === "open" || this.state === "connecting") return;
    this.#attempt = 0;
    void this.#connect();
  }

  /**
   * Stops. With a goodbye whoever watches sees the leave at once; without one the place is kept for its grace, and `start` goes on
   * there.
   */
  stop(isGoodbye: boolean): void {
    if (isGoodbye && this.state === "open") this.#socket?.send(JSON.stringify({ op: "bye" }));
    this.#part(isGoodbye ? 1000 : DROPPED);
    // Whoever begins again after a goodbye may be somebody else, or may do more.
    if (isGoodbye) this.#resume = this.#token = undefined;
    this.#requests.end(new RollcallError("closed", "this client was closed"));
    this.#turnTo("off");
  }

  /**
   * Sends an operation and answers with its `ok`. One that `waits` is kept for a while where there is no connection; another is
   * refused as `offline` then.
   */
  ask(operation: Operation, waits: boolean): Promise<unknown> {
    if (this.state === "ended") return Promise.reject(this.error);
    if (this.state !== "open" && !waits) return Promise.reject(new RollcallError("offline", "there is no connection just now"));
    return this.#requests.add(operation, waits);
  }

  /** The network may have changed: tries at once instead of waiting any longer, and asks an open socket whether it still lives. */
  hurry(): void {
    if (this.state === "waiting") void this.#connect();
    else if (this.state === "open") this.#ping(() => {});
  }

  async #connect(): Promise<void> {
    this.#part(DROPPED);
    const turn = this.#turn;
    this.#turnTo("connecting");
    try {
      const SocketClass = this.#options.WebSocket ?? (await findSocketClass());
      const token = await this.#tokenForHello();
      if (turn !== this.#turn) return;
      const socket = new SocketClass(this.#options.url, "rollcall.v1");
      this.#socket = socket;
      this.#timers.after(WELCOME_MS, () => this.#lose("the server did not answer in time"));
      socket.onopen = () => void this.#hello(token, turn);
      socket.onmessage = ({ data }) => turn === this.#turn && this.#hear(String(data));
      socket.onclose = ({ code, reason }) => turn === this.#turn && this.#closed(code, reason);
      // Always followed by a close, which says more.
      socket.onerror = () => {};
    } catch (error) {
      if (turn !== this.#turn) return;
      const { code, message } = toError(error, "unavailable");
      // Anything else may be a network that is away, for the application's own requests too.
      if (code === "unauthorized" || code === "no_socket") this.#end(toError(error));
      else this.#comeBack(message);
    }
  }

  async #tokenForHello(): Promise<string> {
    if (this.#token && this.#remainingMs(this.#token) > FRESH_MS) return this.#token;
    this.#isTokenUsed = false;
    return this.#fetchToken();
  }

  async #fetchToken(): Promise<string> {
    let late: (() => void) | undefined;
    const limit = new Promise<never>((_, reject) => {
      late = this.#timers.after(TOKEN_MS, () => reject(new RollcallError("unavailable", "`token` did not answer in time")));
    });
    try {
      this.#token = await Promise.race([this.#options.token(), limit]);
      return this.#token;
    } finally {
      late?.();
    }
  }

  /** Of a token without an end that can be read nothing is known: it is used once. */
  #remainingMs(token: string): number {
    const { exp } = claimsOf(token);
    return exp === undefined ? (this.#isTokenUsed ? 0 : FRESH_MS + 1) : exp * 1000 - (Date.now() + this.#skewMs);
  }

  async #hello(token: string, turn: number): Promise<void> {
    const resume = this.#resume;
    const hello = { op: "hello", token, ...this.#options.hello, ...(resume && { resume }) };
    try {
      const welcome = (await this.#requests.first(hello)) as Welcome;
      if (turn === this.#turn) this.#welcomed(welcome);
    } catch (error) {
      if (turn !== this.#turn) return;
      const { code, retryAfterMs } = (this.error = toError(error));
      // The socket stays, and hello can be said again. What else it was refused for, the close code that follows decides.
      if (code === "unavailable" || code === "rate_limited") this.#timers.after(retryAfterMs ?? 1000, () => void this.#hello(token, turn));
    }
  }

  #welcomed(welcome: Welcome): void {
    this.#timers.stop();
    this.#isTokenUsed = true;
    this.#resume = welcome.resume;
    this.#skewMs = welcome.server_time - Date.now();
    this.#welcomedAt = performance.now();
    // Others get what this one may know, but not what would let them take the connection.
    const { resume: _, ...shown } = welcome;
    this.welcome = shown;
    this.#listen(welcome.ping_ms);
    this.#refreshLater();
    this.#requests.open(welcome.limits);
    this.#turnTo("open");
    this.#listener.welcomed(shown);
  }

  // A browser answers the server's pings by itself but never tells that they stopped coming, so this side asks too.
  #listen(everyMs: number): void {
    this.#timers.after(everyMs, () => {
      if (performance.now() - this.#heardAt < everyMs / 2) this.#listen(everyMs);
      else this.#ping(() => this.#listen(everyMs));
    });
  }

  #ping(then: () => void): void {
    const asked = performance.now();
    this.#requests.add({ op: "ping" }, false).catch(() => {});
    this.#timers.after(ANSWER_MS, () => {
      if (this.#heardAt >= asked) then();
      else this.#lose("the server fell silent");
    });
  }

  /** A fresh token is brought when a fifth of the time is left, half a minute at most. */
  #refreshLater(failures = 0): void {
    const remaining = this.#token ? this.#remainingMs(this.#token) : 0;
    if (!this.#token || claimsOf(this.#token).exp === undefined) return;
    const before = Math.min(30_000, remaining / 5);
    const wait = failures ? fullJitter(failures) : Math.max(500, remaining - before);
    this.#timers.after(Math.min(wait, LONGEST_TIMER_MS), () => {
      if (wait > LONGEST_TIMER_MS) this.#refreshLater();
      else void this.#refresh(failures);
    });
  }

  async #refresh(failures: number): Promise<void> {
    const turn = this.#turn;
    try {
      const token = await this.#fetchToken();
      if (turn !== this.#turn) return;
      await this.#requests.add({ op: "refresh", token }, false);
      if (turn === this.#turn) this.#refreshLater();
    } catch (error) {
      if (turn !== this.#turn) return;
      // The token before still counts, until its end closes the socket.
      this.#listener.failed(toError(error, "unavailable"));
      this.#refreshLater(failures + 1);
    }
  }

  #hear(text: string): void {
    this.#heardAt = performance.now();
    let frame: EventFrame;
    try {
      frame = JSON.parse(text) as EventFrame;
    } catch {
      this.#listener.failed(new RollcallError("internal", "the server sent a frame that is not JSON"));
      return;
    }
    if (frame.event === "reconnect") this.#announced = Number(frame.after_ms);
    else if (frame.event) this.#listener.heard(frame);
    else this.#requests.answer(frame);
  }

  #closed(code: number, reason: string): void {
    const why = reason || this.error?.message || `the connection was closed with ${code}`;
    // Another socket has the connection; this side comes back as a new one.
    if (code === 4502) this.#resume = undefined;
    // The one that was refused may only have been kept for too long.
    const isStale = this.#isTokenUsed && code === 4501;
    if (code === 4003 || code === 4501) this.#token = undefined;
    if (code < 4500 || code > 4999 || code === 4502 || isStale) this.#comeBack(why);
    else this.#end(new RollcallError(CLOSED[code] ?? "internal", why));
  }

  #lose(why: string): void {
    this.#part(DROPPED);
    this.#comeBack(why);
  }

  #comeBack(why: string): void {
    if (this.#welcomedAt && performance.now() - this.#welcomedAt > SETTLED_MS) this.#attempt = 0;
    this.#part();
    const wait = this.#announced ?? fullJitter(this.#attempt++);
    this.#announced = undefined;
    this.#turnTo("waiting", new RollcallError("unavailable", why));
    this.#timers.after(wait, () => void this.#connect());
  }

  #end(error: RollcallError): void {
    this.#part();
    this.#resume = undefined;
    this.#token = undefined;
    this.#requests.end(error);
    this.#turnTo("ended", error);
  }

  // Ends the turn: its timers, the answers still owed, and its socket.
  #part(code?: number): void {
    this.#turn++;
    this.#timers.stop();
    this.#welcomedAt = 0;
    this.#requests.lose();
    const socket = this.#socket;
    this.#socket = undefined;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    if (code) socket.close(code);
  }

  #turnTo(state: State, error?: RollcallError): void {
    this.error = error;
    this.state = state;
    this.#listener.turned();
  }
}

/** What the close codes mean that one does not come back from. */
const CLOSED: Record<number, Code> = {
  4500: "bad_request",
  4501: "unauthorized",
  4502: "replaced",
  4503: "kicked",
  4504: "banned",
  4505: "limit",
};
