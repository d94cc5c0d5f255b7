import { Desk } from "./desk.js";
import { RollcallError, toError } from "./errors.js";
import type { LineListener, LineOptions } from "./line.js";
import { Link, type State } from "./link.js";
import type { EventFrame, Operation, Welcome } from "./protocol.js";
import { Requests } from "./requests.js";
import { claimsOf } from "./token.js";
import { fullJitter, Timers } from "./waiting.js";

/** How long a new leader waits for what the one before hands over, milliseconds: locks and messages go separate ways. */
const HEIR_MS = 150;
/** After so long every living tab has said what it holds, milliseconds. */
const TOLD_MS = 2_000;

type Locks = Pick<LockManager, "request">;

interface Plain {
  readonly code: RollcallError["code"];
  readonly message: string;
  readonly retryAfterMs?: number | undefined;
}

/** How the leader's link is; `serial` numbers its welcomes. */
interface Turn {
  readonly kind: "turn";
  readonly from: string;
  readonly to?: string;
  readonly serial: number;
  readonly state: State;
  readonly error?: Plain;
  readonly welcome?: Welcome;
}

/** What tabs say to each other. None of it holds a token, but for the one that a leader hands over when it goes. */
type Said =
  | { readonly kind: "hello" | "gone"; readonly from: string }
  | Turn
  | { readonly kind: "event"; readonly from: string; readonly to?: string; readonly frame: EventFrame }
  | { readonly kind: "ask"; readonly from: string; readonly text: string }
  | { readonly kind: "answer"; readonly from: string; readonly to: string; readonly frame: EventFrame }
  | { readonly kind: "heir"; readonly from: string; readonly resume?: string | undefined; readonly channels: readonly string[] };

/**
 * A line that tabs share. One of them leads and has the socket; the others speak through it, and when it closes the next takes over, with
 * the resume token that it was handed, or as a new connection where the leader was lost: the place is kept for its grace then.
 */
export class Tabs {
  state: State = "off";
  error: RollcallError | undefined;
  welcome: Welcome | undefined;
  #options: LineOptions;
  #listener: LineListener;
  #locks: Locks;
  #Radio: typeof BroadcastChannel;
  #id = crypto.randomUUID();
  #name = "";
  #timers = new Timers();
  #isStarted = false;
  #turn = 0;
  #token: string | undefined;
  // A leader has these.
  #link: Link | undefined;
  #desk: Desk | undefined;
  #serial = 0;
  #followers = new Set<string>();
  // A follower has these.
  #requests: Requests;
  #leader = "";
  #heard = "";
  #heir: { resume?: string | undefined; channels: readonly string[] } | undefined;
  #inherited = () => {};
  #radio: BroadcastChannel | undefined;
  #releases: (() => void)[] = [];
  #abort = new AbortController();

  constructor(options: LineOptions, listener: LineListener, locks: Locks, Radio: typeof BroadcastChannel) {
    this.#options = options;
    this.#listener = listener;
    this.#locks = locks;
    this.#Radio = Radio;
    this.#requests = new Requests((text) => this.#say({ kind: "ask", from: this.#id, text }), options.waitMs);
  }

  /** Whether this tab has the socket. */
  get isLeader(): boolean {
    return this.#link !== undefined;
  }

