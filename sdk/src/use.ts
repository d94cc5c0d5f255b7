// What one component has of a channel or of some users: a store that is without effects until somebody subscribes. So it may be made
// while a page is rendered, on a server too, and be thrown away.

import type { Room } from "./channel.js";
import type { Rollcall } from "./client.js";
import type { Unsubscribe } from "./emitter.js";
import { RollcallError } from "./errors.js";
import { keepOf, NO_CHANNEL, NO_USERS, type KeptChannel, type ShownChannel, type ShownUsers } from "./keep.js";
import { LINGER_MS, type Hold } from "./kept.js";
import type { Json, Level } from "./protocol.js";
import type { JoinOptions } from "./view.js";
import { Timers } from "./waiting.js";

const LOADING_CHANNEL: ShownChannel<never> = Object.freeze({ ...NO_CHANNEL, isLoading: true });
const LOADING_USERS: ShownUsers = Object.freeze({ ...NO_USERS, isLoading: true });

/** What of JoinOptions a component may say; the level is part of what it wants. */
export type HoldOptions<State> = Pick<JoinOptions<State>, "state" | "graceMs" | "onLeave">;

/** A channel that a component watches, or is in. Without a name it wants nothing. */
export class ChannelUse<State = Json> {
  #options: HoldOptions<State> = {};
  #hold: Hold | undefined;
  #kept: KeptChannel | undefined;
  #isTyping = false;

  constructor(
    private readonly client: Rollcall,
    private readonly name: string | null | undefined,
    private readonly level: Level,
    private readonly isRoom: boolean,
  ) {}

  readonly subscribe = (changed: () => void): Unsubscribe => {
    const { name, level, isRoom } = this;
    if (isNothing(name)) return () => {};
    const keep = keepOf(this.client);
    const kept = keep.channel(name, level, isRoom) ?? keep.addChannel(name, level, isRoom);
    const hold: Hold = { options: this.#options, changed };
    [this.#hold, this.#kept] = [hold, kept];
    const release = kept.hold(hold);
    return () => {
      if (this.#hold === hold) {
        if (this.#isTyping) this.type(false);
        this.#hold = this.#kept = undefined;
      }
      release();
    };
  };

  readonly getSnapshot = (): ShownChannel<State> => {
    if (isNothing(this.name)) return NO_CHANNEL;
    return (keepOf(this.client).channel(this.name, this.level, this.isRoom)?.look as ShownChannel<State> | undefined) ?? LOADING_CHANNEL;
  };

  /** What a server renders. */
  readonly getServerSnapshot = (): ShownChannel<State> => (isNothing(this.name) ? NO_CHANNEL : LOADING_CHANNEL);

  /** How it wants to be in the channel from now on. */
  declare(options: HoldOptions<State>): void {
    this.#options = options;
    if (!this.#hold) return;
    this.#hold.options = options;
    this.#kept?.rearranged();
  }

  /** The handle of all who are in the channel. Another component may have it already, and nothing changes when this one comes. */
  get room(): Room<State> | undefined {
    const { client, name, level, isRoom } = this;
    return isNothing(name) ? undefined : (keepOf(client).channel(name, level, isRoom)?.room as Room<State> | undefined);
  }

  /** Changes the own state beside what is declared. */
  readonly update = async (patch: Parameters<Room<State>["update"]>[0]): Promise<void> => {
    this.#kept?.hurry();
    const room = this.#kept?.room;
    if (!room) throw new RollcallError("closed", "nobody is in the channel here: call `update` when the component is mounted");
    await room.update(patch);
  };

  /** Says that this user types, or no more. */
  type(isTyping: boolean): void {
    this.#isTyping = isTyping;
    this.#kept?.hurry();
    try {
      this.#kept?.room?.typing(isTyping);
    } catch {
      // The handle has ended, and `error` says why: nobody sees this user type.
    }
  }
}

/** Users that a component watches. */
export class UsersUse {
  readonly #names: readonly string[];

  constructor(
    private readonly client: Rollcall,
    names: readonly string[],
  ) {
    this.#names = [...new Set(names)];
  }

  readonly subscribe = (changed: () => void): Unsubscribe => {
    if (this.#names.length === 0) return () => {};
    const keep = keepOf(this.client);
    return (keep.users(this.#names) ?? keep.addUsers(this.#names)).hold({ options: {}, changed });
  };

  readonly getSnapshot = (): ShownUsers => {
    if (this.#names.length === 0) return NO_USERS;
    return keepOf(this.client).users(this.#names)?.look ?? LOADING_USERS;
  };

  readonly getServerSnapshot = (): ShownUsers => (this.#names.length === 0 ? NO_USERS : LOADING_USERS);
}

const open = new WeakMap<Rollcall, { users: number; readonly timers: Timers }>();

/** Connects a client that belongs to a component, unless it is not to, and closes it a moment after the component has gone. */
export function keepOpen(client: Rollcall, connects = true): Unsubscribe {
  const entry = open.get(client) ?? { users: 0, timers: new Timers() };
  open.set(client, entry);
  entry.users++;
  entry.timers.stop();
  if (connects) client.connect();
  let isOver = false;
  return () => {
    // An application may be unmounted twice.
    if (isOver) return;
    isOver = true;
    if (--entry.users === 0) entry.timers.after(LINGER_MS, () => client.close());
  };
}

function isNothing(name: string | null | undefined): name is null | undefined {
  return name === null || name === undefined;
}
