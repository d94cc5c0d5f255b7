// Tabs that share one connection, with locks and a radio that the test moves.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Rollcall, type RollcallOptions } from "@rollcall/client";

// Loaded by the client when it is needed; here beforehand, for that takes no time which the test moves.
import "../dist/tabs.js";
import { FakeLocks, FakeRadio, FakeSocket, pass, settle, startClock, startOver } from "./fake.js";

interface Tab {
  readonly client: Rollcall;
  /** The tab is gone without a word. */
  crash(): Promise<void>;
}

let locks: FakeLocks;
let radio: FakeRadio;

beforeEach(() => {
  startOver();
  locks = new FakeLocks();
  radio = new FakeRadio();
});
afterEach(startClock);

async function open(user = "ann", options: Partial<RollcallOptions> = {}): Promise<Tab> {
  const [mine, heard] = [locks.tab(), radio.tab()];
  const token = () => `h.${Buffer.from(JSON.stringify({ sub: user, exp: Date.now() / 1000 + 3600 })).toString("base64url")}.s`;
  const platform = { locks: mine.locks, BroadcastChannel: heard.BroadcastChannel };
  const client = new Rollcall({ url: "http://there", token, WebSocket: FakeSocket, share: true, platform, ...options });
  await settle();
  const crash = async () => {
    heard.crash();
    mine.crash();
    await settle();
  };
  return { client, crash };
}

const snapshot = (version: number, users: string[]) => ({
  event: "snapshot",
  channel: "room",
  level: "users",
  mode: "full",
  epoch: "e",
  version,
  members: users.map((user) => ({ user, status: "online", state: {}, since: 1, connections: 1 })),
  occupancy: { users: users.length, connections: users.length },
  more: false,
  time: 1,
});

async function hear(frame: unknown): Promise<void> {
  FakeSocket.last.hear(frame);
  await settle();
}

/** Both are in the room, through one socket. */
async function two(): Promise<[Tab, Tab]> {
  const one = await open();
  await FakeSocket.last.welcome("r1");
  const room = one.client.join("room");
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 1 });
  await FakeSocket.last.answer("watch");
  await hear(snapshot(1, ["ann"]));
  await room.ready;
  const other = await open();
  const second = other.client.join("room");
  await settle();
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 1 });
  await FakeSocket.last.answer("watch");
  await hear(snapshot(1, ["ann"]));
  await second.ready;
  return [one, other];
}

test("a second tab has no socket of its own, and is told the same", async () => {
  const [one, other] = await two();
  assert.equal(FakeSocket.all.length, 1);
  assert.deepEqual([one.client.isLeader, other.client.isLeader], [true, false]);
  assert.equal(other.client.state, "open");
  assert.equal(other.client.welcome?.connection, one.client.welcome?.connection);
  const told: string[] = [];
  one.client.channel("room").on("join", ({ user }) => told.push(`one ${user}`));
  other.client.channel("room").on("join", ({ user }) => told.push(`other ${user}`));
  const ben = { user: "ben", status: "online", state: {}, since: 1, connections: 1 };
  await hear({ event: "delta", channel: "room", mode: "full", epoch: "e", from: 1, to: 2, join: [ben], occupancy: { users: 2, connections: 2 }, time: 1 });
  assert.deepEqual(told.sort(), ["one ben", "other ben"]);
});

test("another user's tab has a socket of its own", async () => {
  await open();
  await FakeSocket.last.welcome("r1");
  const other = await open("ben");
  assert.equal(FakeSocket.all.length, 2);
  assert.equal(other.client.isLeader, true);
});

test("a channel is left with the last tab that is in it, however a tab ends", async () => {
  const [one, other] = await two();
  await other.crash();
  assert.equal(FakeSocket.last.count("leave"), 0, "one is still there");
  const third = await open();
  third.client.join("room");
  third.client.join("other");
  await settle();
  await FakeSocket.last.answer("join", { channel: "other", epoch: "e", version: 1 });
  await third.crash();
  assert.deepEqual([FakeSocket.last.count("leave"), FakeSocket.last.asked("leave").channel], [1, "other"]);
  one.client.join("room");
  one.client.close();
  assert.equal(FakeSocket.last.count("bye"), 1, "the last tab says goodbye");
});

test("a leader that closes hands its connection over, which goes on without an event", async () => {
  const [one, other] = await two();
  const only = one.client.join("only");
  await FakeSocket.last.answer("join", { channel: "only", epoch: "e", version: 1 });
  await FakeSocket.last.answer("watch");
  await hear({ ...snapshot(1, ["ann"]), channel: "only" });
  await only.ready;
  const before = FakeSocket.last;
  one.client.close();
  assert.deepEqual([before.count("bye"), before.asked("leave").channel, before.count("leave")], [0, "only", 1]);
  await settle();
  assert.equal(FakeSocket.all.length, 2);
  const hello = await FakeSocket.last.welcome("r2", { resumed: true, channels: ["room"] });
  assert.equal(hello.resume, "r1");
  assert.equal(other.client.isLeader, true);
  assert.deepEqual(FakeSocket.last.asked("watch").since, { epoch: "e", version: 1, mode: "full" });
  assert.equal(FakeSocket.last.count("join"), 0, "its place was kept");
  await pass(3000);
  assert.equal(FakeSocket.last.count("leave"), 0, "somebody is in it");
  other.client.close();
  assert.equal(FakeSocket.last.count("bye"), 1);
});

