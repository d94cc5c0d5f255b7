// One connection to Rollcall that keeps itself up: hello, resume, answers by id, and coming back with full jitter.

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000; // below the usual grace of 15 s, so that even the slowest try is in time
const SETTLED_MS = 10_000; // a connection that lasted this long starts the waits from the beginning
const ANSWER_MS = 10_000;
const DROPPED = 4000; // the close code of a socket that goes without a goodbye

/** What an operation was refused with: `code` is one of the protocol's. */
export class Refusal extends Error {
  constructor({ code, message, retry_after_ms }) {
    super(message || code);
    this.code = code;
    this.retryAfterMs = retry_after_ms;
  }
}

/** Thrown by a token source when trying again by itself would not help. */
export class NoToken extends Error {}

/** Any length up to a bound that doubles with each attempt: clients that lost a server together do not come back together. */
export function fullJitter(attempt, random = Math.random) {
  return random() * Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** attempt);
}

/** Whether a client may come back after this close code. */
export function mayComeBack(code) {
  return code < 4500 || code > 4999;
}

/**
 * States: `off`, `connecting`, `open`, `waiting` (comes back at `retryAt`), `dropped` (on purpose, until `graceEnds`) and
 * `ended` (refused for good; `reason` says why).
 */
export class Link {
  state = "off";
  reason = "";
  retryAt = 0;
  graceEnds = 0;
  graceMs = 15_000;
  #options;
  #socket = null;
  #turn = 0; // what an earlier turn started late has no say any more
  #timers = new Set();
  #answers = new Map();
  #nextId = 1;
  #attempt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #resume = null;
  #announcedWait = null;
  #leaving = false;

  /** `options`: url, token() → promise, hello → fields, resumes, onState(), onWelcome(ok), onEvent(frame, text), onNote(text). */
  constructor(options) {
    this.#options = options;
  }

  /** Connects, unless it is connected or about to be. */
  start() {
    if (this.state === "connecting" || this.state === "open") return;
    this.#leaving = false;
    this.#connect();
  }

  /** Says goodbye: whoever watches sees the leave at once. A connection in its grace comes back to say so. */
  leave() {
    if (this.state === "open") {
      this.#write({ op: "bye" });
      this.#close(1000);
      this.#forget();
      this.#become("off");
    } else if (this.#resume && (this.state === "dropped" || this.state === "waiting")) {
      this.#leaving = true;
      this.#connect();
    } else {
      this.#close(1000);
      this.#forget();
      this.#become("off");
    }
  }

