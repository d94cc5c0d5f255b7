import { Channel, Room } from "./channel.js";
import { Emitter, type Unsubscribe } from "./emitter.js";
import { RollcallError } from "./errors.js";
import { Line, type Platform } from "./line.js";
import type { State as ConnectionState, TokenSource } from "./link.js";
import { watchPage } from "./page.js";
import { People, type Watch } from "./people.js";
import type { EventFrame, Json, Level, Status, UserView, Welcome } from "./protocol.js";
import type { SocketClass } from "./socket.js";
import { Typist } from "./typist.js";
import { View, type JoinOptions } from "./view.js";

/** How a client connects. */
export interface RollcallOptions {
  /** The server, such as `https://presence.example`. Left out, it is the one that the page comes from. */
  readonly url?: string;
  /** Answers a token of the user from your own server. It is called again before the token ends. */
  readonly token: TokenSource;
  /** What this runs on, such as `web`; shown to watchers of connections. */
  readonly device?: string;
  /** `false`: watches and asks only, and is counted and shown nowhere. */
  readonly present?: boolean;
  /** Whether tabs of one user share one connection: true unless it is said otherwise, in pages that can. */
  readonly share?: boolean;
  /**
   * Whether a page that goes says goodbye, which is a leave at once: false unless it is said otherwise. A page cannot tell its end from a
   * reload, which would be a leave and a join then; without, neither is seen but the end, when the grace is over.
   */
  readonly goodbye?: boolean;
  /** How long what is asked for once (`get`, `send`, `setStatus`) waits for a connection before it fails as `offline`, milliseconds. */
  readonly waitMs?: number;
  /** A WebSocket constructor, where neither the environment nor the package `ws` has one. */
  readonly WebSocket?: SocketClass;
  /** Whether to connect at once: true unless it is said otherwise. */
  readonly connect?: boolean;
  /** @internal For tests. */
  readonly platform?: Platform;
}

export type ClientEvents = {
  /** The connection is in another state. */
  state: [state: ConnectionState];
  /** Something failed that no handle stands for; what passes is tried again by itself. */
  error: [error: RollcallError];
  /** Somebody types to this user. */
  typing: [typing: { readonly user: string; readonly typing: boolean }];
  /** An app server put this connection into a channel. `join` it to have a handle. */
  joined: [channel: string];
  /** An app server took this connection out of a channel. */
  left: [channel: string, reason: string];
};

/** A client of Rollcall: one connection, which keeps itself up, and what is joined and watched through it. */
export class Rollcall {
  readonly users: {
    /** How these users are, once. */
    get(users: readonly string[]): Promise<Map<string, UserView>>;
    /** Changes what is shown of the own user, whether online or not, by a merge patch. */
    update(patch: Json): Promise<void>;
  };
  #line: Line;
  #people: People;
  #emitter = new Emitter<ClientEvents>();
  #views = new Map<string, View<unknown>>();
  #typists = new Map<string, Typist>();
  #goodbye: boolean;
  #endPage: () => void = () => {};
  #isStarted = false;
  #isClosed = false;

  constructor(options: RollcallOptions) {
    const { device, present, share, WebSocket, waitMs = 10_000 } = options;
    const hasPage = typeof document !== "undefined";
    this.#line = new Line(
      {
        url: socketUrl(options.url),
        token: options.token,
        WebSocket,
        hello: { ...(device !== undefined && { device }), ...(present === false && { present }) },
        waitMs,
        isShared: share ?? hasPage,
        platform: options.platform ?? { locks: globalThis.navigator?.locks, BroadcastChannel: globalThis.BroadcastChannel },
      },
      {
        turned: () => this.#turned(),
        opened: ({ channels }) => this.#opened(channels),
        heard: (frame) => this.#heard(frame),
        failed: (error) => this.#emitter.emit("error", error),
      },
    );
    this.#goodbye = options.goodbye ?? false;
    this.#people = new People(this.#line);
    this.users = {
      get: (users) => this.#people.get(users),
      update: async (patch) => void (await this.#line.ask({ op: "update", state: patch }, true)),
    };
    if (options.connect !== false) this.connect();
  }

  get state(): ConnectionState {
    return this.#line.state;
  }

  /** Why there is no connection. */
  get error(): RollcallError | undefined {
    return this.#line.error;
  }

  /** What the server said last: the user, the connection, its limits and what it can do. */
  get welcome(): Welcome | undefined {
    return this.#line.welcome;
  }

  /** Whether this tab has the connection that others may share. */
  get isLeader(): boolean {
    return this.#line.isLeader;
  }

  on<Name extends keyof ClientEvents>(event: Name, handler: (...args: ClientEvents[Name]) => void): Unsubscribe {
    return this.#emitter.on(event, handler);
  }

  /** For stores such as React's `useSyncExternalStore`: tells of every change of `state`. */
  readonly subscribe = (changed: () => void): Unsubscribe => this.#emitter.on("state", changed);
  readonly getSnapshot = (): ConnectionState => this.#line.state;

