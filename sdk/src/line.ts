import { RollcallError } from "./errors.js";
import { Link, type LinkOptions, type State } from "./link.js";
import type { EventFrame, Operation, Welcome } from "./protocol.js";
import type { Tabs } from "./tabs.js";

/** What of the browser several tabs need to find each other. */
export interface Platform {
  readonly locks?: Pick<LockManager, "request"> | undefined;
  readonly BroadcastChannel?: typeof BroadcastChannel | undefined;
}

export interface LineOptions extends LinkOptions {
  /** Whether tabs of one user share a connection, where they can. */
  readonly isShared: boolean;
  readonly platform: Platform;
}

export interface LineListener {
  turned(): void;
  /** A connection begins or goes on: whatever is wanted has to be asked for again. */
  opened(welcome: Welcome): void;
  heard(frame: EventFrame): void;
  failed(error: RollcallError): void;
}

/** A client's line to the server: a link of its own, or one that it shares with other tabs. */
export class Line {
  #options: LineOptions;
  #listener: LineListener;
  #link: Link | undefined;
  #tabs: Tabs | undefined;
  #turn = 0;
  // What is needed to share is loaded where it can be used only.
  #loading: Promise<unknown> | undefined;

  constructor(options: LineOptions, listener: LineListener) {
    this.#options = options;
    this.#listener = listener;
  }

  get state(): State {
    return this.#one?.state ?? (this.#loading ? "connecting" : "off");
  }

  get error(): RollcallError | undefined {
    return this.#one?.error;
  }

  get welcome(): Welcome | undefined {
    return this.#one?.welcome;
  }

  /** Whether the socket is in this tab. */
  get isLeader(): boolean {
    return this.#tabs ? this.#tabs.isLeader : this.#link !== undefined;
  }

  start(): void {
    const { locks, BroadcastChannel } = this.#options.platform;
    if (this.#one) this.#one.start();
    else if (this.#loading) return;
    else if (this.#options.isShared && locks && BroadcastChannel) this.#loading = this.#share(locks, BroadcastChannel);
    else this.#alone();
  }

  /** Asks for an operation. One that `waits` is kept for a while where there is no connection; another is refused as `offline` then. */
  async ask(operation: Operation, waits = false): Promise<unknown> {
    if (waits && !this.#one) await this.#loading;
    if (!this.#one) throw new RollcallError("closed", "this client does not connect: call `connect`");
    return this.#one.ask(operation, waits);
  }

  /** The place in a channel was kept over a reconnect. Only tabs that share have to know of each other's. */
  async hold(channel: string): Promise<unknown> {
    return this.#tabs?.ask({ op: "hold", channel }, false) ?? {};
  }

  hurry(): void {
    this.#one?.hurry();
  }

  /** Stops with a goodbye; `isPause`: without, for a page that the browser keeps. */
  stop(isPause = false): void {
    this.#turn++;
    this.#loading = undefined;
    if (this.#tabs) this.#tabs.stop(isPause);
    else this.#link?.stop(!isPause);
  }

  get #one(): Tabs | Link | undefined {
    return this.#tabs ?? this.#link;
  }

  #alone(): void {
    this.#link = new Link(this.#options, { ...this.#listener, welcomed: (welcome) => this.#listener.opened(welcome) });
    this.#link.start();
  }

  async #share(locks: Pick<LockManager, "request">, Radio: typeof BroadcastChannel): Promise<void> {
    const turn = this.#turn;
    this.#listener.turned();
    try {
      const { Tabs } = await import("./tabs.js");
      if (turn !== this.#turn) return;
      this.#tabs = new Tabs(this.#options, this.#listener, locks, Radio);
      this.#tabs.start();
    } catch {
      // The part that shares could not be loaded: presence matters more.
      if (turn === this.#turn) this.#alone();
    }
  }
}
