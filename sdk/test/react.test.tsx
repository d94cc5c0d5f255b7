// The hooks, in components that are mounted without a browser, with a server that the test plays.

import "./dom.js";

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Rollcall, type Member } from "@rollcall/client";
import {
  RollcallProvider,
  useConnectionState,
  useMembers,
  useOccupancy,
  usePresence,
  useRollcall,
  useTyping,
  useUserStatus,
  type PresenceOptions,
} from "@rollcall/client/react";
import { act, cleanup, render, type RenderResult } from "@testing-library/react";
import { StrictMode, useEffect, type ReactNode } from "react";
import { renderToString } from "react-dom/server";

import { FakeSocket, opened, pass as passTime, settle, startClock, startOver } from "./fake.js";
import { admit as admitTo, ann, delta as heardDelta, hear as heard, hearUsers as heardUsers } from "./stage.js";

const LINGER_MS = 500;
const ben = { ...ann, user: "ben", since: 2 };

/** What the server does is done, and React has shown it. */
const shown = <Rest extends unknown[], Answer>(what: (...rest: Rest) => Promise<Answer>) =>
  async (...rest: Rest): Promise<Answer> => {
    let answer!: Answer;
    await act(async () => void (answer = await what(...rest)));
    return answer;
  };
const admit = shown(admitTo);
const delta = shown(heardDelta);
const hear = shown(heard);
const hearUsers = shown(heardUsers);
const pass = shown(passTime);
const settled = shown(settle);

let client: Rollcall;

beforeEach(async () => {
  startOver();
  client = await opened({ share: false });
});

afterEach(async () => {
  cleanup();
  await passTime(LINGER_MS);
  client.close();
  startClock();
});

/** Renders below a provider with the client of the test. */
function mount(child: ReactNode, wrapper: (tree: ReactNode) => ReactNode = (tree) => tree): RenderResult & { show(child: ReactNode): void } {
  const tree = (inner: ReactNode) => wrapper(<RollcallProvider client={client}>{inner}</RollcallProvider>);
  const result = render(tree(child));
  return { ...result, show: (next) => result.rerender(tree(next)) };
}

const count = (op: string) => FakeSocket.last.count(op);
const asked = (op: string) => FakeSocket.last.asked(op);

function People({ channel = "room", ...options }: { channel?: string | null } & PresenceOptions<{ name?: string }>) {
  const { onlineUsers, userCount, isLoading, isLive, isJoined, error } = usePresence<{ name?: string }>(channel, options);
  if (error) return <p>{error.code}</p>;
  if (isLoading) return <p>loading</p>;
  return <p>{`${onlineUsers.map(({ user }) => user).join()} ${userCount} ${isLive ? "live" : "not live"}${isJoined ? "" : " out"}`}</p>;
}

test("a component is in its channel, shows who else is, and leaves a moment after it has gone", async () => {
  const { container, unmount } = mount(<People state={{ name: "Ann" }} />);
  assert.equal(container.textContent, "loading");
  assert.deepEqual((await admit()).state, { name: "Ann" });
  assert.equal(container.textContent, "ann 1 live");
  await delta(1, 2, { join: [ben], occupancy: { users: 2, connections: 2 } });
  assert.equal(container.textContent, "ann,ben 2 live");
  unmount();
  await pass(LINGER_MS - 1);
  assert.equal(count("leave"), 0);
  await pass(1);
  assert.deepEqual([count("leave"), count("unwatch")], [1, 1]);
});

test("in StrictMode, which mounts everything twice, others see one join and no leave", async () => {
  const { container } = mount(<People />, (tree) => <StrictMode>{tree}</StrictMode>);
  await admit();
  await pass(2 * LINGER_MS);
  assert.equal(container.textContent, "ann 1 live");
  assert.deepEqual(["join", "watch", "leave", "unwatch"].map(count), [1, 1, 0, 0]);
});

