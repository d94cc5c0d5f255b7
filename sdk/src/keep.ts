// All that components have of one client: channels and users, by what is wanted of them.

import type { Channel, Room } from "./channel.js";
import type { Rollcall } from "./client.js";
import { RollcallError, toError } from "./errors.js";
import { Kept, type Shown } from "./kept.js";
import { mergePatch, patchBetween } from "./merge.js";
import type { Watch } from "./people.js";
import type { Json, Level, UserView } from "./protocol.js";
import type { ChannelSnapshot } from "./view.js";

/** How a channel looks to a component. */
export type ShownChannel<State = Json> = Omit<ChannelSnapshot<State>, "channel" | "level"> &
  Shown & {
    /** Why nobody sees this user type. */
    readonly typingError: RollcallError | undefined;
  };

/** How some users look to a component. */
export interface ShownUsers extends Shown {
  readonly users: ReadonlyMap<string, UserView>;
}

/** Nothing is wanted. */
export const NO_CHANNEL: ShownChannel<never> = Object.freeze({
  members: new Map(),
  occupancy: { users: 0, connections: 0 },
  mode: "full" as const,
  typing: [],
  isLive: false,
  isJoined: false,
  isLoading: false,
  error: undefined,
  typingError: undefined,
});
export const NO_USERS: ShownUsers = Object.freeze({ users: new Map(), isLive: false, isLoading: false, error: undefined });

/** A channel that is watched, or that one is in as well. */
export class KeptChannel extends Kept<ShownChannel<unknown>, Channel<unknown>> {
  #said: Json | undefined;
  #saying = 0;
  #refused: string | undefined;
  #typingError: RollcallError | undefined;

  constructor(
    client: Rollcall,
    ended: () => void,
    private readonly keep: Keep,
    readonly name: string,
    readonly level: Level,
    readonly isRoom: boolean,
  ) {
    super(client, ended);
  }

  get room(): Room<unknown> | undefined {
    return this.isRoom ? (this.handle as Room<unknown> | undefined) : undefined;
  }

  protected override open(): Channel<unknown> {
    this.#typingError = undefined;
    // A channel is watched at one level, beside which counting is nothing: what nobody uses any more gives way.
    const isOther = (level: Level) => level !== this.level && ![level, this.level].includes("occupancy");
    const others = this.keep.idleChannels(this.name).filter(({ level }) => isOther(level));
    // Whoever only watches it otherwise does not leave meanwhile.
    const bridge = this.isRoom && others.some(({ isRoom }) => isRoom) ? this.client.join(this.name, { watch: false }) : undefined;
    try {
      for (const other of others) other.end();
      return this.isRoom ? this.#join(bridge !== undefined) : this.client.channel(this.name, { level: this.level });
    } finally {
      void bridge?.leave();
    }
  }

  protected override get dependsOnAll(): boolean {
    return this.isRoom;
  }

  protected override close(handle: Channel<unknown>): void {
    handle.close();
  }

  protected override lookOf(snapshot: ChannelSnapshot<unknown> | undefined, rest: Pick<Shown, "isLoading" | "error">): ShownChannel<unknown> {
    return { ...NO_CHANNEL, ...snapshot, ...rest, typingError: this.#typingError };
  }

  protected override rearrange(): void {
    void this.#say();
  }

  protected override heardAside(error: RollcallError): void {
    // A channel has no other asides of its own.
    this.#typingError = error;
  }

  /** `isAnew`: another handle is in it still, whose state is not this one's. */
  #join(isAnew: boolean): Room<unknown> {
    const state = (this.#said = this.#wanted()) ?? (isAnew ? {} : undefined);
    const said = [...this.holds].map(({ options }) => options);
    const graceMs = said.find((one) => one.graceMs !== undefined)?.graceMs;
    const onLeave = said.find((one) => one.onLeave !== undefined)?.onLeave;
    const more = { ...(state && { state }), ...(graceMs !== undefined && { graceMs }), ...(onLeave && { onLeave }) };
    const room = this.client.join<unknown>(this.name, { level: this.level, ...more });
    room.on("left", (reason) => {
      if (this.handle === room) this.fail(new RollcallError("kicked", `the server took this user out of \`${this.name}\` (${reason})`));
    });
    return room;
  }

  /** What all who use it want to show of this user, the later before the earlier; undefined where nobody wants anything. */
  #wanted(): Json | undefined {
    const states = [...this.holds].flatMap(({ options: { state } }) => (state === undefined || state === null ? [] : [state]));
    return states.length === 0 ? undefined : states.reduce<Json>((all, state) => mergePatch(all, state) as Json, {});
  }

