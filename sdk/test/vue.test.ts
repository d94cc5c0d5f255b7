// The composables, in components that are mounted without a browser, with a server that the test plays.

import "./dom.js";

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Rollcall } from "@rollcall/client";
import {
  createRollcall,
  provideRollcall,
  useConnectionState,
  useMembers,
  useOccupancy,
  usePresence,
  useRollcall,
  useTyping,
  useUserStatus,
  type PresenceOptions,
} from "@rollcall/client/vue";
import { enableAutoUnmount, mount as mountComponent, type VueWrapper } from "@vue/test-utils";
import { createApp, createSSRApp, defineComponent, effectScope, h, KeepAlive, nextTick, reactive, ref, shallowRef, type PropType, type VNodeChild } from "vue";
import { renderToString } from "vue/server-renderer";

import { FakeSocket, opened, pass as passTime, settle, startClock, startOver } from "./fake.js";
import { admit, ann, delta, hear, hearUsers } from "./stage.js";

const LINGER_MS = 500;
const ben = { ...ann, user: "ben", since: 2 };
const elsewhere = { url: "http://here", share: false, WebSocket: FakeSocket, token: () => "h.e30.s" };

let client: Rollcall;

beforeEach(async () => {
  startOver();
  client = await opened({ share: false });
});

// Before the client is closed.
enableAutoUnmount(afterEach);
afterEach(async () => {
  await passTime(LINGER_MS);
  client.close();
  startClock();
});

const count = (op: string) => FakeSocket.last.count(op);
const asked = (op: string) => FakeSocket.last.asked(op);
const pass = async (ms: number) => {
  await nextTick();
  await passTime(ms);
};

/** Mounts what the function renders, which may be another for other values of what it reads. */
function mount(view: () => VNodeChild, plugin = createRollcall(client)): VueWrapper {
  return mountComponent({ render: () => h("div", [view()]) }, { global: { plugins: [plugin] } });
}

const People = defineComponent({
  props: { channel: { type: String as PropType<string | null>, default: "room" }, state: Object, level: String },
  setup(props) {
    const options = () => ({ ...(props.state && { state: props.state }), ...(props.level && { level: props.level }) }) as PresenceOptions;
    const { onlineUsers, userCount, isLoading, isLive, isJoined, error } = usePresence(() => props.channel, options);
    return () => {
      if (error.value) return error.value.code;
      if (isLoading.value) return "loading";
      return `${onlineUsers.value.map(({ user }) => user).join() || "nobody"} ${userCount.value} ${isLive.value ? "live" : "not live"}${isJoined.value ? "" : " out"}`;
    };
  },
});

test("a component is in its channel, shows who else is, and leaves a moment after it has gone", async () => {
  const page = mount(() => h(People, { state: { name: "Ann" } }));
  assert.equal(page.text(), "loading");
  assert.deepEqual((await admit()).state, { name: "Ann" });
  await nextTick();
  assert.equal(page.text(), "ann 1 live");
  await delta(1, 2, { join: [ben], occupancy: { users: 2, connections: 2 } });
  assert.equal(page.text(), "ann,ben 2 live");
  page.unmount();
  await pass(LINGER_MS - 1);
  assert.equal(count("leave"), 0);
  await pass(1);
  assert.deepEqual([count("leave"), count("unwatch")], [1, 1]);
});

test("whoever is mounted where somebody is in the channel already has the handle too", async () => {
  const rooms: ReturnType<typeof usePresence>["room"][] = [];
  const Named = defineComponent(() => {
    rooms.push(usePresence("room").room);
    return () => null;
  });
  const isBeside = ref(false);
  mount(() => [h(Named), isBeside.value ? h(Named) : null]);
  await admit();
  isBeside.value = true;
  await nextTick();
  await settle();
  assert.ok(rooms[0]?.value);
  assert.equal(rooms[1]?.value, rooms[0]?.value);
});