test("another channel is joined and the one before is left", async () => {
  const { container, show } = mount(<People />);
  await admit();
  show(<People channel="hall" />);
  await settled();
  assert.equal(container.textContent, "loading");
  assert.equal(asked("join").channel, "hall");
  await admit([ann, ben], "hall");
  assert.equal(container.textContent, "ann,ben 2 live");
  await pass(LINGER_MS);
  assert.deepEqual([asked("leave").channel, count("leave")], ["room", 1]);
});

test("components with the same channel share one place, until the last has gone", async () => {
  const { container, show } = mount([<People key="a" />, <People key="b" />]);
  await admit();
  assert.equal(container.textContent, "ann 1 liveann 1 live");
  assert.equal(count("join"), 1);
  show([<People key="b" />]);
  await pass(2 * LINGER_MS);
  assert.equal(count("leave"), 0);
  await delta(1, 2, { join: [ben], occupancy: { users: 2, connections: 2 } });
  assert.equal(container.textContent, "ann,ben 2 live");
  show([]);
  await pass(LINGER_MS);
  assert.equal(count("leave"), 1);
});

test("a component that is mounted again within half a second has never been away, and shows what it knew at once", async () => {
  const { container, show } = mount(<People key="a" state={{ name: "Ann" }} />);
  await admit();
  show(null);
  await pass(LINGER_MS - 1);
  show(<People key="b" state={{ name: "Ann" }} />);
  assert.equal(container.textContent, "ann 1 live");
  await pass(2 * LINGER_MS);
  assert.deepEqual(["join", "watch", "leave", "unwatch", "update"].map(count), [1, 1, 0, 0, 0]);
});

test("options that are made anew for each render say nothing, and a state that differs is an update", async () => {
  const { show } = mount(<People state={{ name: "Ann" }} graceMs={5000} />);
  const join = await admit();
  assert.deepEqual([join.state, join.grace_ms], [{ name: "Ann" }, 5000]);
  for (let n = 0; n < 5; n++) show(<People state={{ name: "Ann" }} graceMs={5000} />);
  await settled();
  assert.deepEqual(["join", "update"].map(count), [1, 0]);
  show(<People state={{ name: "Anne" }} graceMs={5000} />);
  await settled();
  assert.deepEqual(asked("update").state, { name: "Anne" });
  // While one is on its way only the latest of those that follow is kept.
  for (const name of ["A", "B", "C"]) show(<People state={{ name }} />);
  await settled();
  assert.equal(count("update"), 1);
  await act(() => FakeSocket.last.answer("update"));
  assert.deepEqual([count("update"), asked("update").state], [2, { name: "C" }]);
  await act(() => FakeSocket.last.answer("update"));
  show(<People />);
  await settled();
  assert.deepEqual(asked("update").state, { name: null });
  assert.deepEqual(["join", "leave"].map(count), [1, 0]);
});

test("what `update` sets stays beside what the options say", async () => {
  let update!: (patch: { mood?: string; name?: string }) => Promise<void>;
  function Mood({ name }: { name: string }) {
    ({ update } = usePresence<{ name?: string; mood?: string }>("room", { state: { name } }));
    return null;
  }
  const { show } = mount(<Mood name="Ann" />);
  await admit();
  void update({ mood: "glad" });
  await act(() => FakeSocket.last.answer("update"));
  show(<Mood name="Anne" />);
  await settled();
  assert.deepEqual(asked("update").state, { name: "Anne" });
  assert.deepEqual(client.join<{ mood?: string }>("room").state.mood, "glad");
});

test("a state that the server does not take is told, and the next one is sent", async () => {
  const { container, show } = mount(<People state={{ name: "Ann" }} />);
  await admit();
  show(<People state={{ name: "much too long" }} />);
  await act(() => FakeSocket.last.refuse("update", { code: "too_large" }));
  assert.deepEqual([container.textContent, count("update")], ["too_large", 1]);
  show(<People state={{ name: "Anne" }} />);
  await settled();
  assert.deepEqual(asked("update").state, { name: "Anne" });
  await act(() => FakeSocket.last.answer("update"));
  assert.equal(container.textContent, "ann 1 live");
});