test("a leader that crashes leaves no token behind: the next begins anew and joins again within the grace", async () => {
  const [one, other] = await two();
  await one.crash();
  await pass(250);
  const hello = await FakeSocket.last.welcome("r9", { connection: "another" });
  assert.equal(hello.resume, undefined);
  assert.equal(FakeSocket.last.count("join"), 1);
  assert.equal(other.client.isLeader, true);
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 2 });
  await FakeSocket.last.answer("watch");
  assert.equal(other.client.state, "open");
});

test("what a tab held that went together with the leader is left by the next", async () => {
  const [one, other] = await two();
  const third = await open();
  third.client.join("third");
  await settle();
  await FakeSocket.last.answer("join", { channel: "third", epoch: "e", version: 1 });
  // Both at once, as when a window is closed: the leader goes before it could see the other's end.
  one.client.close();
  void third.crash();
  await settle();
  await FakeSocket.last.welcome("r2", { resumed: true, channels: ["room", "third"] });
  await pass(2500);
  assert.deepEqual([FakeSocket.last.count("leave"), FakeSocket.last.asked("leave").channel], [1, "third"]);
  assert.equal(other.client.isLeader, true);
});

test("a duplicated tab is a follower like any other: it cannot have copied the token", async () => {
  const [, other] = await two();
  const copy = await open();
  assert.equal(copy.client.isLeader, false);
  assert.equal(FakeSocket.all.length, 1);
  assert.ok(!JSON.stringify([other.client.welcome, copy.client.welcome]).includes("r1"), "only the leader has it");
});

test("a connection that breaks breaks for all tabs, and each asks again for what it had", async () => {
  const [one, other] = await two();
  FakeSocket.last.breaks();
  await settle();
  assert.deepEqual([one.client.state, other.client.state], ["waiting", "waiting"]);
  await pass(250);
  await FakeSocket.last.welcome("r2", { resumed: true, channels: ["room"] });
  assert.deepEqual([one.client.state, other.client.state], ["open", "open"]);
  assert.deepEqual([FakeSocket.last.count("join"), FakeSocket.last.count("watch")], [0, 2]);
  await other.crash();
  assert.equal(FakeSocket.last.count("leave"), 0);
  one.client.channel("room");
  assert.equal(FakeSocket.all.length, 2);
});

test("what ended for good ended for all tabs, and any of them may begin again", async () => {
  const [one, other] = await two();
  FakeSocket.last.breaks(4503, "out");
  await settle();
  assert.deepEqual([one.client.error?.code, other.client.error?.code, other.client.state], ["kicked", "kicked", "ended"]);
  await assert.rejects(other.client.setStatus("busy"), { code: "kicked" });
  other.client.connect();
  await settle();
  await FakeSocket.last.welcome("r2");
  assert.deepEqual([one.client.state, other.client.state], ["open", "open"]);
});

test("a user whom two tabs watch is asked for once, shown to both, and let go with the second", async () => {
  const one = await open();
  await FakeSocket.last.welcome("r1");
  const other = await open();
  const first = one.client.watch(["zoe"]);
  await FakeSocket.last.answer("watch", { watching: 1 });
  await hear({ event: "users", users: [{ user: "zoe", status: "busy" }], time: 1 });
  const second = other.client.watch(["zoe"]);
  await settle();
  await second.ready;
  assert.deepEqual([first.users.get("zoe"), second.users.get("zoe")], [{ status: "busy" }, { status: "busy" }]);
  assert.equal(FakeSocket.last.count("watch"), 1);
  first.close();
  await settle();
  assert.equal(FakeSocket.last.count("unwatch"), 0);
  second.close();
  await settle();
  assert.deepEqual(FakeSocket.last.asked("unwatch").users, ["zoe"]);
});

test("a signal of one tab is heard in the others, as it is by everybody else", async () => {
  const [one, other] = await two();
  const heard: unknown[] = [];
  one.client.channel("room").on("signal", ({ data }) => heard.push(["one", data]));
  other.client.channel("room").on("signal", ({ data }) => heard.push(["other", data]));
  await settle();
  void other.client.send("room", "hi");
  await settle();
  await FakeSocket.last.answer("send");
  assert.deepEqual(heard, [["one", "hi"]]);
});

test("where tabs cannot find each other each has a connection of its own", async () => {
  await open("ann", { platform: {} });
  await open("ann", { platform: {} });
  assert.equal(FakeSocket.all.length, 2);
});

test("a page that may not use locks, or speak to others, is alone and connects", async () => {
  const refusing = { request: () => Promise.reject(new Error("not in this frame")) } as unknown as Pick<LockManager, "request">;
  const one = await open("ann", { platform: { locks: refusing, BroadcastChannel: radio.tab().BroadcastChannel } });
  await FakeSocket.last.welcome("r1");
  assert.equal(one.client.state, "open");
  class Mute {
    constructor() {
      throw new Error("not in this frame");
    }
  }
  await open("ann", { platform: { locks: locks.tab().locks, BroadcastChannel: Mute as unknown as typeof BroadcastChannel } });
  await FakeSocket.last.welcome("r2");
  assert.equal(FakeSocket.all.length, 2);
});