test("another channel is joined and the one before is left, and one that is mounted again has never been away", async () => {
  const channel = ref<string | null>(null);
  const key = ref(1);
  const page = mount(() => h(People, { channel: channel.value, key: key.value }));
  await settle();
  assert.deepEqual([page.text(), count("join")], ["nobody 0 not live out", 0]);
  channel.value = "room";
  await admit();
  assert.equal(page.text(), "ann 1 live");
  key.value = 2;
  await nextTick();
  assert.equal(page.text(), "ann 1 live");
  await pass(2 * LINGER_MS);
  assert.deepEqual(["join", "watch", "leave", "unwatch"].map(count), [1, 1, 0, 0]);
  channel.value = "hall";
  await admit([ann, ben], "hall");
  assert.equal(page.text(), "ann,ben 2 live");
  await pass(LINGER_MS);
  assert.deepEqual([asked("leave").channel, count("leave")], ["room", 1]);
});

test("components with the same channel share one place, until the last has gone", async () => {
  const keys = ref([1, 2]);
  const page = mount(() => keys.value.map((key) => h(People, { key })));
  await admit();
  assert.equal(page.text(), "ann 1 liveann 1 live");
  assert.equal(count("join"), 1);
  keys.value = [2];
  await pass(2 * LINGER_MS);
  assert.equal(count("leave"), 0);
  keys.value = [];
  await pass(LINGER_MS);
  assert.equal(count("leave"), 1);
});

test("a state that is changed in place is an update, once for all that changes together", async () => {
  const state = reactive<{ name: string; mood?: string }>({ name: "Ann" });
  mount(() => h(defineComponent({
    setup() {
      usePresence("room", { state });
      return () => null;
    },
  })));
  assert.deepEqual((await admit()).state, { name: "Ann" });
  state.name = "Anne";
  state.mood = "glad";
  await settle();
  assert.deepEqual([count("update"), asked("update").state], [1, { name: "Anne", mood: "glad" }]);
  await FakeSocket.last.answer("update");
  delete state.mood;
  await settle();
  assert.deepEqual(asked("update").state, { mood: null });
});

test("a component that a KeepAlive hides is not in its channel, and is again when it is shown", async () => {
  const isShown = ref(true);
  const page = mount(() => h(KeepAlive, null, { default: () => (isShown.value ? h(People) : null) }));
  await admit();
  isShown.value = false;
  await nextTick();
  await delta(1, 2, { join: [ben], occupancy: { users: 2, connections: 2 } });
  isShown.value = true;
  await settle();
  assert.equal(page.text(), "ann,ben 2 live", "what happened meanwhile is shown");
  isShown.value = false;
  await pass(LINGER_MS);
  assert.equal(count("leave"), 1);
  await FakeSocket.last.answer("leave");
  isShown.value = true;
  await admit();
  assert.equal(page.text(), "ann 1 live");
  assert.deepEqual(["join", "leave"].map(count), [2, 1]);
});

test("a refusal is part of the answer, and who is mounted later asks again", async () => {
  const key = ref(1);
  const page = mount(() => h(People, { key: key.value }));
  await FakeSocket.last.refuse("join", { code: "forbidden" });
  assert.equal(page.text(), "forbidden");
  key.value = 2;
  await admit();
  assert.equal(page.text(), "ann 1 live");
});

test("components of a client that was closed say so, each of them", async () => {
  client.close();
  const page = mount(() => [h(People), h(People)]);
  await settle();
  assert.equal(page.text(), "closedclosed");
});

test("what is read anew and is the same ends no typing", async () => {
  const name = ref("Ann");
  let start!: () => void;
  mount(() => h(defineComponent(() => {
    const { sentence, start: begin } = useTyping(() => (name.value ? "room" : null), () => ({ name: () => name.value }));
    start = begin;
    return () => sentence.value;
  })));
  await admit();
  start();
  name.value = "Anne";
  await settle();
  assert.deepEqual([count("typing"), asked("typing").typing], [1, true]);
});

