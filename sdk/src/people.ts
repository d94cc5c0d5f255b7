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

type Entry = { readonly user: string } & UserView;

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
  // Who was there before a reconnect, or a list that is told anew, and has not been told of since.
  #doubted = new Set<string>();
  #isListing = false;
  #waiting = new Set<{ readonly users: readonly string[]; readonly resolve: () => void }>();

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

  /** Watches these as well. Resolves when something is known of each; rejects where the server refuses one, and the others are watched. */
  async add(users: readonly string[]): Promise<void> {
    const fresh = users.filter((user) => this.names && !this.names.has(user));
    for (const user of fresh) this.names?.add(user);
    if (fresh.length === 0) return;
    this.#isLive = false;
    this.#touch();
    // Without a connection they are asked for together with the rest by the next.
    const refusal = await this.#ask(fresh);
    await new Promise<void>((resolve) => {
      this.#waiting.add({ users: fresh, resolve });
      this.check();
    });
    const isRefused = this.#people.line.state === "ended" || fresh.some((user) => !this.names?.has(user));
    if (refusal || (isRefused && this.#error)) throw refusal ?? this.#error;
  }

  /** Watches these no more. */
  remove(users: readonly string[]): void {
    const gone = users.filter((user) => this.names?.delete(user));
    for (const user of gone) this.views.delete(user);
    this.#people.release(gone);
    this.check();
    this.#touch();
  }

  /** Ends the watch. */
  close(): void {
    this.#timers.stop();
    this.#people.end(this);
    this.check();
    this.#reject(new RollcallError("closed", "this watch was closed"));
    this.emitter.clear();
  }

  /** @internal A connection begins or goes on. */
  opened(): void {
    this.#timers.stop();
    this.#isListing = false;
    this.#doubted = new Set(this.views.keys());
    void this.#askAll();
  }

  /** @internal */
  closed(error?: RollcallError): void {
    this.#isLive = false;
    if (error) {
      this.#error = error;
      this.#reject(error);
      this.check();
    }
    this.#touch();
  }

  /** @internal */
  heard(entries: readonly Entry[], page?: { readonly more: boolean }): void {
    if (page && !this.names && !this.#isListing) this.#doubted = new Set(this.views.keys());
    if (page) this.#isListing = page.more;
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
    // Who is not in the whole list is not online any more.
    if (page && !this.names && !page.more) {
      for (const user of this.#doubted) changes.push({ user, view: { status: "offline" }, before: this.views.get(user) });
      for (const user of this.#doubted) this.views.delete(user);
      this.#doubted.clear();
    }
    this.#tell(changes);
    if (page && !this.names && !page.more) this.#goLive();
    else this.check();
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
    const isKnown = (user: string) => this.views.has(user) || !this.names?.has(user);
    const isOver = this.#people.line.state === "ended" || !this.#people.has(this);
    for (const entry of this.#waiting) {
      if (!isOver && !entry.users.every(isKnown)) continue;
      this.#waiting.delete(entry);
      entry.resolve();
    }
    if (!isOver && !this.#isLive && this.names && this.#doubted.size === 0 && [...this.names].every(isKnown)) this.#goLive();
  }

  async #askAll(): Promise<void> {
    const refusal = await this.#ask(this.names && [...this.names]);
    if (refusal) this.fail(refusal);
    this.check();
  }

  /** Asks for these. Those that the server refuses are not among the names any more, and the answer says why. */
  async #ask(users: readonly string[] | undefined): Promise<RollcallError | undefined> {
    const people = this.#people;
    if (people.line.state !== "open") return undefined;
    try {
      if (users === undefined) return void (await people.askForAll(this));
      const refused = await people.askFor(users);
      // Of those whom another watch shows already the server may have nothing more to say.
      this.heard(people.known(users));
      const mine = users.filter((user) => refused.has(user));
      for (const user of mine) this.names?.delete(user);
      return mine[0] === undefined ? undefined : refused.get(mine[0]);
    } catch (error) {
      const why = toError(error);
      if (!why.isPassing) return why;
      if (people.line.state === "open") this.#timers.after(why.retryAfterMs ?? 1000, () => void this.#askAll());
      return undefined;
    }
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
  // Names that watches want just now, which are asked for together: a page may have a watch for each user.
  #wanted = new Set<string>();
  #asking: Promise<Map<string, RollcallError>> | undefined;
  // And those that watches have let go of just now, for the same reason.
  #released = new Set<string>();

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

  has(watch: Watch): boolean {
    return this.#watches.has(watch);
  }

  end(watch: Watch): void {
    if (!this.#watches.delete(watch)) return;
    if (watch.names) this.release([...watch.names]);
    else if (![...this.#watches].some((other) => !other.names)) this.line.ask({ op: "unwatch", all_users: true }).catch(() => {});
  }

  /** Asks for everybody, from the beginning also where another watch of them is told already. */
  async askForAll(watch: Watch): Promise<void> {
    if ([...this.#watches].some((other) => other !== watch && !other.names)) await this.line.ask({ op: "unwatch", all_users: true }).catch(() => {});
    await this.line.ask({ op: "watch", all_users: true });
  }

  /** Asks for these, and answers who was refused. */
  askFor(users: readonly string[]): Promise<ReadonlyMap<string, RollcallError>> {
    for (const user of users) this.#wanted.add(user);
    return (this.#asking ??= Promise.resolve().then(async () => {
      const wanted = [...this.#wanted];
      this.#wanted.clear();
      this.#asking = undefined;
      const refused = new Map<string, RollcallError>();
      for (let at = 0; at < wanted.length; at += MOST_NAMES) await this.#askFor(wanted.slice(at, at + MOST_NAMES), refused);
      return refused;
    }));
  }

  async #askFor(users: readonly string[], refused: Map<string, RollcallError>): Promise<void> {
    try {
      await this.line.ask({ op: "watch", users });
    } catch (error) {
      const why = toError(error);
      if (why.isPassing) throw why;
      if (why.code === "forbidden" && users.length > 1) {
        // One who may not be watched is no reason not to watch the others: the halves find out who it is.
        const middle = users.length >> 1;
        await this.#askFor(users.slice(0, middle), refused);
        return this.#askFor(users.slice(middle), refused);
      }
      for (const user of users) refused.set(user, why);
    }
  }

  /** What is known of these by any watch that is up to date. */
  known(users: readonly string[]): Entry[] {
    const found = new Map<string, Entry>();
    for (const watch of this.#watches) {
      if (!watch.getSnapshot().isLive) continue;
      for (const user of users) {
        const view = watch.views.get(user);
        if (view) found.set(user, { user, ...view });
      }
    }
    return [...found.values()];
  }

  /** These are watched no more, unless another watch wants them by the time that it is said. */
  release(users: readonly string[]): void {
    for (const user of users) this.#released.add(user);
    queueMicrotask(() => this.#release());
  }

  #release(): void {
    const ended = [...this.#released].filter((user) => ![...this.#watches].some((other) => other.names?.has(user)));
    this.#released.clear();
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
    const page = frame.all_users ? { more: Boolean(frame.more) } : undefined;
    for (const watch of [...this.#watches]) watch.heard(frame.users as Entry[], page);
  }

  /** The client ended, and its watches with it. */
  fail(error: RollcallError): void {
    const watches = [...this.#watches];
    this.#watches.clear();
    for (const watch of watches) {
      watch.fail(error);
      watch.check();
    }
  }
}
