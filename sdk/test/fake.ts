// A server, locks and a radio that the test moves, in the place of real ones.

import { mock } from "node:test";

import { Rollcall, type RollcallOptions } from "@rollcall/client";

import type { Socket } from "../dist/socket.js";

export type Frame = Record<string, unknown>;

/** What happened is done when this resolves: promises have been carried on, and messages between tabs delivered. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 8; turn++) await new Promise((resolve) => setImmediate(resolve));
}

let now = 1000;

/** Time stands still from here on, until the test lets it pass. */
export function stopClock(): void {
  now = 1000;
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1_700_000_000_000 });
  mock.method(performance, "now", () => now);
  mock.method(Math, "random", () => 0.5);
}

export function startClock(): void {
  mock.timers.reset();
  mock.restoreAll();
}

export async function pass(ms: number): Promise<void> {
  // In steps, for what a timer begins may begin another.
  for (let left = ms; left > 0; left -= 250) {
    const step = Math.min(250, left);
    now += step;
    mock.timers.tick(step);
    await settle();
  }
}

/** Nobody has connected, and time stands still. */
export function startOver(): void {
  FakeSocket.all = [];
  FakeSocket.answersPings = true;
  stopClock();
}

/** A client that has been welcomed. */
export async function opened(options: Partial<RollcallOptions> = {}): Promise<Rollcall> {
  const client = new Rollcall({ url: "http://there", token: () => "h.e30.s", WebSocket: FakeSocket, ...options });
  await settle();
  await FakeSocket.last.welcome("r1");
  return client;
}

/** The client's side of a socket; the test is the server. */
export class FakeSocket implements Socket {
  static all: FakeSocket[] = [];
  static answersPings = true;
  onopen: Socket["onopen"] = null;
  onmessage: Socket["onmessage"] = null;
  onclose: Socket["onclose"] = null;
  onerror: Socket["onerror"] = null;
  readonly sent: Frame[] = [];
  closedWith: number | undefined;

  constructor(
    readonly url: string,
    readonly protocol: string,
  ) {
    FakeSocket.all.push(this);
  }

  static get last(): FakeSocket {
    const last = FakeSocket.all.at(-1);
    if (!last) throw new Error("nobody has connected");
    return last;
  }

  send(text: string): void {
    const frame = JSON.parse(text) as Frame;
    this.sent.push(frame);
    if (frame.op === "ping" && FakeSocket.answersPings) setImmediate(() => this.hear({ id: frame.id, ok: { server_time: Date.now() } }));
  }

  close(code?: number): void {
    this.closedWith = code;
  }

  hear(frame: unknown): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  breaks(code = 1006, reason = ""): void {
    this.onclose?.({ code, reason });
  }

  /** The newest frame with this operation. */
  asked(op: string): Frame {
    const found = this.sent.filter((frame) => frame.op === op).at(-1);
    if (!found) throw new Error(`no ${op} among ${JSON.stringify(this.sent)}`);
    return found;
  }

  count(op: string): number {
    return this.sent.filter((frame) => frame.op === op).length;
  }

  /** Answers the newest frame with this operation. */
  async answer(op: string, ok: unknown = {}): Promise<Frame> {
    await settle();
    const asked = this.asked(op);
    this.hear({ id: asked.id, ok });
    await settle();
    return asked;
  }

  async refuse(op: string, error: Frame): Promise<void> {
    await settle();
    this.hear({ id: this.asked(op).id, error: { message: "no", ...error } });
    await settle();
  }

  /** Opens, and welcomes whoever says hello. The answer is that hello. */
  async welcome(resume: string, more: Frame = {}): Promise<Frame> {
    this.onopen?.(undefined as never);
    await settle();
    const limits = { frame_bytes: 65_536, operations_per_second: 50 };
    const known = { ping_ms: 25_000, grace_ms: 15_000, server_time: Date.now(), limits, features: [] };
    const welcome = { connection: "c", user: "ann", resumed: false, channels: [], resume, ...known };
    return this.answer("hello", { ...welcome, ...more });
  }
}

/** Locks as a browser has them: one holder, and others in the order in which they asked. */
export class FakeLocks {
  #held = new Map<string, (() => void)[]>();

  /** A tab's own view of the locks, and what takes it away with all that it holds. */
  tab(): { locks: Pick<LockManager, "request">; crash: () => void } {
    const releases = new Set<() => void>();
    let isGone = false;
    const request = async (name: string, options: { signal?: AbortSignal }, then: () => unknown): Promise<unknown> => {
      const mine = { isIn: false, isOver: false };
      const queue = this.#held.get(name) ?? [];
      this.#held.set(name, queue);
      await new Promise<void>((resolve, reject) => {
        queue.push(resolve);
        if (queue.length === 1) resolve();
        options.signal?.addEventListener("abort", () => {
          if (mine.isIn) return;
          queue.splice(queue.indexOf(resolve), 1);
          mine.isOver = true;
          reject(new Error("aborted"));
        });
      });
      mine.isIn = true;
      const leave = () => {
        if (mine.isOver) return;
        mine.isOver = true;
        queue.shift();
        queue[0]?.();
      };
      releases.add(leave);
      if (isGone) return leave();
      await then();
      leave();
      return undefined;
    };
    return {
      locks: { request: request as LockManager["request"] },
      crash: () => {
        isGone = true;
        for (const release of releases) release();
      },
    };
  }
}

/** A radio among the tabs of one test. A tab that crashed neither hears nor says anything. */
export class FakeRadio {
  #stations = new Set<{ name: string; onmessage: ((event: { data: unknown }) => void) | null }>();

  tab(): { BroadcastChannel: typeof BroadcastChannel; crash: () => void } {
    const stations = this.#stations;
    const mine = new Set<{ name: string }>();
    let isGone = false;
    class Station {
      onmessage: ((event: { data: unknown }) => void) | null = null;

      constructor(readonly name: string) {
        stations.add(this);
        mine.add(this);
      }

      postMessage(message: unknown): void {
        if (isGone || !stations.has(this)) return;
        const data = structuredClone(message);
        for (const other of stations) {
          if (other !== this && other.name === this.name) setImmediate(() => stations.has(other as Station) && other.onmessage?.({ data }));
        }
      }

      close(): void {
        stations.delete(this);
      }
    }
    return {
      BroadcastChannel: Station as unknown as typeof BroadcastChannel,
      crash: () => {
        isGone = true;
        for (const station of mine) stations.delete(station as Station);
      },
    };
  }
}
