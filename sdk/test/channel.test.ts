// What a handle tells and does, with a server that the test plays.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import type { Rollcall, Room } from "@rollcall/client";

import { mergePatch } from "../dist/merge.js";
import { FakeSocket, opened, pass, startClock, startOver } from "./fake.js";
import { admit, ann, delta, hear, snapshot } from "./stage.js";

let client: Rollcall;

beforeEach(async () => {
  startOver();
  client = await opened();
});

afterEach(() => {
  client.close();
  startClock();
});

async function joined(): Promise<Room> {
  const room = client.join("room");
  await admit();
  await room.ready;
  return room;
}

test("a handler that throws stops no other, and its error is not lost", async () => {
  const room = await joined();
  const thrown: (() => void)[] = [];
  mock.method(globalThis, "queueMicrotask", (task: () => void) => thrown.push(task));
  const told: string[] = [];
  room.on("join", () => {
    throw new Error("a handler's fault");
  });
  const off = room.on("join", ({ user }) => told.push(user));
  await delta(1, 2, { join: [{ ...ann, user: "ben" }] });
  off();
  off();
  await delta(2, 3, { join: [{ ...ann, user: "zoe" }] });
  assert.deepEqual(told, ["ben"]);
  assert.equal(thrown.length, 2);
  for (const task of thrown) assert.throws(task, { message: "a handler's fault" });
});

test("one is shown only when one is in what is shown", async () => {
  const room = client.join("room");
  let isReady = false;
  void room.ready.then(() => (isReady = true));
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 7 });
  await FakeSocket.last.answer("watch");
  await snapshot(6, []);
  assert.deepEqual([isReady, room.isLive], [false, true]);
  await delta(6, 7, { join: [ann] });
  assert.equal(isReady, true);
});

test("a refusal is in what is shown, also before the handle is told of it", async () => {
  const room = client.join("room");
  const shown: unknown[] = [];
  room.subscribe(() => shown.push(room.getSnapshot().error?.code));
  room.on("error", (error) => shown.push(error === room.getSnapshot().error));
  await FakeSocket.last.refuse("join", { code: "forbidden" });
  assert.deepEqual(shown, ["forbidden", true]);
});

test("the end of the client is in what is shown, also before the handle is told of it", async () => {
  const room = await joined();
  const shown: unknown[] = [];
  room.subscribe(() => shown.push(room.getSnapshot().error?.code));
  room.on("error", (error) => shown.push(error === room.getSnapshot().error));
  client.close();
  assert.deepEqual(shown, ["closed", true]);
});

test("what does not follow is not shown, and the whole is asked for, once", async () => {
  const room = await joined();
  await delta(4, 5, { join: [{ ...ann, user: "ben" }] });
  await delta(5, 6, { join: [{ ...ann, user: "zoe" }] });
  assert.deepEqual([...room.members.keys()], ["ann"]);
  assert.equal(FakeSocket.last.count("watch"), 2);
  assert.equal((await FakeSocket.last.answer("watch")).since, undefined);
  await snapshot(6, [ann, { ...ann, user: "zoe" }]);
  assert.deepEqual([...room.members.keys()], ["ann", "zoe"]);
});

test("patches are merged as RFC 7396 says", () => {
  const cases: [unknown, unknown, unknown][] = [
    [{ a: "b" }, { a: "c" }, { a: "c" }],
    [{ a: "b" }, { b: "c" }, { a: "b", b: "c" }],
    [{ a: "b" }, { a: null }, {}],
    [{ a: ["b"] }, { a: "c" }, { a: "c" }],
    [{ a: { b: "c" } }, { a: { b: "d", c: null } }, { a: { b: "d" } }],
    [{ a: [{ b: "c" }] }, { a: [1] }, { a: [1] }],
    [{ a: "foo" }, "bar", "bar"],
    [{ e: null }, { a: 1 }, { e: null, a: 1 }],
    [{}, { a: { bb: { ccc: null } } }, { a: { bb: {} } }],
  ];
  for (const [target, patch, result] of cases) assert.deepEqual(mergePatch(target, patch), result);
  const merged = mergePatch({}, JSON.parse('{"__proto__":{"polluted":true}}')) as Record<string, unknown>;
  assert.deepEqual([Object.keys(merged), ({} as Record<string, unknown>).polluted], [["__proto__"], undefined]);
});

test("a handler sees the members as the event says", async () => {
  const room = await joined();
  const seen: string[][] = [];
  for (const event of ["join", "leave", "change"] as const) room.on(event, () => seen.push([event, ...room.members.keys()]));
  await delta(1, 2, { join: [{ ...ann, user: "ben" }], leave: [{ user: "ann", reason: "left", state: {} }] });
  assert.deepEqual(seen, [["leave", "ben"], ["join", "ben"], ["change", "ben"]]);
});

