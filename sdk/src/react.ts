"use client";
// Presence for React: what hooks answer is up to date for as long as the component is mounted.

import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
  type ReactElement,
  type ReactNode,
} from "react";

import {
  membersOf,
  occupiedOf,
  presenceOf,
  statusOf,
  typingOf,
  type ChannelName,
  type Members,
  type MembersOptions,
  type Occupied,
  type Presence,
  type PresenceOptions,
  type Typing,
  type TypingHookOptions,
  type UserStatus,
} from "./answer.js";
import type { Room } from "./channel.js";
import { Rollcall, type RollcallOptions } from "./client.js";
import type { RollcallError } from "./errors.js";
import type { ShownChannel, ShownUsers } from "./keep.js";
import type { State as ConnectionState } from "./link.js";
import type { Json, Level } from "./protocol.js";
import { ChannelUse, keepOpen, UsersUse, type HoldOptions } from "./use.js";

export type { ChannelName, Members, MembersOptions, Occupied, Presence, PresenceOptions, Typing, TypingHookOptions, UserStatus } from "./answer.js";
export type { ShownUsers as UserStatuses } from "./keep.js";
export { typingSentence, type TypingOptions, type TypingWords } from "./typing.js";

const Context = createContext<Rollcall | undefined>(undefined);

/**
 * A client of yours, which stays open, or the options for one of the provider's own, which is closed when the provider has gone. The
 * latest `token` is the one that is asked; other options that differ make another client. For another user give it another `key`.
 */
export type RollcallProviderProps = { readonly children?: ReactNode } & (
  | { readonly client: Rollcall }
  | (RollcallOptions & { readonly client?: undefined })
);

/** Gives all components below it a client. */
export function RollcallProvider(props: RollcallProviderProps): ReactElement {
  const { client: given, children, ...options } = props as Partial<RollcallOptions> & { client?: Rollcall; children?: ReactNode };
  if (!given && typeof options.token !== "function") throw new TypeError("RollcallProvider wants a `client`, or a `token` function to make one with");
  const latest = useRef(options);
  useEffect(() => void (latest.current = options));
  const { token: _, WebSocket: __, platform: ___, ...plain } = options;
  const text = JSON.stringify(plain);
  const client = useMemo(() => given ?? ownClient(options, latest), [given, text]);
  useEffect(() => (client === given ? undefined : keepOpen(client, latest.current.connect)), [client, given]);
  return createElement(Context.Provider, { value: client }, children);
}

/** Made while rendering, so it does nothing before the provider is mounted; on a server it never does. */
function ownClient(options: Partial<RollcallOptions>, latest: { readonly current: Partial<RollcallOptions> }): Rollcall {
  const url = options.url ?? (typeof location === "undefined" ? "http://localhost" : undefined);
  const token = () => (latest.current as RollcallOptions).token();
  return new Rollcall({ ...options, ...(url !== undefined && { url }), token, connect: false });
}

/** The client that the provider gives. */
export function useRollcall(): Rollcall {
  const client = useContext(Context);
  if (!client) throw new Error("there is no Rollcall client here: put a <RollcallProvider> around the component");
  return client;
}

/**
 * Is in the channel while the component is mounted, and tells who else is. Components with the same channel share one place; it is kept
 * for half a second after the last has gone, so that nobody sees a leave where one is mounted again.
 */
export function usePresence<State = Json>(
  channel: ChannelName,
  options: PresenceOptions<State> = {},
): Presence<State> & {
  /** Changes the own state by a merge patch, beside the `state` of the options; null takes a field away. */
  readonly update: Room<State>["update"];
} {
  const { level = "users", ...wanted } = options;
  const { use, shown, self } = useChannel<State>(channel, level, true, wanted);
  const { room } = use;
  const presence = useMemo(() => presenceOf(shown, self, room), [shown, self, room]);
  return useMemo(() => ({ ...presence, update: use.update }), [presence, use]);
}

/** Who is in the channel, without being in it. */
export function useMembers<State = Json>(channel: ChannelName, options: MembersOptions = {}): Members<State> {
  const { shown, self } = useChannel<State>(channel, options.level ?? "users", false);
  return useMemo(() => membersOf(shown, self), [shown, self]);
}

/** How many are in the channel, without being in it. */
export function useOccupancy(channel: ChannelName): Occupied {
  const { shown } = useChannel(channel, "occupancy", false);
  return useMemo(() => occupiedOf(shown), [shown]);
}

/**
 * Who types in the channel, and what to call when this user does: `start` for every key, `stop` when it was sent. Both may be handlers
 * as they are. Whoever can type in a channel is in it, as with `usePresence`; without that, `useMembers` has who types too.
 */
export function useTyping<State = Json>(
  channel: ChannelName,
  options: TypingHookOptions<State> = {},
): Typing & { readonly start: () => void; readonly stop: () => void } {
  const { use, shown, self } = useChannel<State>(channel, options.level ?? "users", true);
  // `name` and `words` may be made anew for each render; what they make of it is compared.
  const typing = typingOf(shown, self, options);
  const start = useCallback(() => use.type(true), [use]);
  const stop = useCallback(() => use.type(false), [use]);
  const text = JSON.stringify([typing.typing, typing.sentence, typing.isLive, typing.isLoading]);
  return useMemo(() => ({ ...typing, start, stop }), [text, typing.error, start, stop]);
}

/** How a user is, or how several are, wherever they are. They cannot tell. */
export function useUserStatus(user: string): UserStatus;
export function useUserStatus(users: readonly string[]): ShownUsers;
export function useUserStatus(wanted: string | readonly string[]): UserStatus | ShownUsers {
  const client = useRollcall();
  const text = JSON.stringify(wanted);
  const names = useMemo(() => [JSON.parse(text) as string | string[]].flat(), [text]);
  const use = useMemo(() => new UsersUse(client, names), [client, names]);
  const shown = useSyncExternalStore(use.subscribe, use.getSnapshot, use.getServerSnapshot);
  const user = typeof wanted === "string" ? wanted : undefined;
  return useMemo(() => (user === undefined ? shown : statusOf(shown, user)), [shown, user]);
}

/** How the connection is, and why there is none. */
export function useConnectionState(): { readonly state: ConnectionState; readonly error: RollcallError | undefined } {
  const client = useRollcall();
  const state = useSyncExternalStore<ConnectionState>(client.subscribe, client.getSnapshot, () => "off");
  const { error } = client;
  return useMemo(() => ({ state, error }), [state, error]);
}

function useChannel<State>(channel: ChannelName, level: Level, isRoom: boolean, options: HoldOptions<State> = {}) {
  const client = useRollcall();
  const use = useMemo(() => new ChannelUse<State>(client, channel, level, isRoom), [client, channel, level, isRoom]);
  const text = JSON.stringify(options);
  // Before the store is subscribed to, which joins.
  useEffect(() => use.declare(JSON.parse(text) as HoldOptions<State>), [use, text]);
  const shown: ShownChannel<State> = useSyncExternalStore(use.subscribe, use.getSnapshot, use.getServerSnapshot);
  return { use, shown, self: client.welcome?.user };
}