test("a refusal is over when the state is again what it was before, and the refused one may be tried another time", async () => {
  const { container, show } = mount(<People state={{ name: "Ann" }} />);
  await admit();
  show(<People state={{ name: "much too long" }} />);
  await act(() => FakeSocket.last.refuse("update", { code: "too_large" }));
  assert.equal(container.textContent, "too_large");
  show(<People state={{ name: "Ann" }} />);
  await settled();
  assert.deepEqual([container.textContent, count("update")], ["ann 1 live", 1]);
  show(<People state={{ name: "much too long" }} />);
  await act(() => FakeSocket.last.refuse("update", { code: "too_large" }));
  assert.deepEqual([container.textContent, count("update")], ["too_large", 2]);
});

test("whoever is mounted where somebody is in the channel already has the handle too", async () => {
  const rooms: unknown[] = [];
  function Named({ at }: { at: number }) {
    rooms[at] = usePresence("room").room;
    return null;
  }
  const { show } = mount([<Named key="0" at={0} />]);
  await admit();
  show([<Named key="0" at={0} />, <Named key="1" at={1} />]);
  await settled();
  assert.ok(rooms[0]);
  assert.equal(rooms[1], rooms[0]);
});

test("states of several components in one channel are shown together", async () => {
  const one = <People key="a" state={{ name: "Ann" }} />;
  function Mood() {
    usePresence<{ mood: string }>("room", { state: { mood: "glad" } });
    return null;
  }
  const { show } = mount([one]);
  await admit();
  show([one, <Mood key="b" />]);
  await settled();
  assert.deepEqual(asked("update").state, { mood: "glad" });
  await act(() => FakeSocket.last.answer("update"));
  show([one]);
  await pass(LINGER_MS);
  assert.deepEqual(asked("update").state, { mood: null });
});

test("who is mounted together joins together: a child that comes before its parent takes nothing of what the parent says", async () => {
  function Page() {
    const { update } = usePresence<{ name: string; mood?: string }>("room", { state: { name: "Ann" }, graceMs: 60_000, onLeave: { gone: true } });
    useEffect(() => void update({ mood: "glad" }), [update]);
    return <Field />;
  }
  mount(<Page />);
  const join = await admit();
  assert.deepEqual([join.state, join.grace_ms, join.on_leave], [{ name: "Ann" }, 60_000, { gone: true }]);
  assert.deepEqual([count("join"), asked("update").state], [1, { mood: "glad" }]);
});

test("who has gone before anything was asked for asks for nothing", async () => {
  mount(<People />).unmount();
  await pass(2 * LINGER_MS);
  assert.deepEqual(["join", "watch", "leave"].map(count), [0, 0, 0]);
});

test("a refusal is part of the answer, and who is mounted later asks again", async () => {
  const { container, show } = mount(<People key="a" />);
  await act(() => FakeSocket.last.refuse("join", { code: "forbidden" }));
  assert.equal(container.textContent, "forbidden");
  show(<People key="b" />);
  await settled();
  assert.equal(count("join"), 2);
  await admit();
  assert.equal(container.textContent, "ann 1 live");
});

test("who is taken out is told so, and stays out until another component is mounted where those before have gone", async () => {
  const { container, show } = mount([<People key="a" />]);
  await admit();
  await hear({ event: "left", reason: "kicked" });
  assert.equal(container.textContent, "kicked");
  show([<People key="a" />, <People key="c" />]);
  await pass(2 * LINGER_MS);
  assert.deepEqual([container.textContent, count("join")], ["kickedkicked", 1]);
  show([<People key="b" />]);
  await settled();
  assert.equal(count("join"), 2);
});