  /** Says what differs from what was said before. While one is on its way the next waits, and only the latest of those that wait is sent. */
  async #say(): Promise<void> {
    const { room } = this;
    // Without a connection nothing is on its way: what is said then is sent as a whole with the next.
    if (!room || (this.#saying > 0 && this.client.state === "open")) return;
    const before = this.#said ?? {};
    const wanted = this.#wanted() ?? {};
    const patch = patchBetween(before, wanted);
    // What was refused is not said again before something else was wanted.
    if (JSON.stringify(wanted) === this.#refused) return;
    this.#refused = undefined;
    if (!patch) return this.#complain(undefined);
    this.#said = wanted;
    this.#saying++;
    try {
      await room.update(patch);
      this.#complain(undefined);
    } catch (error) {
      if (this.handle === room && this.#said === wanted) {
        this.#said = before;
        this.#refused = JSON.stringify(wanted);
        this.#complain(toError(error));
      }
    } finally {
      this.#saying--;
    }
    if (this.handle === room) await this.#say();
  }

  #complain(error: RollcallError | undefined): void {
    if (this.complaint === error) return;
    this.complaint = error;
    this.touch();
  }
}

/** Users that are watched. */
export class KeptUsers extends Kept<ShownUsers, Watch> {
  #seed = new Map<string, UserView>();

  constructor(
    client: Rollcall,
    ended: () => void,
    private readonly keep: Keep,
    private readonly names: readonly string[],
  ) {
    super(client, ended);
  }

  protected override open(): Watch {
    // Of those whom another watch shows already something is known at once.
    this.#seed = this.keep.known(this.names);
    return this.client.watch(this.names);
  }

  protected override close(watch: Watch): void {
    watch.close();
  }

  protected override lookOf(snapshot: ReturnType<Watch["getSnapshot"]> | undefined, rest: Pick<Shown, "isLoading" | "error">): ShownUsers {
    const users = new Map<string, UserView>();
    for (const name of this.names) {
      const view = snapshot?.users.get(name) ?? (rest.isLoading ? this.#seed.get(name) : undefined);
      if (view) users.set(name, view);
    }
    const isLoading = rest.isLoading && this.names.some((name) => !users.has(name));
    return { users, isLive: snapshot?.isLive ?? false, ...rest, isLoading };
  }
}

/** All that components have of one client. */
export class Keep {
  readonly #client: Rollcall;
  readonly #channels = new Map<string, KeptChannel>();
  readonly #users = new Map<string, KeptUsers>();

  constructor(client: Rollcall) {
    this.#client = client;
  }

  channel(name: string, level: Level, isRoom: boolean): KeptChannel | undefined {
    return this.#channels.get(JSON.stringify([name, level, isRoom]));
  }

  addChannel(name: string, level: Level, isRoom: boolean): KeptChannel {
    const key = JSON.stringify([name, level, isRoom]);
    const ended = () => {
      this.#channels.delete(key);
      for (const other of this.#channels.values()) if (other.name === name) other.retry();
    };
    const kept = new KeptChannel(this.#client, ended, this, name, level, isRoom);
    this.#channels.set(key, kept);
    return kept;
  }

  users(names: readonly string[]): KeptUsers | undefined {
    return this.#users.get(JSON.stringify(names));
  }

  addUsers(names: readonly string[]): KeptUsers {
    const key = JSON.stringify(names);
    const kept = new KeptUsers(this.#client, () => this.#users.delete(key), this, names);
    this.#users.set(key, kept);
    return kept;
  }

  /** Those of a channel that nobody uses any more. */
  idleChannels(name: string): KeptChannel[] {
    return [...this.#channels.values()].filter((kept) => kept.name === name && kept.isIdle);
  }

  /** What is known of these users. */
  known(names: readonly string[]): Map<string, UserView> {
    const found = new Map<string, UserView>();
    for (const { look } of this.#users.values()) {
      if (!look?.isLive) continue;
      for (const name of names) {
        const view = look.users.get(name);
        if (view) found.set(name, view);
      }
    }
    return found;
  }
}

const keeps = new WeakMap<Rollcall, Keep>();

/** The one that a client has. */
export function keepOf(client: Rollcall): Keep {
  const known = keeps.get(client);
  if (known) return known;
  const keep = new Keep(client);
  keeps.set(client, keep);
  return keep;
}