  /** Connects, after `connect: false`, after the server had refused for good, or after `close`. */
  connect(): void {
    this.#isClosed = false;
    if (!this.#isStarted) {
      this.#isStarted = true;
      const listener = {
        active: () => this.active(),
        hurry: () => this.#line.hurry(),
        hidden: (isPause: boolean) => this.#line.stop(isPause),
        shown: () => this.#line.start(),
      };
      this.#endPage = watchPage(listener, this.#goodbye);
    }
    this.#line.start();
  }

  /** Joins a channel, and watches it unless `watch` is false. Each call gives a handle; the last that leaves ends it. */
  join<State = Json>(channel: string, options: JoinOptions<State> = {}): Room<State> {
    const view = this.#view<State>(channel);
    const room = new Room(view, this.#line, options);
    view.add(room, room.level);
    view.join(room, options);
    view.watch();
    return room;
  }

  /** Watches a channel without being in it. */
  channel<State = Json>(channel: string, options: { readonly level?: Level } = {}): Channel<State> {
    const view = this.#view<State>(channel);
    const handle = new Channel(view, this.#line, options.level ?? "users");
    view.add(handle, handle.level);
    view.watch();
    return handle;
  }

  /** Says something to everybody who watches the channel just now, at most once, without watching it. `echo`: to this client too. */
  async send(channel: string, data: unknown, options: { readonly echo?: boolean } = {}): Promise<void> {
    await this.#line.ask({ op: "send", channel, data, ...(options.echo && { echo: true }) }, true);
  }

  /** Watches users, wherever they are; or everybody with `"everybody"`, where the token allows it. */
  watch(users: readonly string[] | "everybody"): Watch {
    this.#check();
    return this.#people.watch(users === "everybody" ? undefined : users);
  }

  /** Chooses how this user is shown, on all devices, until another is chosen; null: as the devices say. */
  async setStatus(status: Status | null, options: { readonly text?: string; readonly until?: number | Date } = {}): Promise<void> {
    const { text, until } = options;
    const operation = { op: "status", status, ...(text !== undefined && { text }), ...(until !== undefined && { until: Number(until) }) };
    await this.#line.ask(operation, true);
  }

  /**
   * How a user is, and in which channels: of those that this client watches, for a client is told of no others. App servers are told
   * all of them, by `GET /v1/users/{user}`.
   */
  async where(user: string): Promise<UserView & { readonly channels: readonly string[] }> {
    const view = (await this.#people.get([user])).get(user) ?? { status: "offline" as const };
    return { ...view, channels: [...this.#views.values()].filter((one) => one.has(user)).map((one) => one.name) };
  }

  /** Says to a user that one types to them: for every key that is pressed. */
  typingTo(user: string, isTyping = true): void {
    this.#check();
    const failed = (error: unknown) => error instanceof RollcallError && !error.isPassing && this.#emitter.emit("error", error);
    let typist = this.#typists.get(user);
    if (!typist) this.#typists.set(user, (typist = new Typist(this.#line, { to: user }, failed)));
    typist.type(isTyping);
  }

  /** Says that the user is active. A page says so by itself, of pointer and keys. */
  active(): void {
    this.#line.ask({ op: "active" }).catch(() => {});
  }

  /** Leaves everywhere at once and ends all handles. */
  close(): void {
    this.#isClosed = true;
    this.#isStarted = false;
    this.#endPage();
    const error = new RollcallError("closed", "this client was closed");
    const views = [...this.#views.values()];
    this.#views.clear();
    for (const view of views) view.end(error);
    this.#people.fail(error);
    this.#line.stop();
  }

  #check(): void {
    if (this.#isClosed) throw new RollcallError("closed", "this client was closed: call `connect` first");
  }

  #view<State>(name: string): View<State> {
    this.#check();
    let view = this.#views.get(name);
    if (!view) this.#views.set(name, (view = new View<unknown>(name, this.#line, () => this.#views.get(name) === view && this.#views.delete(name))));
    return view as View<State>;
  }

  #turned(): void {
    const { state, error } = this.#line;
    if (state !== "open") {
      const ended = state === "ended" ? error : undefined;
      for (const view of this.#views.values()) view.closed(ended);
      for (const typist of this.#typists.values()) typist.forget();
      this.#typists.clear();
      this.#people.closed(ended);
    }
    this.#emitter.emit("state", state);
    if (state === "ended" && error) this.#emitter.emit("error", error);
  }

  #opened(channels: readonly string[]): void {
    for (const view of [...this.#views.values()]) view.opened(channels);
    this.#people.opened();
  }

  #heard(frame: EventFrame): void {
    const { event, channel } = frame;
    if (event === "users") return this.#people.heard(frame);
    if (event === "typing" && channel === undefined) {
      return this.#emitter.emit("typing", { user: frame.user as string, typing: Boolean(frame.typing) });
    }
    if (channel === undefined || frame.pattern !== undefined) return;
    this.#views.get(channel)?.heard(frame);
    if (event === "joined") this.#emitter.emit("joined", channel);
    if (event === "left") this.#emitter.emit("left", channel, String(frame.reason));
  }
}

function socketUrl(url = String(globalThis.location?.origin)): string {
  const address = new URL(url);
  address.protocol = address.protocol.replace(/^http/, "ws");
  if (address.pathname === "/") address.pathname = "/v1/ws";
  return address.href;
}