test("while the connection is away the list stays and says so, and afterwards nothing is joined anew", async () => {
  const State = defineComponent(() => {
    const { state, error } = useConnectionState();
    return () => `${state.value}${error.value ? ` ${error.value.code}` : ""} `;
  });
  const page = mount(() => [h(State), h(People)]);
  await admit();
  assert.equal(page.text(), "open ann 1 live");
  FakeSocket.last.breaks();
  await nextTick();
  assert.equal(page.text(), "waiting unavailable ann 1 not live");
  await pass(250);
  await FakeSocket.last.welcome("r2", { resumed: true, channels: ["room"] });
  await FakeSocket.last.answer("watch");
  assert.equal(page.text(), "open ann 1 live");
  assert.deepEqual(["join", "watch"].map(count), [0, 1]);
});

test("who watches is not in the channel, and counts cost a count", async () => {
  const Watcher = defineComponent(() => {
    const { members, userCount } = useMembers("room");
    const { users, connections } = useOccupancy("hall");
    return () => `${members.value.map(({ user }) => user).join()} ${userCount.value} ${users.value}/${connections.value}`;
  });
  const page = mount(() => h(Watcher));
  await settle();
  assert.equal(count("join"), 0);
  await hear({ event: "snapshot", level: "users", version: 1, members: [ben], more: false });
  await hear({ event: "snapshot", channel: "hall", level: "occupancy", version: 1, more: false, occupancy: { users: 7, connections: 9 } });
  assert.equal(page.text(), "ben 1 7/9");
});

test("who types is a sentence, oneself left out, and one's own typing ends with the component", async () => {
  const isShown = ref(true);
  const Field = defineComponent(() => {
    const { sentence, start, stop } = useTyping<{ name?: string }>("room", { name: (user, member) => member?.state.name ?? user });
    return () => h("p", { onClick: start, onBlur: stop }, sentence.value);
  });
  const page = mount(() => [isShown.value ? h(Field) : null, h(People)]);
  const sentence = () => page.get("p").text();
  await admit([ann, { ...ben, state: { name: "Ben" } }, { ...ann, user: "<img/src=x/onerror=alert(1)>" }]);
  await hear({ event: "typing", user: "ann", typing: true });
  assert.equal(sentence(), "");
  await hear({ event: "typing", user: "ben", typing: true });
  await hear({ event: "typing", user: "<img/src=x/onerror=alert(1)>", typing: true });
  assert.equal(sentence(), "Ben and <img/src=x/onerror=alert(1)> are typing…");
  assert.equal(page.find("img").exists(), false);
  await page.get("p").trigger("click");
  await settle();
  assert.equal(asked("typing").typing, true);
  isShown.value = false;
  await settle();
  assert.equal(asked("typing").typing, false);
  assert.match(page.text(), /^ann,ben/);
});

test("users are watched one by one or as a list that may change, and those who are known stay known", async () => {
  const users = shallowRef<readonly string[]>(["ben", "zoe"]);
  const one = ref("ben");
  const Friends = defineComponent(() => {
    const list = useUserStatus(users);
    const { status, isOnline, isLoading } = useUserStatus(one);
    return () => `${[...list.users.value].map(([user, { status: how }]) => `${user} ${how}`).join()} | ${isLoading.value ? "…" : status.value}${isOnline.value ? "!" : ""}`;
  });
  const page = mount(() => h(Friends));
  await settle();
  assert.deepEqual([count("watch"), asked("watch").users], [1, ["ben", "zoe"]]);
  await FakeSocket.last.answer("watch", { watching: 2 });
  await hearUsers([{ user: "ben", status: "away" }, { user: "zoe", status: "offline" }]);
  assert.equal(page.text(), "ben away,zoe offline | away!");
  users.value = ["zoe", "kim"];
  one.value = "zoe";
  await nextTick();
  assert.equal(page.text(), "zoe offline | offline");
  await FakeSocket.last.answer("watch", { watching: 3 });
  await hearUsers([{ user: "kim", status: "busy" }]);
  assert.equal(page.text(), "zoe offline,kim busy | offline");
  await pass(LINGER_MS);
  assert.deepEqual(asked("unwatch").users, ["ben"]);
});

