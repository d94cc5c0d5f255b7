// The reading of frames, by itself.

import assert from "node:assert/strict";
import { test } from "node:test";

import type { DeltaFrame, Member, SnapshotFrame } from "../dist/protocol.js";
import { Roster, type Change } from "../dist/roster.js";

const member = (user: string, more: object = {}): Member => ({ user, status: "online", state: {}, since: 1, connections: 1, ...more });
const snapshot = (version: number, users: string[], more: object = {}): SnapshotFrame => ({
  event: "snapshot",
  channel: "c",
  level: "users",
  mode: "full",
  epoch: "e",
  version,
  members: users.map((user) => member(user)),
  occupancy: { users: users.length, connections: users.length },
  more: false,
  time: 1,
  ...more,
});
const delta = (from: number, to: number, more: object = {}): DeltaFrame => ({
  event: "delta",
  channel: "c",
  mode: "full",
  epoch: "e",
  from,
  to,
  occupancy: { users: 0, connections: 0 },
  time: 1,
  ...more,
});

function at(version: number, users: string[]): Roster<object> {
  const roster = new Roster<object>();
  roster.take(snapshot(version, users));
  return roster;
}

const users = (roster: Roster<object>) => [...roster.members.keys()];
const said = (taken: unknown) => {
  const { joined, updated, left } = taken as Change<object>;
  return [joined.map(({ user }) => user), updated.map((one) => one.member.user), left.map(({ user, reason }) => `${user} ${reason}`)];
};

test("a delta that follows is applied, one that is known is passed over, one that does not fit is a gap", () => {
  const roster = at(7, ["ann", "ben"]);
  const change = delta(7, 9, { join: [member("zoe")], update: [member("ann", { connections: 2 })], leave: [{ user: "ben", reason: "left", state: {} }] });
  assert.deepEqual(said(roster.take(change)), [["zoe"], ["ann"], ["ben left"]]);
  assert.deepEqual(users(roster), ["ann", "zoe"]);
  assert.deepEqual(roster.since, { epoch: "e", version: 9, mode: "full" });
  assert.equal(roster.take(change), "known");
  assert.equal(roster.take(delta(10, 11, { leave: [{ user: "ann" }] })), "gap");
  assert.equal(roster.take(delta(8, 10)), "gap");
  assert.deepEqual(users(roster), ["ann", "zoe"]);
});

test("a delta over an epoch change fits only from the epoch and version that are known", () => {
  const roster = at(7, ["ann"]);
  assert.equal(roster.take(delta(0, 1, { epoch: "f" })), "gap");
  assert.equal(roster.take(delta(7, 1, { epoch: "f", from_epoch: "x" })), "gap");
  assert.deepEqual(said(roster.take(delta(7, 1, { epoch: "f", from_epoch: "e" }))), [[], [], []]);
  assert.deepEqual(roster.since, { epoch: "f", version: 1, mode: "full" });
});

test("pages are shown together with the last, and pages of another version are not mixed in", () => {
  const roster = at(3, ["old"]);
  assert.equal(roster.take(snapshot(9, ["ann"], { more: true })), "more");
  assert.deepEqual(users(roster), ["old"]);
  assert.equal(roster.since, undefined, "half a snapshot is nothing to go on from");
  assert.equal(roster.take(delta(9, 10, { join: [member("eve")] })), "more");
  assert.deepEqual(said(roster.take(snapshot(9, ["ben"]))), [["ann", "ben"], [], ["old timeout"]]);
  assert.equal(roster.take(snapshot(12, ["one"], { more: true })), "more");
  assert.deepEqual(said(roster.take(snapshot(13, ["two"]))), [["two"], [], ["ann timeout", "ben timeout"]]);
});

test("of the whole that comes again only the difference is told, and of the first nobody has just come", () => {
  const roster = new Roster<object>();
  const first = roster.take(snapshot(1, ["ann", "ben"])) as Change<object>;
  assert.deepEqual([first.isFirst, ...said(first)], [true, [], [], []]);
  const members = [member("ann"), member("zoe"), member("ben", { state: { mood: "busy" } })];
  const again = roster.take(snapshot(9, [], { members, cause: "slow" })) as Change<object>;
  assert.deepEqual([again.isFirst, ...said(again)], [false, ["zoe"], ["ben"], []]);
  assert.deepEqual(said(roster.take(snapshot(9, [], { members }))), [[], [], []]);
});

test("while the whole is awaited changes are passed over and the old picture stays", () => {
  const roster = at(3, ["ann"]);
  roster.expect();
  assert.equal(roster.take(delta(3, 4, { join: [member("ben")] })), "more");
  assert.equal(roster.since, undefined);
  assert.deepEqual(users(roster), ["ann"]);
  roster.take(snapshot(8, ["ann"]));
  assert.deepEqual(roster.since, { epoch: "e", version: 8, mode: "full" });
});

test("a channel that grew too large for a list has counts, and its list begins anew later", () => {
  const roster = at(3, ["ann"]);
  const counted = { mode: "occupancy", members: undefined, occupancy: { users: 5000, connections: 5001 }, cause: "mode" };
  assert.equal((roster.take(snapshot(9, [], counted)) as Change<object>).isFirst, true);
  assert.deepEqual([roster.mode, roster.members.size, roster.occupancy.users], ["occupancy", 0, 5000]);
  assert.deepEqual(said(roster.take(delta(9, 12, { mode: "occupancy" }))), [[], [], []]);
  assert.equal(roster.take(delta(12, 13)), "gap", "a list begins with a snapshot only");
  assert.equal((roster.take(snapshot(13, ["ann"], { cause: "mode" })) as Change<object>).isFirst, true);
  assert.deepEqual(users(roster), ["ann"]);
});

test("whatever a user is called is a name", () => {
  const names = ["__proto__", "constructor", "hasOwnProperty", "😀", "{x}", "a%2Fb"];
  const roster = at(1, names);
  assert.deepEqual(users(roster), names);
  roster.take(delta(1, 2, { leave: [{ user: "__proto__", reason: "left", state: {} }] }));
  assert.deepEqual(users(roster), names.slice(1));
  assert.equal(({} as Record<string, unknown>).user, undefined);
});

test("connections of one user are told apart", () => {
  const roster = new Roster<object>();
  const two = [member("ann", { connection: "1" }), member("ann", { connection: "2" })];
  roster.take(snapshot(1, [], { level: "connections", members: two }));
  assert.deepEqual(users(roster), ["1", "2"]);
  roster.take(delta(1, 2, { leave: [{ user: "ann", connection: "1", reason: "left", state: {} }] }));
  assert.deepEqual(users(roster), ["2"]);
});