test("while the connection is away the list stays and says so, and afterwards nothing is joined anew", async () => {
  function State() {
    const { state, error } = useConnectionState();
    return <i>{`${state}${error ? ` ${error.code}` : ""} `}</i>;
  }
  const { container } = mount([<State key="s" />, <People key="p" />]);
  await admit();
  assert.equal(container.textContent, "open ann 1 live");
  await act(async () => FakeSocket.last.breaks());
  assert.equal(container.textContent, "waiting unavailable ann 1 not live");
  await pass(250);
  await act(() => FakeSocket.last.welcome("r2", { resumed: true, channels: ["room"] }));
  await act(() => FakeSocket.last.answer("watch"));
  assert.equal(container.textContent, "open ann 1 live");
  assert.deepEqual(["join", "watch"].map(count), [0, 1]);
});

test("a client that is closed and connects again has its components back in their channels", async () => {
  const { container } = mount(<People state={{ name: "Ann" }} />);
  await admit();
  act(() => client.close());
  assert.equal(container.textContent, "closed");
  await act(async () => {
    client.connect();
    await settle();
  });
  await act(() => FakeSocket.last.welcome("r2"));
  assert.deepEqual((await admit()).state, { name: "Ann" });
  assert.equal(container.textContent, "ann 1 live");
});

test("a client that ends says why instead of loading for ever, until it is told to connect again", async () => {
  const { container, show } = mount(<People key="a" />);
  await settled();
  act(() => FakeSocket.last.breaks(4504, "banned"));
  show([<People key="a" />, <People key="b" channel="hall" />]);
  await settled();
  assert.equal(container.textContent, "bannedbanned");
  show(<People key="a" />);
  await pass(LINGER_MS);
  await act(async () => {
    client.connect();
    await settle();
  });
  await act(() => FakeSocket.last.welcome("r2"));
  await admit();
  assert.equal(container.textContent, "ann 1 live");
});

test("without a channel nothing is asked for", async () => {
  const { container, show } = mount(<People channel={null} />);
  assert.equal(container.textContent, " 0 not live out");
  await settled();
  assert.equal(count("join"), 0);
  show(<People />);
  await admit();
  assert.equal(container.textContent, "ann 1 live");
});

test("another level does not leave meanwhile, and two at a time are a conflict that is told", async () => {
  const { container, show } = mount(<People state={{ name: "Ann" }} />);
  await admit();
  show(<People level="connections" />);
  await settled();
  assert.deepEqual((await act(() => FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 1 }))).state, {});
  await act(() => FakeSocket.last.answer("watch"));
  await hear({ event: "snapshot", level: "connections", version: 1, members: [{ ...ann, connection: "1" }, { ...ann, connection: "2" }], more: false });
  assert.equal(container.textContent, "ann,ann 1 live");
  await pass(2 * LINGER_MS);
  assert.equal(count("leave"), 0);
  show([<People key="a" level="connections" />, <People key="b" />]);
  await settled();
  assert.match(container.textContent ?? "", /^ann,ann 1 live(conflict)$/);
});

test("a conflict is over when the one with the other level has gone", async () => {
  const { container, show } = mount([<People key="a" level="connections" />]);
  await admit([{ ...ann, connection: "1" }]);
  show([<People key="a" level="connections" />, <People key="b" />]);
  await settled();
  assert.match(container.textContent ?? "", /conflict$/);
  show([<People key="b" />]);
  await pass(LINGER_MS);
  await admit();
  assert.equal(container.textContent, "ann 1 live");
});

test("whoever only watches has no error any more after the client was told to connect again, also where nothing has happened", async () => {
  function Watcher() {
    const { userCount, isLive, error } = useMembers("room");
    return <p>{`${userCount} ${isLive ? "live" : "not live"} ${error?.code ?? ""}`}</p>;
  }
  const { container } = mount(<Watcher />);
  await act(() => FakeSocket.last.answer("watch"));
  await hear({ event: "snapshot", level: "users", version: 1, members: [ben], more: false });
  assert.equal(container.textContent, "1 live ");
  await act(async () => FakeSocket.last.breaks(4505, "too many"));
  assert.equal(container.textContent, "1 not live limit");
  await act(async () => {
    client.connect();
    await settle();
  });
  await act(() => FakeSocket.last.welcome("r2"));
  await act(() => FakeSocket.last.answer("watch"));
  assert.equal(container.textContent, "1 live ");
});

