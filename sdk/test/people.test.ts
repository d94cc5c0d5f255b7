// Users who are watched, with a server that the test plays.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import type { Rollcall, Watch } from "@rollcall/client";

import { FakeSocket, opened, pass, settle, startClock, startOver } from "./fake.js";
import { hearUsers as hear } from "./stage.js";

let client: Rollcall;

beforeEach(async () => {
  startOver();
  client = await opened();
});

afterEach(() => {
  client.close();
  startClock();
});

const page = (users: string[], more: boolean) => hear(users.map((user) => ({ user, status: "online" })), { all_users: true, more });
const names = (watch: Watch) => [...watch.users.keys()];

test("a watch is ready when something is known of each, and tells changes only", async () => {
  const watch = client.watch(["ann", "ben"]);
  let isReady = false;
  void watch.ready.then(() => (isReady = true));
  await FakeSocket.last.answer("watch", { watching: 2 });
  await hear([{ user: "ann", status: "online" }]);
  assert.equal(isReady, false);
  await hear([{ user: "ben", status: "offline" }]);
  assert.equal(isReady, true);
  const told: unknown[] = [];
  watch.on("change", (changes) => told.push(...changes.map(({ user, view, before }) => [user, view.status, before?.status])));
  await hear([{ user: "ann", status: "online" }, { user: "ben", status: "away" }, { user: "stranger", status: "online" }]);
  assert.deepEqual(told, [["ben", "away", "offline"]]);
});

test("after a break all are asked for again, and nobody changes who did not", async () => {
  const watch = client.watch(["ann"]);
  await FakeSocket.last.answer("watch", { watching: 1 });
  await hear([{ user: "ann", status: "busy" }]);
  let changes = 0;
  watch.on("change", () => changes++);
  FakeSocket.last.breaks();
  assert.deepEqual([watch.getSnapshot().isLive, names(watch)], [false, ["ann"]]);
  await pass(250);
  await FakeSocket.last.welcome("r2");
  await FakeSocket.last.answer("watch", { watching: 1 });
  await hear([{ user: "ann", status: "busy" }]);
  assert.deepEqual([watch.getSnapshot().isLive, changes], [true, 0]);
});

test("many names are asked for a thousand at a time, and a name is let go with the last watch that wants it", async () => {
  const many = Array.from({ length: 1500 }, (_, n) => `user-${n}`);
  const watch = client.watch(many);
  await FakeSocket.last.answer("watch", { watching: 1000 });
  await FakeSocket.last.answer("watch", { watching: 1500 });
  assert.deepEqual(FakeSocket.last.sent.filter(({ op }) => op === "watch").map(({ users }) => (users as string[]).length), [1000, 500]);
  const other = client.watch(["user-1"]);
  await settle();
  watch.remove(["user-1", "user-2"]);
  await settle();
  assert.deepEqual(FakeSocket.last.asked("unwatch").users, ["user-2"]);
  other.close();
  await settle();
  assert.deepEqual(FakeSocket.last.asked("unwatch").users, ["user-1"]);
});

test("watches of one user each are asked for together", async () => {
  const watches = ["ann", "ben", "zoe"].map((user) => client.watch([user]));
  await FakeSocket.last.answer("watch", { watching: 3 });
  assert.deepEqual(FakeSocket.last.sent.filter(({ op }) => op === "watch").map(({ users }) => users), [["ann", "ben", "zoe"]]);
  await hear(["ann", "ben", "zoe"].map((user) => ({ user, status: "online" })));
  await Promise.all(watches.map((watch) => watch.ready));
  FakeSocket.last.breaks();
  await pass(250);
  await FakeSocket.last.welcome("r2");
  await settle();
  assert.equal(FakeSocket.last.count("watch"), 1);
});

test("whom another watch shows already is shown at once", async () => {
  client.watch(["ann"]);
  await FakeSocket.last.answer("watch", { watching: 1 });
  await hear([{ user: "ann", status: "busy" }]);
  const second = client.watch(["ann"]);
  await settle();
  await FakeSocket.last.answer("watch", { watching: 1 });
  await second.ready;
  assert.deepEqual(second.users.get("ann"), { status: "busy" });
});

test("everybody is listed in pages, then told; who is missing when the list is told anew has gone", async () => {
  const watch = client.watch("everybody");
  await FakeSocket.last.answer("watch", { all_users: true });
  await page(["ann", "ben"], true);
  assert.equal(watch.getSnapshot().isLive, false);
  await page(["zoe"], false);
  await watch.ready;
  assert.deepEqual(names(watch), ["ann", "ben", "zoe"]);
  await hear([{ user: "ben", status: "offline", last_seen: 1 }]);
  assert.deepEqual(names(watch), ["ann", "zoe"]);
  const told: unknown[] = [];
  watch.on("change", (changes) => told.push(...changes.map(({ user, view }) => [user, view.status])));
  FakeSocket.last.breaks();
  await pass(250);
  await FakeSocket.last.welcome("r2");
  await FakeSocket.last.answer("watch", { all_users: true });
  await page(["kim"], true);
  await page(["zoe"], false);
  assert.deepEqual(told, [["kim", "online"], ["ann", "offline"]]);
  assert.deepEqual(names(watch), ["zoe", "kim"]);
});

test("everybody is watched anew for a second watch, which would be told nothing otherwise", async () => {
  client.watch("everybody");
  await FakeSocket.last.answer("watch", { all_users: true });
  await page(["ann"], false);
  const second = client.watch("everybody");
  await settle();
  await FakeSocket.last.answer("unwatch", { all_users: false });
  await FakeSocket.last.answer("watch", { all_users: true });
  await page(["ann"], false);
  await second.ready;
  assert.deepEqual(names(second), ["ann"]);
});

test("a refusal is told by the watch that it concerns", async () => {
  const watch = client.watch("everybody");
  const failures: string[] = [];
  watch.on("error", ({ code }) => failures.push(code));
  await FakeSocket.last.refuse("watch", { code: "forbidden" });
  await assert.rejects(watch.ready, { code: "forbidden" });
  assert.deepEqual([failures, watch.getSnapshot().error?.code], [["forbidden"], "forbidden"]);
});

test("one who may not be watched is told, and the others are watched", async () => {
  const watch = client.watch([]);
  await watch.ready;
  const added = assert.rejects(watch.add(["ann", "ben", "secret"]), { code: "forbidden" });
  for (let step = 0; step < 5; step++) {
    await settle();
    const { users } = FakeSocket.last.asked("watch") as unknown as { users: string[] };
    if (users.includes("secret")) await FakeSocket.last.refuse("watch", { code: "forbidden" });
    else await FakeSocket.last.answer("watch", {});
  }
  await hear([{ user: "ann", status: "online" }, { user: "ben", status: "online" }]);
  await added;
  assert.deepEqual([names(watch), watch.getSnapshot().isLive], [["ann", "ben"], true]);
});

test("watches that end together are given up together, but for those who are wanted again", async () => {
  const watches = ["ann", "ben", "zoe"].map((user) => client.watch([user]));
  await FakeSocket.last.answer("watch", { watching: 3 });
  for (const watch of watches) watch.close();
  client.watch(["ben"]);
  await settle();
  assert.deepEqual([FakeSocket.last.count("unwatch"), FakeSocket.last.asked("unwatch").users], [1, ["ann", "zoe"]]);
});
