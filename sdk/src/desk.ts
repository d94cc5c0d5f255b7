import { RollcallError, toError } from "./errors.js";
import type { Link } from "./link.js";
import type { EventFrame, Json, Level, Operation, Welcome } from "./protocol.js";

/** Activity of all tabs together is told this often at most, milliseconds. */
const ACTIVE_MS = 25_000;

const RANK: Record<Level, number> = { occupancy: 0, users: 1, connections: 2 };

/** One link for several tabs: each asks as if it were alone, and what two of them hold ends with the second. */
export class Desk {
  #link: Link;
  #tell: (tab: string, frame: EventFrame) => void;
  #places = new Map<string, Set<string>>();
  #watches = new Map<string, { level: Level; tabs: Set<string> }>();
  #users = new Map<string, Set<string>>();
  #views = new Map<string, Json>();
  #everybody = new Set<string>();
  // Left without an answer: looked at again with the next welcome.
  #leaving = new Set<string>();
  #activeAt = -ACTIVE_MS;

  constructor(link: Link, tell: (tab: string, frame: EventFrame) => void) {
    this.#link = link;
    this.#tell = tell;
  }

  /** The channels that somebody here is in. */
  get channels(): string[] {
    return [...this.#places.keys()];
  }

  ask(tab: string, operation: Operation, waits: boolean): Promise<unknown> {
    const { op, channel, users } = operation as { op: string; channel?: string; users?: string[] };
    if ((op === "join" || op === "hold") && channel !== undefined) return this.#join(tab, channel, operation);
    if (op === "leave" && channel !== undefined) return this.#leave(tab, channel);
    if (op === "watch" && channel !== undefined) return this.#watch(tab, channel, operation);
    if (op === "unwatch" && channel !== undefined) return this.#unwatch(tab, channel);
    if (op === "watch" && users) return this.#watchUsers(tab, users);
    if (op === "unwatch" && users) return this.#unwatchUsers(tab, users);
    if (op === "watch" && operation.all_users) return this.#watchEverybody(tab);
    if (op === "unwatch" && operation.all_users) return this.#unwatchEverybody(tab);
    if (op === "active") return this.#active();
    if (op === "send" && channel !== undefined) return this.#send(tab, channel, operation, waits);
    return this.#link.ask(operation, waits);
  }

  /** A tab is gone: what it alone held ends. */
  drop(tab: string): void {
    const unheard = (answer: Promise<unknown>) => void answer.catch(() => {});
    for (const [channel, tabs] of [...this.#places]) if (tabs.has(tab)) unheard(this.#leave(tab, channel));
    for (const [channel, { tabs }] of [...this.#watches]) if (tabs.has(tab)) unheard(this.#unwatch(tab, channel));
    const users = [...this.#users].filter(([, tabs]) => tabs.has(tab)).map(([user]) => user);
    if (users.length) unheard(this.#unwatchUsers(tab, users));
    if (this.#everybody.has(tab)) unheard(this.#unwatchEverybody(tab));
  }

  /** A connection begins or goes on. Watches are not kept over it; each tab asks for its own again. */
  welcomed(welcome: Welcome): void {
    this.#watches.clear();
    this.#users.clear();
    this.#views.clear();
    this.#everybody.clear();
    const left = this.#leaving;
    this.#leaving = new Set();
    this.leaveUnheld([...left].filter((channel) => welcome.channels.includes(channel)));
  }

  /** Leaves those of the channels that no tab is in. */
  leaveUnheld(channels: readonly string[]): void {
    for (const channel of channels) {
      if (!this.#places.has(channel)) this.#leave("", channel).catch(() => {});
    }
  }

  heard(frame: EventFrame): void {
    if (frame.event === "left" && frame.channel !== undefined) this.#places.delete(frame.channel);
    for (const view of frame.event === "users" ? (frame.users as ({ user: string } & Json)[]) : []) {
      if (view.status === "offline" && !this.#users.has(view.user)) this.#views.delete(view.user);
      else this.#views.set(view.user, view);
    }
  }

  async #join(tab: string, channel: string, operation: Operation): Promise<unknown> {
    const tabs = this.#places.get(channel) ?? new Set();
    this.#places.set(channel, tabs.add(tab));
    this.#leaving.delete(channel);
    // The place was kept: only who is in it has to be known here.
    if (operation.op === "hold") return {};
    try {
      return await this.#link.ask(operation, false);
    } catch (error) {
      if (!toError(error).isPassing && tabs.delete(tab) && tabs.size === 0) this.#places.delete(channel);
      throw error;
    }
  }

  async #leave(tab: string, channel: string): Promise<unknown> {
    const tabs = this.#places.get(channel);
    tabs?.delete(tab);
    if (tabs && tabs.size > 0) return { channel };
    this.#places.delete(channel);
    try {
      return await this.#link.ask({ op: "leave", channel }, false);
    } catch (error) {
      if (toError(error).isPassing) this.#leaving.add(channel);
      throw error;
    }
  }

  async #watch(tab: string, channel: string, operation: Operation): Promise<unknown> {
    let level = operation.level as Level;
    const held = this.#watches.get(channel);
    if (held && [...held.tabs].some((other) => other !== tab)) {
      if (held.level !== level && Math.min(RANK[held.level], RANK[level]) > 0) {
        throw new RollcallError("conflict", `\`${channel}\` is watched at the level ${held.level} by another tab: use one level`);
      }
      if (RANK[held.level] > RANK[level]) level = held.level;
    }
    const watch = { level, tabs: new Set([...(held?.tabs ?? []), tab]) };
    this.#watches.set(channel, watch);
    try {
      return await this.#link.ask({ ...operation, level }, false);
    } catch (error) {
      if (this.#watches.get(channel) === watch) {
        if (held) this.#watches.set(channel, held);
        else this.#watches.delete(channel);
      }
      throw error;
    }
  }

  async #unwatch(tab: string, channel: string): Promise<unknown> {
    const held = this.#watches.get(channel);
    held?.tabs.delete(tab);
    if (!held || held.tabs.size > 0) return { channel };
    this.#watches.delete(channel);
    return this.#link.ask({ op: "unwatch", channel }, false);
  }

  async #watchUsers(tab: string, users: readonly string[]): Promise<unknown> {
    const fresh = users.filter((user) => !this.#users.has(user));
    for (const user of users) this.#users.set(user, (this.#users.get(user) ?? new Set()).add(tab));
    try {
      if (fresh.length) await this.#link.ask({ op: "watch", users: fresh }, false);
    } catch (error) {
      this.#release(tab, users);
      throw error;
    }
    // For those whom another tab watches already, by name or with everybody, the server sends nothing more.
    const known = users.flatMap((user) => this.#views.get(user) ?? []);
    if (known.length) this.#tell(tab, { event: "users", users: known });
    return {};
  }

  async #unwatchUsers(tab: string, users: readonly string[]): Promise<unknown> {
    const ended = this.#release(tab, users);
    return ended.length ? this.#link.ask({ op: "unwatch", users: ended }, false) : {};
  }

  #release(tab: string, users: readonly string[]): string[] {
    const ended = users.filter((user) => {
      const tabs = this.#users.get(user);
      return tabs?.delete(tab) && tabs.size === 0;
    });
    for (const user of ended) this.#users.delete(user);
    if (this.#everybody.size === 0) for (const user of ended) this.#views.delete(user);
    return ended;
  }

  async #watchEverybody(tab: string): Promise<unknown> {
    // From the beginning for all tabs, where others are told already: to ask for what one has brings nothing.
    if (this.#everybody.size > 0) await this.#link.ask({ op: "unwatch", all_users: true }, false).catch(() => {});
    this.#everybody.add(tab);
    return this.#link.ask({ op: "watch", all_users: true }, false);
  }

  async #unwatchEverybody(tab: string): Promise<unknown> {
    this.#everybody.delete(tab);
    if (this.#everybody.size > 0) return {};
    for (const user of [...this.#views.keys()]) if (!this.#users.has(user)) this.#views.delete(user);
    return this.#link.ask({ op: "unwatch", all_users: true }, false);
  }

  #active(): Promise<unknown> {
    const now = performance.now();
    if (now - this.#activeAt < ACTIVE_MS) return Promise.resolve({});
    this.#activeAt = now;
    return this.#link.ask({ op: "active" }, false);
  }

  async #send(tab: string, channel: string, operation: Operation, waits: boolean): Promise<unknown> {
    const ok = await this.#link.ask(operation, waits);
    // To the server all tabs are the sender and get no echo; to the application the others are not.
    const others = [...(this.#watches.get(channel)?.tabs ?? [])].filter((other) => other !== tab);
    const frame = { event: "signal", channel, user: this.#link.welcome?.user, data: operation.data, time: Date.now() };
    if (!operation.echo) for (const other of others) this.#tell(other, frame);
    return ok;
  }
}
