import { Emitter, type Unsubscribe } from "./emitter.js";
import { RollcallError, toError } from "./errors.js";
import type { Line } from "./line.js";
import type { EventFrame, UserView } from "./protocol.js";
import { Timers } from "./waiting.js";

/** As many names fit into one operation. */
const MOST_NAMES = 1000;

/** How a user is now, and how before where that was known. */
export interface UserChange {
  readonly user: string;
  readonly view: UserView;
  readonly before: UserView | undefined;
}

export type WatchEvents = {
  change: [changes: readonly UserChange[]];
  error: [error: RollcallError];
  /** Anything in `getSnapshot()` is another. */
  snapshot: [];
};

/** How watched users were at one moment. It is never changed. */
export interface WatchSnapshot {
  readonly users: ReadonlyMap<string, UserView>;
  /** Whether it is up to date. */
  readonly isLive: boolean;
  readonly error: RollcallError | undefined;
}

/** Some users, or everybody, who are watched: how they are, wherever they are. They cannot tell. */
export class Watch {
  /** Resolves when something is known of all of them; rejects where the server refuses. */
  readonly ready: Promise<void>;
  /** @internal */
  readonly emitter = new Emitter<WatchEvents>();
  /** @internal */
  readonly names: Set<string> | undefined;
  /** @internal */
  readonly views = new Map<string, UserView>();
  #people: People;
  #settle!: () => void;
  #reject!: (error: RollcallError) => void;
  #snapshot: WatchSnapshot | undefined;
  #isLive = false;
  #error: RollcallError | undefined;
  #timers = new Timers();
  // Who was there before a reconnect and has not been told of since.
  #doubted = new Set<string>();

  /** @internal `names` undefined: everybody. */
  constructor(people: People, names: readonly string[] | undefined) {
    this.#people = people;
    this.names = names && new Set(names);
    this.ready = new Promise((resolve, reject) => {
      this.#settle = resolve;
      this.#reject = reject;
    });
    this.ready.catch(() => {});
  }

  /** How they are, as of the last event. Of everybody only those who are online. */
  get users(): ReadonlyMap<string, UserView> {
    return this.views;
  }

  on<Name extends keyof WatchEvents>(event: Name, handler: (...args: WatchEvents[Name]) => void): Unsubscribe {
    return this.emitter.on(event, handler);
  }

  /** For stores such as React's `useSyncExternalStore`; bound, like `getSnapshot`. */
  readonly subscribe = (changed: () => void): Unsubscribe => this.emitter.on("snapshot", changed);

