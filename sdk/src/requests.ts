import { RollcallError, type Code } from "./errors.js";
import type { EventFrame, Operation } from "./protocol.js";
import { Timers } from "./waiting.js";

/** How many operations may wait to be sent; one more is refused as `full`. */
const MOST_WAITING = 1000;
/** How many may be owed an answer at once; others wait. */
const MOST_ASKED = 64;
/** No answer takes longer: the server waits 15 s for its store at most. */
const ANSWER_MS = 30_000;
/** By what this side stays below the server's own count, so that nothing is refused which could as well have waited. */
const CAUTION = 0.9;

interface Request {
  readonly operation: Operation;
  /** Whether it survives that there is no connection, until its time is up. */
  readonly waits: boolean;
  resolve(ok: unknown): void;
  reject(error: RollcallError): void;
  stopTimer: (() => void) | undefined;
}

/** The operations of a link: in order, no faster than the server carries them out, each with its answer or an error. */
export class Requests {
  #write: (text: string) => void;
  #waitMs: number;
  #waiting: Request[] = [];
  #asked = new Map<number, Request>();
  #timers = new Timers();
  #nextId = 1;
  #isOpen = false;
  #frameBytes = 65_536;
  #perSecond = 50;
  // A bucket like the server's: it holds a second's worth and fills steadily.
  #budget = 0;
  #filledAt = 0;
  #isPaused = false;

  constructor(write: (text: string) => void, waitMs: number) {
    this.#write = write;
    this.#waitMs = waitMs;
  }

  /** Takes an operation; the promise is settled with its `ok` or a RollcallError. */
  add(operation: Operation, waits: boolean): Promise<unknown> {
    return new Promise((resolve, reject) => {
      if (this.#waiting.length >= MOST_WAITING) {
        reject(new RollcallError("full", `${MOST_WAITING} operations are waiting already`));
        return;
      }
      const request: Request = { operation, waits, resolve, reject, stopTimer: undefined };
      this.#waiting.push(request);
      if (!this.#isOpen) this.#giveUpLater(request);
      this.#flush();
    });
  }

  /** Sends what comes before everything else: the introduction. */
  first(operation: Operation): Promise<unknown> {
    return new Promise((resolve, reject) => this.#send({ operation, waits: false, resolve, reject, stopTimer: undefined }));
  }

  /** From now on operations are sent, within these limits. */
  open(limits: Readonly<Record<string, number>>): void {
    this.#frameBytes = limits.frame_bytes ?? this.#frameBytes;
    this.#perSecond = (limits.operations_per_second ?? 50) * CAUTION;
    this.#budget = Math.max(1, this.#perSecond);
    this.#filledAt = performance.now();
    this.#isOpen = true;
    this.#flush();
  }

  /** There is no connection any more. What was sent may have been carried out or not; what may wait goes on waiting. */
  lose(): void {
    this.#isOpen = false;
    const asked = [...this.#asked.values()];
    const dropped = this.#waiting.filter((request) => !request.waits);
    this.#waiting = this.#waiting.filter((request) => request.waits);
    this.#asked.clear();
    // Not anew for those who waited before: another attempt is no reason to wait longer.
    for (const request of this.#waiting) if (!request.stopTimer) this.#giveUpLater(request);
    for (const request of asked) this.#refuse(request, new RollcallError("unavailable", "the connection broke before the answer"));
    for (const request of dropped) this.#refuse(request, new RollcallError("offline", "the connection broke"));
  }

  /** Nothing will be sent any more. */
  end(error: RollcallError): void {
    this.lose();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const request of waiting) this.#refuse(request, error);
    this.#timers.stop();
    this.#isPaused = false;
  }

  answer(frame: EventFrame): void {
    const request = this.#asked.get(frame.id as number);
    if (!request) return;
    this.#asked.delete(frame.id as number);
    request.stopTimer?.();
    const error = frame.error as { code: Code; message: string; retry_after_ms?: number } | undefined;
    if (error) request.reject(new RollcallError(error.code, error.message, error.retry_after_ms));
    else request.resolve(frame.ok);
    this.#flush();
  }

  #flush(): void {
    while (this.#isOpen && !this.#isPaused && this.#waiting.length > 0 && this.#asked.size < MOST_ASKED) {
      const now = performance.now();
      this.#budget = Math.min(Math.max(1, this.#perSecond), this.#budget + ((now - this.#filledAt) / 1000) * this.#perSecond);
      this.#filledAt = now;
      if (this.#budget < 1) {
        this.#isPaused = true;
        this.#timers.after(Math.ceil(((1 - this.#budget) / this.#perSecond) * 1000), () => {
          this.#isPaused = false;
          this.#flush();
        });
        return;
      }
      this.#budget -= 1;
      const request = this.#waiting.shift();
      if (request) this.#send(request);
    }
  }

  #send(request: Request): void {
    request.stopTimer?.();
    const id = this.#nextId++;
    const text = JSON.stringify({ id, ...request.operation });
    // The server would close the socket for a longer frame. As many bytes as there are at least are cheap to know.
    if (text.length > this.#frameBytes / 3 && new TextEncoder().encode(text).length > this.#frameBytes) {
      request.reject(new RollcallError("too_large", `a frame has at most ${this.#frameBytes} bytes: send less`));
      return;
    }
    this.#asked.set(id, request);
    request.stopTimer = this.#timers.after(ANSWER_MS, () => {
      this.#asked.delete(id);
      request.reject(new RollcallError("unavailable", "no answer came"));
      this.#flush();
    });
    this.#write(text);
  }

  #giveUpLater(request: Request): void {
    request.stopTimer = this.#timers.after(this.#waitMs, () => {
      this.#waiting = this.#waiting.filter((other) => other !== request);
      request.reject(new RollcallError("offline", `there was no connection within ${this.#waitMs} ms`));
    });
  }

  #refuse(request: Request, error: RollcallError): void {
    request.stopTimer?.();
    request.reject(error);
  }
}
