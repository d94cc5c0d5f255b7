// What hooks and composables answer, made of what is shown.

import type { Room } from "./channel.js";
import type { ShownChannel, ShownUsers } from "./keep.js";
import type { Shown } from "./kept.js";
import type { Json, Level, Member, Mode, Occupancy, Status, UserView } from "./protocol.js";
import { typingSentence, type TypingWords } from "./typing.js";
import type { HoldOptions } from "./use.js";

/** A channel; without one nothing is asked for yet. */
export type ChannelName = string | null | undefined;

export interface MembersOptions {
  /** `connections`: each device of a user is an entry of its own. */
  readonly level?: Exclude<Level, "occupancy">;
}

/**
 * How a component is in a channel. It may be another object each time: a `state` that differs is an update for others, and never a leave.
 * Of `graceMs` and `onLeave` those count that were there at the join.
 */
export interface PresenceOptions<State = Json> extends MembersOptions, HoldOptions<State> {}

/** Who is in a channel. */
export interface Members<State = Json> extends Shown {
  /** Who came first is first. Empty where the channel is too large for a list: see `mode`. */
  readonly members: readonly Member<State>[];
  readonly userCount: number;
  readonly mode: Mode;
  /** The users who type just now, this one left out. */
  readonly typing: readonly string[];
}

/** Who is in a channel that one is in oneself. */
export interface Presence<State = Json> extends Shown {
  /** Who came first is first; this user is among them. Empty where the channel is too large for a list: see `mode`. */
  readonly onlineUsers: readonly Member<State>[];
  readonly userCount: number;
  readonly mode: Mode;
  /** The users who type just now, this one left out. */
  readonly typing: readonly string[];
  /** False before the server has said so, and after it took this user out: `error` says why then. */
  readonly isJoined: boolean;
  /** The handle, for signals and pages; undefined before anybody here is mounted. */
  readonly room: Room<State> | undefined;
}

/** How many are in a channel. */
export type Occupied = Occupancy & Shown;

export interface TypingHookOptions<State = Json> extends MembersOptions {
  /** How somebody is called in the sentence, given the member where it is known: by the user's name of Rollcall unless it is said otherwise. */
  readonly name?: (user: string, member: Member<State> | undefined) => string;
  /** Words of another language. */
  readonly words?: TypingWords;
}

/** Who types in a channel. */
export interface Typing extends Shown {
  /** The users who type just now, this one left out. */
  readonly typing: readonly string[];
  /** "Ann is typing…", or nothing. It is text with strangers' names in it. */
  readonly sentence: string;
}

/** How a user is, wherever that is. */
export interface UserStatus extends Shown {
  /** Undefined while nothing is known. */
  readonly status: Status | undefined;
  readonly isOnline: boolean;
  /** The rest of what is known, such as `text` and `last_seen`. */
  readonly view: UserView | undefined;
}

/** The lists that were made of members already: who has one may keep what is drawn of it for as long as nobody comes or goes. */
const lists = new WeakMap<object, readonly Member<unknown>[]>();

function listOf<State>(members: ShownChannel<State>["members"]): readonly Member<State>[] {
  const list = lists.get(members) ?? [...members.values()];
  lists.set(members, list);
  return list as readonly Member<State>[];
}

export function membersOf<State>(shown: ShownChannel<State>, self: string | null | undefined): Members<State> {
  const { members, occupancy, mode, typing, isLive, isLoading, error } = shown;
  const others = typing.filter((user) => user !== self);
  return { members: listOf(members), userCount: occupancy.users, mode, typing: others, isLive, isLoading, error };
}

export function presenceOf<State>(shown: ShownChannel<State>, self: string | null | undefined, room: Room<State> | undefined): Presence<State> {
  const { members, ...rest } = membersOf(shown, self);
  return { onlineUsers: members, ...rest, isJoined: shown.isJoined, room };
}

export function occupiedOf({ occupancy, isLive, isLoading, error }: ShownChannel<unknown>): Occupied {
  return { users: occupancy.users, connections: occupancy.connections, isLive, isLoading, error };
}

export function typingOf<State>(shown: ShownChannel<State>, self: string | null | undefined, options: TypingHookOptions<State>): Typing {
  const { name, words } = options;
  const memberOf = (user: string) => shown.members.get(user) ?? [...shown.members.values()].find((member) => member.user === user);
  const typing = shown.typing.filter((user) => user !== self);
  const sentence = typingSentence(typing, { ...(name && { name: (user) => name(user, memberOf(user)) }), ...(words && { words }) });
  return { typing, sentence, isLive: shown.isLive, isLoading: shown.isLoading, error: shown.error ?? shown.typingError };
}

export function statusOf({ users, isLive, isLoading, error }: ShownUsers, user: string): UserStatus {
  const view = users.get(user);
  return { status: view?.status, isOnline: view !== undefined && view.status !== "offline", view, isLive, isLoading, error };
}