  /** Closes the socket without a goodbye, as a broken network would, and stays away until `start` or the end of the grace. */
  drop() {
    if (this.state !== "open") return;
    this.#close(DROPPED);
    this.graceEnds = performance.now() + this.graceMs;
    this.#become("dropped");
    this.#after(this.graceMs, () => {
      this.#forget();
      this.#become("off", "timeout");
    });
  }

  /** Tries at once instead of waiting any longer. */
  hurry() {
    if (this.state === "waiting") this.#connect();
  }

  /** Sends an operation and answers with its `ok`, or throws a Refusal. */
  ask(operation) {
    if (this.state !== "open") return Promise.reject(new Refusal({ code: "unavailable", message: "not connected" }));
    return this.#request(operation);
  }

  async #connect() {
    this.#close(DROPPED);
    const turn = this.#turn;
    this.#become("connecting");
    let token;
    try {
      token = await this.#options.token();
    } catch (error) {
      if (turn !== this.#turn) return;
      if (error instanceof NoToken) this.#end(error.message);
      else this.#comeBack(error.message);
      return;
    }
    if (turn !== this.#turn) return;
    const socket = new WebSocket(this.#options.url, "rollcall.v1");
    this.#socket = socket;
    socket.onopen = () => this.#hello(token, turn);
    socket.onmessage = ({ data }) => turn === this.#turn && this.#hear(data);
    socket.onclose = ({ code, reason }) => turn === this.#turn && this.#closed(code, reason);
  }

  async #hello(token, turn) {
    const hello = { op: "hello", token, ...this.#options.hello };
    if (this.#resume) hello.resume = this.#resume;
    let welcome;
    try {
      welcome = await this.#request(hello);
    } catch (error) {
      // The close code that follows decides what happens; the answer has the better words.
      if (turn === this.#turn) this.reason = error.message;
      return;
    }
    if (turn !== this.#turn) return;
    this.#openedAt = performance.now();
    this.reason = "";
    if (this.#options.resumes) this.#resume = welcome.resume ?? null;
    if (Number.isFinite(welcome.grace_ms)) this.graceMs = welcome.grace_ms;
    if (this.#leaving) {
      this.state = "open";
      this.#leaving = false;
      this.leave();
      return;
    }
    this.#listen(welcome.ping_ms ?? 25_000, turn);
    this.#become("open");
    this.#options.onWelcome(welcome);
  }

  // A browser answers the server's pings by itself but never tells that they stopped coming, so this side asks too.
  #listen(everyMs, turn) {
    this.#after(everyMs, () => {
      if (performance.now() - this.#heardAt < everyMs / 2) return this.#listen(everyMs, turn);
      const asked = performance.now();
      this.#write({ id: this.#nextId++, op: "ping" });
      this.#after(ANSWER_MS, () => {
        if (this.#heardAt >= asked) return this.#listen(everyMs, turn);
        this.#close(DROPPED);
        this.#comeBack("the server fell silent");
      });
    });
  }

  #request(operation) {
    const id = this.#nextId++;
    const answer = new Promise((resolve, reject) => this.#answers.set(id, { resolve, reject }));
    this.#write({ id, ...operation });
    return answer;
  }

  #write(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #hear(text) {
    this.#heardAt = performance.now();
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      this.#options.onNote("a frame that is not JSON was passed over");
      return;
    }
    if (frame.event === "reconnect") {
      this.#announcedWait = frame.after_ms;
      this.#options.onNote(`the server restarts and asks to come back after ${frame.after_ms} ms`);
    } else if (frame.event) {
      this.#options.onEvent(frame, text);
    } else if (this.#answers.has(frame.id)) {
      const { resolve, reject } = this.#answers.get(frame.id);
      this.#answers.delete(frame.id);
      if (frame.error) reject(new Refusal(frame.error));
      else resolve(frame.ok ?? {});
    } else if (frame.error) {
      this.#options.onNote(`refused: ${frame.error.message || frame.error.code}`);
    }
  }

  #closed(code, reason) {
    const why = reason || this.reason || `close code ${code}`;
    this.#close();
    if (mayComeBack(code)) this.#comeBack(why);
    else this.#end(`${why} (${code})`);
  }

  #comeBack(why) {
    if (this.#openedAt && performance.now() - this.#openedAt > SETTLED_MS) this.#attempt = 0;
    this.#openedAt = 0;
    const wait = this.#announcedWait ?? fullJitter(this.#attempt++);
    this.#announcedWait = null;
    this.retryAt = performance.now() + wait;
    this.#become("waiting", why);
    this.#after(wait, () => this.#connect());
  }

  #end(why) {
    this.#close();
    this.#forget();
    this.#become("ended", why);
  }

  #forget() {
    this.#resume = null;
    this.#leaving = false;
    this.#attempt = 0;
  }

  // Ends the turn: its timers, its answers still owed, and its socket.
  #close(code) {
    this.#turn++;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    for (const { reject } of this.#answers.values()) reject(new Refusal({ code: "unavailable", message: "connection lost" }));
    this.#answers.clear();
    if (code && this.#socket) this.#socket.close(code);
    this.#socket = null;
  }

  #after(ms, then) {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      then();
    }, ms);
    this.#timers.add(timer);
  }

  #become(state, reason = "") {
    this.state = state;
    this.reason = reason;
    this.#options.onState();
  }
}