test("a client that is made for an application connects when it is mounted, and is closed with it", async () => {
  const before = FakeSocket.all.length;
  const page = mount(() => h(People), createRollcall(elsewhere));
  await settle();
  assert.equal(FakeSocket.all.length, before + 1);
  await FakeSocket.last.welcome("r");
  await admit();
  assert.equal(page.text(), "ann 1 live");
  page.unmount();
  await pass(LINGER_MS);
  assert.deepEqual([FakeSocket.last.closedWith, count("bye")], [1000, 1]);
});

test("a client of two applications is closed with the last, however often the other is unmounted", async () => {
  const plugin = createRollcall(elsewhere);
  const [first, second] = [mount(() => h(People), plugin), mount(() => h(People), plugin)];
  await settle();
  await FakeSocket.last.welcome("r");
  await admit();
  first.unmount();
  first.unmount();
  await pass(LINGER_MS);
  assert.deepEqual([FakeSocket.last.closedWith, second.text()], [undefined, "ann 1 live"]);
  second.unmount();
  await pass(LINGER_MS);
  assert.equal(FakeSocket.last.closedWith, 1000);
});

test("a component may provide a client, for itself and all below it", async () => {
  const isShown = ref(true);
  const found: Rollcall[] = [];
  const Below = defineComponent(() => {
    found.push(useRollcall());
    return () => null;
  });
  const Above = defineComponent(() => {
    found.push(provideRollcall(elsewhere));
    const { onlineUsers } = usePresence("room");
    return () => [onlineUsers.value.length, h(Below)];
  });
  const page = mount(() => (isShown.value ? h(Above) : null));
  assert.equal(found[0], found[1]);
  assert.notEqual(found[0], client);
  await settle();
  await FakeSocket.last.welcome("r");
  await admit();
  assert.equal(page.text(), "1");
  isShown.value = false;
  await pass(LINGER_MS);
  assert.equal(FakeSocket.last.closedWith, 1000);
});

test("in a scope without a component it begins at once, and ends with the scope", async () => {
  const app = createApp({}).use(createRollcall(client));
  const scope = effectScope();
  const { onlineUsers } = app.runWithContext(() => scope.run(() => usePresence("room"))) as ReturnType<typeof usePresence>;
  await admit();
  assert.equal(onlineUsers.value.length, 1);
  scope.stop();
  await pass(LINGER_MS);
  assert.equal(count("leave"), 1);
});

test("what is missing is said", () => {
  const app = createApp({});
  assert.throws(() => app.runWithContext(() => useRollcall()), /call `app.use\(createRollcall/);
  assert.throws(() => createRollcall({} as never), /options with a `token` function/);
  assert.throws(() => provideRollcall(client), /in the setup of a component/);
});

test("a server renders what loads, and connects to nothing", async () => {
  const before = FakeSocket.all.length;
  let tokens = 0;
  const { document, location } = globalThis;
  // As on a server.
  Object.assign(globalThis, { document: undefined, location: undefined });
  try {
    const source = { token: () => `${++tokens}`, WebSocket: FakeSocket };
    const app = createSSRApp({ render: () => [h("p", [h(People)]), h("p", [h(People, { channel: null })])] });
    assert.equal(await renderToString(app.use(createRollcall(source))), "<!--[--><p>loading</p><p>nobody 0 not live out</p><!--]-->");
  } finally {
    Object.assign(globalThis, { document, location });
  }
  await settle();
  assert.deepEqual([FakeSocket.all.length, tokens, count("join")], [before, 0, 0]);
});