test("what the server cannot do just now is tried again when it says so, and other refusals end the handle", async () => {
  const room = client.join("room", { watch: false });
  await FakeSocket.last.refuse("join", { code: "unavailable", retry_after_ms: 500 });
  await pass(499);
  assert.equal(FakeSocket.last.count("join"), 1);
  await pass(1);
  assert.equal(FakeSocket.last.count("join"), 2);
  const failures: string[] = [];
  room.on("error", ({ code }) => failures.push(code));
  await FakeSocket.last.refuse("join", { code: "limit" });
  await assert.rejects(room.ready, { code: "limit" });
  assert.deepEqual(failures, ["limit"]);
  await pass(60_000);
  assert.equal(FakeSocket.last.count("join"), 2);
});

test("a join and a watch that the server cannot do just now are both tried again", async () => {
  const room = client.join("room");
  await FakeSocket.last.refuse("join", { code: "unavailable", retry_after_ms: 300 });
  await FakeSocket.last.refuse("watch", { code: "unavailable", retry_after_ms: 500 });
  await pass(500);
  assert.deepEqual([FakeSocket.last.count("join"), FakeSocket.last.count("watch")], [2, 2]);
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 1 });
  await FakeSocket.last.answer("watch");
  await snapshot(1);
  await room.ready;
});

test("who is taken out of a channel waits for nothing there any more", async () => {
  const room = await joined();
  const lost = assert.rejects(room.update({ a: 1 }), { code: "kicked" });
  await FakeSocket.last.refuse("update", { code: "unavailable", retry_after_ms: 5000 });
  const left: string[] = [];
  room.on("left", (reason) => left.push(reason));
  await hear({ event: "left", reason: "kicked" });
  await lost;
  assert.deepEqual([left, room.getSnapshot().isJoined, room.isLive], [["kicked"], false, true]);
});

test("an update that got no answer is made good by the next join, and one that was refused is taken back", async () => {
  const room = await joined();
  const lost = room.update({ a: 1 });
  FakeSocket.last.breaks();
  await pass(250);
  await FakeSocket.last.welcome("r2", { resumed: true, channels: ["room"] });
  assert.deepEqual(FakeSocket.last.asked("join").state, { a: 1 }, "it is sent as a whole, for it may not have arrived");
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 2 });
  await lost;
  const refused = assert.rejects(room.update({ b: "x".repeat(9) }), { code: "too_large" });
  await FakeSocket.last.refuse("update", { code: "too_large" });
  await refused;
  assert.deepEqual(room.state, { a: 1 });
});

test("who left while there was no connection is left with the next", async () => {
  const room = await joined();
  FakeSocket.last.breaks();
  await room.leave();
  await pass(250);
  await FakeSocket.last.welcome("r2", { resumed: true, channels: ["room"] });
  assert.deepEqual([FakeSocket.last.count("leave"), FakeSocket.last.count("join"), FakeSocket.last.count("watch")], [1, 0, 0]);
});

test("a room that may not be watched is left, and one that may not be joined is not watched", async () => {
  const room = client.join("room");
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 1 });
  await FakeSocket.last.refuse("watch", { code: "forbidden" });
  await assert.rejects(room.ready, { code: "forbidden" });
  assert.equal(FakeSocket.last.count("leave"), 1);
  await FakeSocket.last.answer("leave");
  const other = client.join("other");
  await FakeSocket.last.answer("watch");
  await FakeSocket.last.refuse("join", { code: "forbidden" });
  await assert.rejects(other.ready, { code: "forbidden" });
  assert.deepEqual(FakeSocket.last.asked("unwatch").channel, "other");
});

test("who leaves and comes again at once is in the channel", async () => {
  const room = await joined();
  const left = room.leave();
  const again = client.join("room");
  await FakeSocket.last.answer("leave");
  await left;
  await FakeSocket.last.answer("join", { channel: "room", epoch: "e", version: 3 });
  await FakeSocket.last.answer("watch");
  await snapshot(3);
  await again.ready;
  assert.deepEqual(FakeSocket.last.sent.map(({ op }) => op).filter((op) => op === "join" || op === "leave"), ["join", "leave", "join"]);
});

test("typing is said when it begins, again while it goes on, and when it ends", async () => {
  const room = await joined();
  const said = () => FakeSocket.last.sent.filter(({ op }) => op === "typing").map(({ typing }) => typing);
  for (let key = 0; key < 10; key++) {
    room.typing();
    await pass(500);
  }
  assert.deepEqual(said(), [true, true, true]);
  await pass(3000);
  assert.deepEqual(said().at(-1), false);
  const ended = said().length;
  await pass(10_000);
  assert.equal(said().length, ended);
  room.typing();
  room.typing(false);
  room.typing(false);
  assert.deepEqual(said().slice(ended), [true, false]);
});

test("who typed when the connection broke does not go on typing for ever", async () => {
  const room = await joined();
  await hear({ event: "typing", user: "ann", typing: true });
  assert.deepEqual(room.getSnapshot().typing, ["ann"]);
  FakeSocket.last.breaks();
  assert.deepEqual(room.getSnapshot().typing, []);
});

test("a delta of a watched pattern is none of the channel's own watch", async () => {
  const room = await joined();
  await delta(1, 2, { join: [{ ...ann, user: "ben" }], pattern: "ro*" });
  assert.deepEqual([...room.members.keys()], ["ann"]);
});
