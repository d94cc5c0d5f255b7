// Presence for Vue: what composables answer is up to date until their scope ends.

import {
  computed,
  getCurrentInstance,
  inject,
  onActivated,
  onDeactivated,
  onMounted,
  provide,
  shallowRef,
  toValue,
  watch,
  type App,
  type ComputedRef,
  type InjectionKey,
  type MaybeRefOrGetter,
} from "vue";

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
import type { Unsubscribe } from "./emitter.js";
import type { RollcallError } from "./errors.js";
import type { ShownChannel, ShownUsers } from "./keep.js";
import type { State as ConnectionState } from "./link.js";
import type { Json, Level } from "./protocol.js";
import { ChannelUse, keepOpen, UsersUse, type HoldOptions } from "./use.js";

export type { ChannelName, Members, MembersOptions, Occupied, Presence, PresenceOptions, Typing, TypingHookOptions, UserStatus } from "./answer.js";
export type { ShownUsers as UserStatuses } from "./keep.js";
export { typingSentence, type TypingOptions, type TypingWords } from "./typing.js";

/** Each field as a ref of its own, so that what is answered may be taken apart. */
export type Refs<Answer> = { readonly [Field in keyof Answer]: ComputedRef<Answer[Field]> };

const KEY: InjectionKey<Rollcall> = Symbol("rollcall");
/** What a component provides it cannot inject, but its own composables want it too. */
const provided = new WeakMap<object, Rollcall>();

/** A client for a whole application: `app.use(createRollcall({ token }))`. One that is made of options is closed with the application. */
export function createRollcall(source: Rollcall | RollcallOptions): { readonly client: Rollcall; install(app: App): void } {
  const client = clientOf(source);
  return {
    client,
    install(app) {
      app.provide(KEY, client);
      // On a server nothing is mounted, and nobody is present.
      if (client === source || typeof document === "undefined") return;
      const release = keepOpen(client, (source as RollcallOptions).connect);
      const unmount = app.unmount.bind(app);
      app.unmount = () => {
        unmount();
        release();
      };
    },
  };
}

/** A client for a component and all below it. One that is made of options is closed when the component has gone. */
export function provideRollcall(source: Rollcall | RollcallOptions): Rollcall {
  const instance = getCurrentInstance();
  if (!instance) throw new Error("call `provideRollcall` in the setup of a component");
  const client = clientOf(source);
  provide(KEY, client);
  provided.set(instance, client);
  if (client !== source) whileShown({ value: client }, () => keepOpen(client, (source as RollcallOptions).connect));
  return client;
}

/** The client that the application or a component above provides. */
export function useRollcall(): Rollcall {
  const instance = getCurrentInstance();
  const client = (instance && provided.get(instance)) ?? inject(KEY, undefined);
  if (!client) throw new Error("there is no Rollcall client here: call `app.use(createRollcall({ token }))`, or `provideRollcall` in a component above");
  return client;
}

/**
 * Is in the channel while the component is shown, and tells who else is. Components with the same channel share one place; it is kept for
 * half a second after the last has gone, so that nobody sees a leave where one is mounted again.
 */
export function usePresence<State = Json>(
  channel: MaybeRefOrGetter<ChannelName>,
  options: MaybeRefOrGetter<PresenceOptions<State>> = {},
): Refs<Presence<State>> & {
  /** Changes the own state by a merge patch, beside the `state` of the options; null takes a field away. */
  readonly update: Room<State>["update"];
} {
  const { use, shown, self } = useChannel<State>(channel, () => toValue(options).level ?? "users", true, () => {
    const { level: _, ...wanted } = toValue(options);
    return wanted;
  });
  const answer = computed(() => presenceOf(shown.value, self(), use.value.room));
  return { ...refsOf(answer), update: async (patch) => use.value.update(patch) };
}

/** Who is in the channel, without being in it. */
export function useMembers<State = Json>(channel: MaybeRefOrGetter<ChannelName>, options: MaybeRefOrGetter<MembersOptions> = {}): Refs<Members<State>> {
  const { shown, self } = useChannel<State>(channel, () => toValue(options).level ?? "users", false);
  return refsOf(computed(() => membersOf(shown.value, self())));
}

/** How many are in the channel, without being in it. */
export function useOccupancy(channel: MaybeRefOrGetter<ChannelName>): Refs<Occupied> {
  const { shown } = useChannel(channel, () => "occupancy", false);
  return refsOf(computed(() => occupiedOf(shown.value)));
}

/**
 * Who types in the channel, and what to call when this user does: `start` for every key, `stop` when it was sent. Both may be handlers
 * as they are. Whoever can type in a channel is in it, as with `usePresence`; without that, `useMembers` has who types too.
 */
