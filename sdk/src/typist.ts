import type { Line } from "./line.js";

/** For how long a call of `typing` holds, milliseconds: the server's own default. */
const HOLD_MS = 3000;
/** After how long it is said again while calls go on, milliseconds. */
const REPEAT_MS = 2000;
/** How often is looked, milliseconds. */
const LOOK_MS = 500;

/** Says that one types, in one channel or towards one user: once when it begins, again while it goes on, and when it ends. */
export class Typist {
  #line: Line;
  #to: { readonly channel: string } | { readonly to: string };
  #failed: (error: unknown) => void;
  #timer: ReturnType<typeof setInterval> | undefined;
  #calledAt = 0;
  #saidAt = 0;

  constructor(line: Line, to: { channel: string } | { to: string }, failed: (error: unknown) => void) {
    this.#line = line;
    this.#to = to;
    this.#failed = failed;
  }

  /** For every key: what has to be said of it is decided here. */
  type(isTyping = true): void {
    if (!isTyping) return this.#end(true);
    if (this.#line.state !== "open") return;
    this.#calledAt = performance.now();
    if (this.#timer !== undefined) return;
    this.#say(true);
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
  }

  /** The connection broke, and with it the typing: nothing has to be said. */
  forget(): void {
    this.#end(false);
  }

  #look(): void {
    const now = performance.now();
    if (now - this.#calledAt >= HOLD_MS) this.#end(true);
    else if (now - this.#saidAt >= REPEAT_MS) this.#say(true);
  }

  #end(isSaid: boolean): void {
    if (this.#timer === undefined) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
    if (isSaid) this.#say(false);
  }

  #say(typing: boolean): void {
    this.#saidAt = performance.now();
    this.#line.ask({ op: "typing", ...this.#to, typing }).catch(this.#failed);
  }
}