test("that one may not be in a channel is no error of who only watches it", async () => {
  function Watcher() {
    const { userCount, isLive, error } = useMembers("room");
    return <p>{`${userCount} ${isLive ? "live" : "not live"} ${error?.code ?? ""}`}</p>;
  }
  const { container, show } = mount([<Watcher key="w" />]);
  await act(() => FakeSocket.last.answer("watch"));
  await hear({ event: "snapshot", level: "users", version: 1, members: [ben], more: false });
  show([<Watcher key="w" />, <People key="p" />]);
  await act(() => FakeSocket.last.refuse("join", { code: "forbidden" }));
  assert.equal(container.textContent, "1 live forbidden");
  assert.equal(container.firstElementChild?.textContent, "1 live ");
});

test("whoever counts only ends nothing early", async () => {
  function Count() {
    return <p>{useOccupancy("room").users}</p>;
  }
  const { show } = mount(<People key="a" />);
  await admit();
  show(<Count key="c" />);
  await pass(LINGER_MS - 1);
  show(<People key="b" />);
  await pass(2 * LINGER_MS);
  assert.equal(count("leave"), 0);
});

test("who watches is not in the channel, and counts cost a count", async () => {
  function Watcher() {
    const { members, userCount, typing } = useMembers("room");
    return <p>{`${members.map(({ user }: Member) => user).join()} ${userCount} ${typing.join()}`}</p>;
  }
  function Count() {
    const { users, connections, isLoading } = useOccupancy("hall");
    return <p>{isLoading ? "…" : `${users}/${connections}`}</p>;
  }
  const { container } = mount([<Watcher key="w" />, <Count key="c" />]);
  await settled();
  assert.equal(count("join"), 0);
  await hear({ event: "snapshot", level: "users", version: 1, members: [ben], more: false });
  await hear({ event: "snapshot", channel: "hall", level: "occupancy", version: 1, more: false, occupancy: { users: 7, connections: 9 } });
  for (const user of ["ann", "ben"]) await hear({ event: "typing", user, typing: true });
  assert.equal(container.textContent, "ben 1 ben7/9");
  assert.deepEqual(asked("watch"), { id: asked("watch").id, op: "watch", channel: "hall", level: "occupancy" });
});

function Field() {
  const { typing, sentence, start, stop } = useTyping<{ name?: string }>("room", { name: (user, member) => member?.state.name ?? user });
  return <p onClick={start} onBlur={stop} title={typing.join()}>{sentence}</p>;
}

test("who types is a sentence with the names that the members have, oneself left out", async () => {
  const { container } = mount(<Field />);
  const hostile = { ...ann, user: "<img/src=x/onerror=alert(1)>" };
  await admit([ann, { ...ben, state: { name: "Ben" } }, hostile, { ...ann, user: "__proto__" }]);
  const types = (user: string, typing = true) => hear({ event: "typing", user, typing });
  await types("ann");
  assert.equal(container.textContent, "");
  await types("ben");
  assert.equal(container.textContent, "Ben is typing…");
  await types(hostile.user);
  assert.equal(container.textContent, "Ben and <img/src=x/onerror=alert(1)> are typing…");
  assert.equal(container.querySelector("img"), null);
  await types("__proto__");
  assert.equal(container.textContent, "3 people are typing…");
  await types("ben", false);
  await types(hostile.user, false);
  assert.equal(container.textContent, "__proto__ is typing…");
});

test("one's own typing is said when it begins and when it ends, at the latest with the component", async () => {
  const { container, show } = mount([<Field key="f" />, <People key="p" />]);
  await admit();
  const field = container.querySelector("p");
  await act(async () => field?.click());
  await act(async () => field?.click());
  assert.deepEqual([count("typing"), asked("typing").typing], [1, true]);
  await pass(3500);
  assert.equal(asked("typing").typing, false);
  await act(async () => field?.click());
  assert.equal(asked("typing").typing, true);
  show([<People key="p" />]);
  await settled();
  assert.equal(asked("typing").typing, false);
});