export function useTyping<State = Json>(
  channel: MaybeRefOrGetter<ChannelName>,
  options: MaybeRefOrGetter<TypingHookOptions<State>> = {},
): Refs<Typing> & { readonly start: () => void; readonly stop: () => void } {
  const { use, shown, self } = useChannel<State>(channel, () => toValue(options).level ?? "users", true);
  const answer = computed(() => typingOf(shown.value, self(), toValue(options)));
  return { ...refsOf(answer), start: () => use.value.type(true), stop: () => use.value.type(false) };
}

/** How a user is, or how several are, wherever they are. They cannot tell. */
export function useUserStatus(user: MaybeRefOrGetter<string>): Refs<UserStatus>;
export function useUserStatus(users: MaybeRefOrGetter<readonly string[]>): Refs<ShownUsers>;
export function useUserStatus(wanted: MaybeRefOrGetter<string | readonly string[]>): Refs<UserStatus> | Refs<ShownUsers> {
  const client = useRollcall();
  const text = computed(() => JSON.stringify(toValue(wanted)));
  const use = computed(() => new UsersUse(client, [JSON.parse(text.value) as string | string[]].flat()));
  const shown = useStore<ShownUsers, UsersUse>(use);
  if (typeof toValue(wanted) !== "string") return refsOf(shown);
  return refsOf(computed(() => statusOf(shown.value, toValue(wanted) as string)));
}

/** How the connection is, and why there is none. */
export function useConnectionState(): Refs<{ readonly state: ConnectionState; readonly error: RollcallError | undefined }> {
  const client = useRollcall();
  const now = () => ({ state: client.state, error: client.error });
  const answer = shallowRef(now());
  whileShown({ value: client }, () => {
    answer.value = now();
    return client.subscribe(() => (answer.value = now()));
  });
  return refsOf(answer);
}

function useChannel<State>(
  channel: MaybeRefOrGetter<ChannelName>,
  level: () => Level,
  isRoom: boolean,
  options: () => HoldOptions<State> = () => ({}),
) {
  const client = useRollcall();
  // By themselves, so that what is read anew and is the same makes no other use.
  const [name, depth] = [computed(() => toValue(channel)), computed(level)];
  const use = computed(() => new ChannelUse<State>(client, name.value, depth.value, isRoom));
  // As text, for what is said of the state may be a reactive object that is changed in place.
  const text = computed(() => JSON.stringify(options()));
  const declare = (now: ChannelUse<State>) => now.declare(JSON.parse(text.value) as HoldOptions<State>);
  watch(text, () => declare(use.value));
  const shown = useStore<ShownChannel<State>, ChannelUse<State>>(use, declare);
  return { use, shown, self: () => client.welcome?.user };
}

interface Store<Look> {
  subscribe(changed: () => void): Unsubscribe;
  getSnapshot(): Look;
}

/** What a store shows, subscribed to while the component is shown. */
function useStore<Look, Of extends Store<Look>>(store: ComputedRef<Of>, prepare: (store: Of) => void = () => {}): ComputedRef<Look> {
  const turn = shallowRef(0);
  whileShown(store, (now) => {
    prepare(now);
    const stop = now.subscribe(() => turn.value++);
    // Something may have happened since it was looked at.
    turn.value++;
    return stop;
  });
  return computed(() => {
    void turn.value;
    return store.value.getSnapshot();
  });
}

/**
 * Calls `begin` when the component is mounted, and again when the value is another or a `KeepAlive` has hidden and shown it; what it
 * answers is called before that, and in the end. On a server nothing is mounted. In a scope without a component it begins at once.
 */
function whileShown<Value>(value: { readonly value: Value }, begin: (value: Value) => Unsubscribe): void {
  const isShown = shallowRef(!getCurrentInstance());
  if (!isShown.value) {
    onMounted(() => (isShown.value = true));
    onActivated(() => (isShown.value = true));
    onDeactivated(() => (isShown.value = false));
  }
  watch([isShown, () => value.value], ([shown, now], _, onCleanup) => void (shown && onCleanup(begin(now as Value))), { immediate: true });
}

function clientOf(source: Rollcall | RollcallOptions): Rollcall {
  if (source instanceof Rollcall) return source;
  if (typeof source?.token !== "function") throw new TypeError("give a Rollcall client, or options with a `token` function");
  // A server has no origin, and what is made there never connects.
  const url = source.url ?? (typeof location === "undefined" ? "http://localhost" : undefined);
  return new Rollcall({ ...source, ...(url !== undefined && { url }), connect: false });
}

function refsOf<Answer extends object>(answer: { readonly value: Answer }): Refs<Answer> {
  const fields = Object.keys(answer.value) as (keyof Answer)[];
  return Object.fromEntries(fields.map((field) => [field, computed(() => answer.value[field])])) as unknown as Refs<Answer>;
}