  start(): void {
    if (this.#link) return this.#link.start();
    if (this.#isStarted) return void (this.state === "ended" && this.#say({ kind: "ask", from: this.#id, text: '{"op":"connect"}' }));
    this.#isStarted = true;
    void this.#share();
  }

  ask(operation: Operation, waits = false): Promise<unknown> {
    if (this.#desk) return this.#desk.ask(this.#id, operation, waits);
    if (this.state === "ended" && this.error) return Promise.reject(this.error);
    if (this.state !== "open" && !waits) return Promise.reject(new RollcallError("offline", "there is no connection just now"));
    return this.#requests.add(operation, waits);
  }

  hurry(): void {
    this.#link?.hurry();
  }

  /**
   * Stops. A leader hands the connection over to those who follow; the last tab says goodbye, unless it means to be back (`isPause`), as
   * a page does that the browser keeps.
   */
  stop(isPause = false): void {
    this.#turn++;
    this.#timers.stop();
    if (this.#link) {
      const isHanded = this.#followers.size > 0;
      if (isHanded) {
        this.#desk?.drop(this.#id);
        this.#say({ kind: "heir", from: this.#id, resume: this.#link.resume, channels: this.#desk?.channels ?? [] });
      }
      this.#heir = isPause && !isHanded ? { resume: this.#link.resume, channels: [] } : undefined;
      const link = this.#link;
      this.#link = this.#desk = undefined;
      link.stop(!isHanded && !isPause);
    } else {
      this.#say({ kind: "gone", from: this.#id });
    }
    this.#requests.end(new RollcallError("closed", "this client was closed"));
    this.#radio?.close();
    this.#radio = undefined;
    this.#abort.abort();
    this.#abort = new AbortController();
    for (const release of this.#releases.splice(0)) release();
    this.#followers.clear();
    this.#isStarted = false;
    this.#turnTo("off");
  }

  // Tabs of one user share, and who the user is only the token knows.
  async #share(): Promise<void> {
    const turn = ++this.#turn;
    this.#turnTo("connecting");
    const token = await this.#firstToken(turn);
    if (token === undefined) return;
    const { url, hello } = this.#options;
    this.#token = token;
    this.#name = `rollcall ${JSON.stringify([url, claimsOf(token).sub ?? null, hello])}`;
    try {
      await this.#queue(turn);
    } catch {
      // A page that may not use locks or speak to others, such as one in a frame without an origin, is alone.
    }
    if (turn === this.#turn) this.#lead();
  }

  /** Resolves when it is this tab's turn to lead. */
  async #queue(turn: number): Promise<void> {
    const radio = new this.#Radio(this.#name);
    radio.onmessage = ({ data }) => this.#hear(data as Said);
    this.#radio = radio;
    // Held as long as the tab lives, so that the leader sees its end however it comes.
    await this.#hold(`${this.#name} ${this.#id}`);
    if (turn !== this.#turn) return;
    this.#say({ kind: "hello", from: this.#id });
    await this.#hold(this.#name);
    if (turn !== this.#turn) return;
    if (this.#leader && !this.#heir) {
      await new Promise<void>((resolve) => {
        this.#inherited = resolve;
        this.#timers.after(HEIR_MS, resolve);
      });
    }
  }

  async #firstToken(turn: number): Promise<string | undefined> {
    for (let attempt = 0; turn === this.#turn; attempt++) {
      try {
        const token = await this.#options.token();
        return turn === this.#turn ? token : undefined;
      } catch (error) {
        const why = toError(error, "unavailable");
        if (turn !== this.#turn) return undefined;
        if (why.code === "unauthorized") {
          this.#isStarted = false;
          this.#turnTo("ended", why);
          return undefined;
        }
        this.#turnTo("waiting", why);
        await new Promise<void>((resolve) => this.#timers.after(fullJitter(attempt), resolve));
      }
    }
    return undefined;
  }

  /** Resolves when this tab has the lock, which it keeps until it stops. */
  #hold(name: string): Promise<void> {
    return new Promise((resolve, reject) => {
      const held = () =>
        new Promise<void>((release) => {
          this.#releases.push(release);
          resolve();
        });
      const { signal } = this.#abort;
      this.#locks.request(name, { signal }, held).catch((error: unknown) => !signal.aborted && reject(error));
    });
  }

  #lead(): void {
    const heir = this.#heir;
    this.#heir = undefined;
    const link: Link = new Link(
      this.#options,
      {
        turned: () => {
          if (this.#link !== link) return;
          this.welcome = link.welcome;
          this.#turnTo(link.state, link.error);
        },
        welcomed: (welcome) => {
          this.#serial++;
          this.#desk?.welcomed(welcome);
          this.#tellTurn();
          this.#listener.opened(welcome);
        },
        heard: (frame) => {
          this.#desk?.heard(frame);
          this.#say({ kind: "event", from: this.#id, frame });
          this.#listener.heard(frame);
        },
        failed: (error) => this.#listener.failed(error),
      },
      this.#token,
      heir?.resume,
    );
    this.#link = link;
    this.#desk = new Desk(link, (tab, frame) => {
      if (tab === this.#id) this.#listener.heard(frame);
      else this.#say({ kind: "event", from: this.#id, to: tab, frame });
    });
    this.#token = undefined;
    this.#requests.lose();
    if (heir?.channels.length) this.#timers.after(TOLD_MS, () => this.#desk?.leaveUnheld(heir.channels));
    link.start();
  }

  #hear(said: Said): void {
    if (said.from === this.#id || ("to" in said && said.to !== undefined && said.to !== this.#id)) return;
    if (this.#desk) this.#hearAsLeader(said, this.#desk);
    else this.#hearAsFollower(said);
  }

  #hearAsLeader(said: Said, desk: Desk): void {
    const { from } = said;
    if (said.kind === "gone") this.#lost(from);
    if (said.kind !== "hello" && said.kind !== "ask") return;
    if (!this.#followers.has(from)) {
      this.#followers.add(from);
      // Whoever gets this lock knows that the tab which held it is no more.
      this.#locks.request(`${this.#name} ${from}`, { signal: this.#abort.signal }, () => this.#lost(from)).catch(() => {});
    }
    if (said.kind === "hello") return this.#tellTurn(from);
    const { id, ...operation } = JSON.parse((said as Said & { kind: "ask" }).text) as { id: number } & Operation;
    if (operation.op === "connect") return this.#link?.start();
    const answer = (frame: Record<string, unknown>) =>
      this.#say({ kind: "answer", from: this.#id, to: from, frame: { id, ...frame } as unknown as EventFrame });
    desk.ask(from, operation, false).then(
      (ok) => answer({ ok }),
      (error: unknown) => {
        const { code, message, retryAfterMs } = toError(error);
        answer({ error: { code, message, retry_after_ms: retryAfterMs } });
      },
    );
  }

  #lost(tab: string): void {
    if (this.#followers.delete(tab)) this.#desk?.drop(tab);
  }

  #hearAsFollower(said: Said): void {
    if (said.kind === "heir") {
      this.#heir = said;
      this.#inherited();
      this.#requests.lose();
      this.#turnTo("waiting");
    } else if (said.kind === "turn") {
      // Another leads from now on: it has to know of this tab, and what was asked of the one before is lost.
      if (said.from !== this.#leader) {
        this.#leader = said.from;
        this.#heir = undefined;
        this.#requests.lose();
        this.#say({ kind: "hello", from: this.#id });
      }
      this.#turned(said);
    } else if (said.from !== this.#leader) {
      return;
    } else if (said.kind === "event") {
      this.#listener.heard(said.frame);
    } else if (said.kind === "answer") {
      this.#requests.answer(said.frame);
    }
  }

  #turned(said: Turn): void {
    const { state, error, welcome } = said;
    const shown = error && new RollcallError(error.code, error.message, error.retryAfterMs);
    if (state !== "open") this.#requests.lose();
    if (state === "open" && welcome) {
      // Said to everybody and once more to whoever has just come.
      if (this.#heard === `${said.from} ${said.serial}` && this.state === "open") return;
      this.#heard = `${said.from} ${said.serial}`;
      this.welcome = welcome;
      this.#requests.open(welcome.limits);
      this.#turnTo(state);
      this.#listener.opened(welcome);
    } else if (state !== "open") {
      this.#turnTo(state, shown);
    }
  }

  #tellTurn(to?: string): void {
    const { state, error, welcome } = this;
    const plain = error && { code: error.code, message: error.message, retryAfterMs: error.retryAfterMs };
    this.#say({
      kind: "turn",
      from: this.#id,
      serial: this.#serial,
      state,
      ...(to !== undefined && { to }),
      ...(plain && { error: plain }),
      ...(welcome && { welcome }),
    });
  }

  #turnTo(state: State, error?: RollcallError): void {
    this.state = state;
    this.error = error;
    // An open link is told with its welcome.
    if (this.#link && state !== "open") this.#tellTurn();
    this.#listener.turned();
  }

  #say(said: Said): void {
    this.#radio?.postMessage(said);
  }
}
