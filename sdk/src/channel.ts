import { Emitter, type Unsubscribe } from "./emitter.js";
import { RollcallError } from "./errors.js";
import type { Line } from "./line.js";
import type { Json, Leave, Level, Member, Mode, Occupancy, Reason, Signal } from "./protocol.js";
import type { Change } from "./roster.js";
import type { ChannelSnapshot, JoinOptions, View } from "./view.js";

/** What a channel tells. When a handler is called `members` is already as the event says. */
export type ChannelEvents<State> = {
  join: [member: Member<State>];
  update: [member: Member<State>, before: Member<State>];
  leave: [leave: Leave<State>];
  /** All of one change together, after its parts. `isFirst`: the list begins, and nobody in it has just come. */
  change: [change: Change<State>];
  typing: [typing: { readonly user: string; readonly typing: boolean }];
  signal: [signal: Signal];
  /** This user was taken out of the channel, by an app server for example. A watch goes on; to be back, join again. */
  left: [reason: Reason];
  error: [error: RollcallError];
  /** Anything in `getSnapshot()` is another. */
  snapshot: [];
};

/** A channel that is watched, without being in it. */
export class Channel<State = Json> {
  /** Resolves when what is shown is up to date for the first time; rejects where the server refuses, or when it is closed before. */
  readonly ready: Promise<void>;
  /** @internal */
  readonly emitter = new Emitter<ChannelEvents<State>>();
  /** @internal Settles `ready`. */
  begin!: () => void;
  /** @internal */
  refuse!: (error: RollcallError) => void;
  #isClosed = false;
  protected readonly view: View<State>;
  protected readonly line: Line;

  /** @internal `level` undefined: nothing is watched. */
  constructor(
    view: View<State>,
    line: Line,
    readonly level: Level | undefined,
  ) {
    this.view = view;
    this.line = line;
    this.ready = new Promise((resolve, reject) => {
      this.begin = resolve;
      this.refuse = reject;
    });
    // Whoever does not wait for it hears of a refusal by the event.
    this.ready.catch(() => {});
  }

  get name(): string {
    return this.view.name;
  }

  /** Who is here, as of the last event. By user; at the level `connections` by connection. */
  get members(): ReadonlyMap<string, Member<State>> {
    return this.view.roster.members;
  }

  get occupancy(): Occupancy {
    return this.view.roster.occupancy;
  }

  /** `occupancy`: the channel is too large for a list, `members` is empty and `pages` asks for those who are to be seen. */
  get mode(): Mode {
    return this.view.roster.mode;
  }

  get isLive(): boolean {
    return this.view.isLive;
  }

  /** Calls `handler` for each such event until the answered function is called, or this is closed. */
  on<Name extends keyof ChannelEvents<State>>(event: Name, handler: (...args: ChannelEvents<State>[Name]) => void): Unsubscribe {
    return this.emitter.on(event, handler);
  }

  /** For stores such as React's `useSyncExternalStore`; bound, like `getSnapshot`. */
  readonly subscribe = (changed: () => void): Unsubscribe => this.emitter.on("snapshot", changed);

  /** The same object until something changes. */
  readonly getSnapshot = (): ChannelSnapshot<State> => this.view.snapshot;

  /** Who is here, page by page, at one version: for channels that are too large to be watched as a list. */
  async *pages(limit = 100): AsyncGenerator<readonly Member<State>[], void, undefined> {
    let cursor: string | null = null;
    do {
      const operation: { op: string } & Json = { op: "get", channel: this.name, members: true, limit, ...(cursor !== null && { cursor }) };
      const page = (await this.line.ask(operation, true)) as { members: Member<State>[]; next: string | null };
      cursor = page.next;
      yield page.members;
    } while (cursor !== null);
  }

  /** Says something to everybody who watches just now, at most once; it is not kept. `echo`: to this client too. */
  async send(data: unknown, options: { readonly echo?: boolean } = {}): Promise<void> {
    this.check();
    this.view.typist.type(false);
    await this.line.ask({ op: "send", channel: this.name, data, ...(options.echo && { echo: true }) }, true);
  }

  /** Gives this handle back. The watch ends with the last one. */
  close(): void {
    void this.end();
  }

  /** @internal */
  fail(error: RollcallError): void {
    this.refuse(error);
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.emitter.emit("error", error);
  }

  protected check(): void {
    if (this.#isClosed) throw new RollcallError("closed", `this handle of \`${this.name}\` was given back`);
  }

  protected async end(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.refuse(new RollcallError("closed", `this handle of \`${this.name}\` was given back`));
    await this.view.drop(this);
    this.emitter.clear();
  }
}

/** A channel that one is in. */
export class Room<State = Json> extends Channel<State> {
  /** @internal */
  constructor(view: View<State>, line: Line, options: JoinOptions<State>) {
    super(view, line, options.watch === false ? undefined : (options.level ?? "users"));
  }

  /** What this client shows of itself here. */
  get state(): State {
    return this.view.state;
  }

  /**
   * Changes the own state by a merge patch; null takes a field away. Without a connection it waits for the next, and resolves when the
   * server has it.
   */
  async update(patch: { readonly [Field in keyof State]?: State[Field] | null }): Promise<void> {
    this.check();
    await this.view.update(patch as Json);
  }

  /** To be called for every key that is pressed: says that one types, again while it goes on, and that it ended. */
  typing(isTyping = true): void {
    this.check();
    this.view.typist.type(isTyping);
  }

  /** Gives this handle back. The last one leaves, at once and for everybody to see. */
  leave(): Promise<void> {
    return this.end();
  }
}