test("where nobody may type the field says so, and the list of those who are there stays", async () => {
  function Bare() {
    const { start, error } = useTyping("room");
    return <p onClick={start}>{error?.code}</p>;
  }
  const { container } = mount([<Bare key="b" />, <People key="p" />]);
  await admit();
  await act(async () => container.querySelector("p")?.click());
  await act(() => FakeSocket.last.refuse("typing", { code: "forbidden" }));
  assert.equal(container.textContent, "forbiddenann 1 live");
});

function Friend({ user }: { user: string }) {
  const { status, isOnline, isLoading, error } = useUserStatus(user);
  return <p>{error?.code ?? (isLoading ? "…" : `${status}${isOnline ? "!" : ""}`)}</p>;
}

function Friends({ users }: { users: string[] }) {
  const { users: views, isLoading } = useUserStatus(users);
  return <p>{[...views].map(([user, { status }]) => `${user} ${status}`).join()}{isLoading ? "…" : ""}</p>;
}

test("many who ask for one user each ask together, and are told of their own", async () => {
  const { container, show } = mount([<Friend key="b" user="ben" />, <Friend key="z" user="zoe" />, <Friend key="2" user="ben" />]);
  await settled();
  assert.deepEqual([count("watch"), asked("watch").users], [1, ["ben", "zoe"]]);
  await act(() => FakeSocket.last.answer("watch", { watching: 2 }));
  await hearUsers([{ user: "ben", status: "away" }, { user: "zoe", status: "offline", last_seen: 5 }]);
  assert.equal(container.textContent, "away!offlineaway!");
  show([]);
  await pass(LINGER_MS);
  assert.deepEqual([count("unwatch"), (asked("unwatch").users as string[]).sort()], [1, ["ben", "zoe"]]);
});

test("a list of users may grow and shrink, and those who are known stay known", async () => {
  const { container, show } = mount(<Friends users={["ben", "zoe"]} />);
  await act(() => FakeSocket.last.answer("watch", { watching: 2 }));
  await hearUsers([{ user: "ben", status: "away" }, { user: "zoe", status: "online" }]);
  assert.equal(container.textContent, "ben away,zoe online");
  show(<Friends users={["zoe", "kim"]} />);
  assert.equal(container.textContent, "zoe online…");
  await act(() => FakeSocket.last.answer("watch", { watching: 3 }));
  await hearUsers([{ user: "kim", status: "busy" }]);
  assert.equal(container.textContent, "zoe online,kim busy");
  await pass(LINGER_MS);
  assert.deepEqual(asked("unwatch").users, ["ben"]);
});

test("a user who may not be watched is an error, and the others are watched", async () => {
  const { container } = mount(<Friend user="ben" />);
  await act(() => FakeSocket.last.refuse("watch", { code: "forbidden" }));
  assert.equal(container.textContent, "forbidden");
});

test("a provider that makes its client connects once, asks the latest `token`, and closes it when it has gone", async () => {
  const before = FakeSocket.all.length;
  const asked: string[] = [];
  const app = (name: string) => (
    <StrictMode>
      <RollcallProvider url="http://there" share={false} WebSocket={FakeSocket} token={() => (asked.push(name), "h.e30.s")}>
        <People />
      </RollcallProvider>
    </StrictMode>
  );
  const { container, rerender, unmount } = render(app("first"));
  rerender(app("second"));
  await settled();
  assert.equal(FakeSocket.all.length, before + 1);
  const socket = FakeSocket.last;
  await act(() => socket.welcome("r"));
  await admit();
  assert.equal(container.textContent, "ann 1 live");
  await act(async () => socket.breaks(4501));
  await pass(250);
  assert.deepEqual(asked, ["first", "second"]);
  await act(() => FakeSocket.last.welcome("r"));
  unmount();
  await pass(LINGER_MS - 1);
  assert.equal(FakeSocket.last.closedWith, undefined);
  await pass(1);
  assert.deepEqual([FakeSocket.last.closedWith, count("bye")], [1000, 1]);
});