  /** The same object until something changes. */
  readonly getSnapshot = (): WatchSnapshot =>
    (this.#snapshot ??= Object.freeze({ users: new Map(this.views), isLive: this.#isLive, error: this.#error }));

  /** Watches these as well. */
  add(users: readonly string[]): void {
    const fresh = users.filter((user) => this.names && !this.names.has(user));
    for (const user of fresh) this.names?.add(user);
    if (fresh.length) void this.#ask(fresh);
  }

  /** Watches these no more. */
  remove(users: readonly string[]): void {
    const gone = users.filter((user) => this.names?.delete(user));
    for (const user of gone) this.views.delete(user);
    this.#people.release(gone);
    this.#touch();
  }

  /** Ends the watch. */
  close(): void {
    this.#timers.stop();
    this.#people.end(this);
    this.#reject(new RollcallError("closed", "this watch was closed"));
    this.emitter.clear();
  }

  /** @internal A connection begins or goes on. */
  opened(): void {
    this.#timers.stop();
    this.#doubted = new Set(this.views.keys());
    void this.#ask(this.names && [...this.names]);
  }

  /** @internal */
  closed(error?: RollcallError): void {
    this.#isLive = false;
    if (error) {
      this.#error = error;
      this.#reject(error);
    }
    this.#touch();
  }

  /** @internal */
  heard(entries: readonly ({ readonly user: string } & UserView)[]): void {
    const changes: UserChange[] = [];
    for (const { user, ...view } of entries) {
      if (this.names && !this.names.has(user)) continue;
      this.#doubted.delete(user);
      const before = this.views.get(user);
      const isGone = !this.names && view.status === "offline";
      if (isGone ? !before : before && JSON.stringify(before) === JSON.stringify(view)) continue;
      if (isGone) this.views.delete(user);
      else this.views.set(user, view);
      changes.push({ user, view, before });
    }
    this.#tell(changes);
    this.check();
  }

  /** @internal */
  fail(error: RollcallError): void {
    this.#error = error;
    this.#isLive = false;
    this.#reject(error);
    this.#touch();
    this.emitter.emit("error", error);
  }

  /** @internal Settles `ready` and `isLive` where everything is known. */
  check(): void {
    if (this.#isLive || !this.names || this.#doubted.size > 0) return;
    for (const name of this.names) if (!this.views.has(name)) return;
    this.#goLive();
  }

  async #ask(users: readonly string[] | undefined): Promise<void> {
    if (this.#people.line.state !== "open") return;
    try {
      if (users === undefined) {
        await this.#people.line.ask({ op: "watch", all_users: true });
        this.#allTold();
      }
      for (let at = 0; users && at < users.length; at += MOST_NAMES) {
        await this.#people.line.ask({ op: "watch", users: users.slice(at, at + MOST_NAMES) });
      }
      this.check();
    } catch (error) {
      const why = toError(error);
      if (!why.isPassing) this.fail(why);
      else if (this.#people.line.state === "open") this.#timers.after(why.retryAfterMs ?? 1000, () => void this.#ask(users));
    }
  }

  /** Who is not in the whole list is not online any more. */
  #allTold(): void {
    const changes = [...this.#doubted].map((user) => ({ user, view: { status: "offline" } as const, before: this.views.get(user) }));
    this.#doubted.clear();
    for (const { user } of changes) this.views.delete(user);
    this.#tell(changes);
    this.#goLive();
  }

  #goLive(): void {
    this.#isLive = true;
    this.#error = undefined;
    this.#settle();
    this.#touch();
  }

  #tell(changes: readonly UserChange[]): void {
    if (changes.length === 0) return;
    this.#touch();
    this.emitter.emit("change", changes);
  }

  #touch(): void {
    this.#snapshot = undefined;
    this.emitter.emit("snapshot");
  }
}

/** The watches of users that a client has. */
export class People {
  readonly line: Line;
  #watches = new Set<Watch>();

  constructor(line: Line) {
    this.line = line;
  }

  watch(names: readonly string[] | undefined): Watch {
    const watch = new Watch(this, names);
    this.#watches.add(watch);
    if (this.line.state === "open") watch.opened();
    return watch;
  }

  /** Once, without watching. */
  async get(users: readonly string[]): Promise<Map<string, UserView>> {
    const found = new Map<string, UserView>();
    for (let at = 0; at < users.length; at += MOST_NAMES) {
      const answer = (await this.line.ask({ op: "get", users: users.slice(at, at + MOST_NAMES) }, true)) as { users: Record<string, UserView> };
      for (const [user, view] of Object.entries(answer.users)) found.set(user, view);
    }
    return found;
  }

  end(watch: Watch): void {
    if (!this.#watches.delete(watch)) return;
    if (watch.names) this.release([...watch.names]);
    else if (![...this.#watches].some((other) => !other.names)) this.line.ask({ op: "unwatch", all_users: true }).catch(() => {});
  }

  /** These are watched no more, unless another watch wants them. */
  release(users: readonly string[]): void {
    const ended = users.filter((user) => ![...this.#watches].some((other) => other.names?.has(user)));
    for (let at = 0; at < ended.length; at += MOST_NAMES) {
      this.line.ask({ op: "unwatch", users: ended.slice(at, at + MOST_NAMES) }).catch(() => {});
    }
  }

  opened(): void {
    for (const watch of this.#watches) watch.opened();
  }

  closed(error?: RollcallError): void {
    for (const watch of this.#watches) watch.closed(error);
  }

  heard(frame: EventFrame): void {
    for (const watch of [...this.#watches]) watch.heard(frame.users as ({ user: string } & UserView)[]);
  }

  fail(error: RollcallError): void {
    for (const watch of [...this.#watches]) watch.fail(error);
  }
}