test("a provider whose address is another makes another client, and closes the one before", async () => {
  const app = (url: string) => <RollcallProvider url={url} share={false} WebSocket={FakeSocket} token={() => "h.e30.s"}><People /></RollcallProvider>;
  const { rerender } = render(app("http://here"));
  await settled();
  const first = FakeSocket.last;
  await act(() => first.welcome("r"));
  rerender(app("http://elsewhere"));
  await pass(LINGER_MS);
  assert.deepEqual([first.closedWith, FakeSocket.last.url], [1000, "ws://elsewhere/v1/ws"]);
});

test("what is missing is said", () => {
  const silence = console.error;
  console.error = () => {};
  try {
    assert.throws(() => render(<People />), /put a <RollcallProvider> around/);
    const Loose = RollcallProvider as (props: { children: ReactNode }) => ReactNode;
    assert.throws(() => render(<Loose>nothing</Loose>), /wants a `client`, or a `token`/);
  } finally {
    console.error = silence;
  }
});

test("a server renders what loads, and connects to nothing", async () => {
  const before = FakeSocket.all.length;
  let tokens = 0;
  const { document, location } = globalThis;
  // As on a server.
  Object.assign(globalThis, { document: undefined, location: undefined });
  try {
    const html = renderToString(
      <RollcallProvider token={() => `${++tokens}`} WebSocket={FakeSocket}>
        <People />
        <People channel={null} />
        <Field />
        <Friend user="ben" />
      </RollcallProvider>,
    );
    assert.equal(html, '<p>loading</p><p> 0 not live out</p><p title=""></p><p>…</p>');
  } finally {
    Object.assign(globalThis, { document, location });
  }
  await settle();
  assert.deepEqual([FakeSocket.all.length, tokens], [before, 0]);
});

test("what a server has rendered is taken over as it is", async () => {
  const tree = <RollcallProvider client={client}><People /></RollcallProvider>;
  const container = document.createElement("div");
  container.innerHTML = renderToString(tree);
  const complaints: unknown[] = [];
  const { unmount } = render(tree, { container, hydrate: true, onRecoverableError: (error) => complaints.push(error) });
  await admit();
  assert.deepEqual([container.textContent, complaints], ["ann 1 live", []]);
  unmount();
});

test("while others only type the list of who is there is the same object", async () => {
  const seen: (readonly unknown[])[] = [];
  function People() {
    const { onlineUsers } = usePresence("room");
    const { members } = useMembers("room");
    const { typing } = useTyping("room");
    seen.push([onlineUsers, members, typing]);
    return null;
  }
  mount(<People />);
  await admit([ann, ben]);
  const before = seen.at(-1) ?? [];
  await hear({ event: "typing", user: "ben", typing: true });
  const after = seen.at(-1) ?? [];
  assert.deepEqual([before[2], after[2]], [[], ["ben"]]);
  assert.ok(after[0] === before[0] && after[1] === before[1]);
  await delta(1, 2, { leave: [{ user: "ben", reason: "left", state: {} }] });
  assert.deepEqual(seen.at(-1)?.[0], [ann]);
});

test("a render for nothing new gives the same objects", async () => {
  const seen: unknown[] = [];
  function Same() {
    const presence = usePresence("room", { state: {} });
    const typing = useTyping("room");
    const client = useRollcall();
    seen.push([presence, presence.onlineUsers, typing, client]);
    return null;
  }
  const { show } = mount(<Same />);
  await admit();
  show(<Same />);
  const [last, before] = [seen.at(-1), seen.at(-2)] as [unknown[], unknown[]];
  last.forEach((value, at) => assert.equal(value, before[at]));
});
