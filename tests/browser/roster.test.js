// The reading of frames, by itself: what the page shows depends on nothing else.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Roster } from "../../web/roster.js";

const member = (user, more) => ({ user, status: "online", state: {}, since: 1, connections: 1, ...more });
const snapshot = (version, users, more) => ({
  event: "snapshot",
  mode: "full",
  epoch: "e",
  version,
  members: users.map((user) => member(user)),
  occupancy: { users: users.length, connections: users.length },
  more: false,
  ...more,
});
const delta = (from, to, more) => ({ event: "delta", mode: "full", epoch: "e", from, to, ...more });

function at(version, users) {
  const roster = new Roster();
  assert.equal(roster.take(snapshot(version, users)), "snapshot");
  return roster;
}

test("a delta that follows is applied, one that is known is passed over, one that does not fit is a gap", () => {
  const roster = at(7, ["ann", "ben"]);
  const occupancy = { users: 2, connections: 3 };
  const change = delta(7, 9, { join: [member("zoe")], update: [member("ann", { connections: 2 })], leave: [{ user: "ben", reason: "left" }], occupancy });
  assert.equal(roster.take(change), "delta");
  assert.deepEqual([...roster.members.keys()], ["ann", "zoe"]);
  assert.equal(roster.members.get("ann").connections, 2);
  assert.deepEqual(roster.occupancy, occupancy);
  assert.deepEqual(roster.since, { epoch: "e", version: 9, mode: "full" });
  assert.equal(roster.take(change), "known");
  assert.equal(roster.take(delta(10, 11, { leave: [{ user: "ann" }] })), "gap");
  assert.equal(roster.take(delta(8, 10, {})), "gap");
  assert.deepEqual([...roster.members.keys()], ["ann", "zoe"]);
});

test("a delta over an epoch change fits only from the epoch and version that are known", () => {
  const roster = at(7, ["ann"]);
  assert.equal(roster.take(delta(0, 1, { epoch: "f" })), "gap");
  assert.equal(roster.take(delta(7, 1, { epoch: "f", from_epoch: "x" })), "gap");
  assert.equal(roster.take(delta(7, 1, { epoch: "f", from_epoch: "e" })), "delta");
  assert.deepEqual(roster.since, { epoch: "f", version: 1, mode: "full" });
});

test("the pages of a snapshot are shown together when the last one is there", () => {
  const roster = at(3, ["old"]);
  assert.equal(roster.take(snapshot(9, ["ann"], { more: true })), "page");
  assert.deepEqual([...roster.members.keys()], ["old"]);
  assert.equal(roster.take(snapshot(9, ["ben"])), "snapshot");
  assert.deepEqual([...roster.members.keys()], ["ann", "ben"]);
  assert.equal(roster.take(snapshot(12, ["one"], { more: true })), "page");
  assert.equal(roster.take(snapshot(13, ["two"])), "snapshot");
  assert.deepEqual([...roster.members.keys()], ["two"], "pages of another version are not mixed in");
});

test("while a snapshot is awaited deltas mean nothing and there is nothing to go on from", () => {
  const roster = at(7, ["ann"]);
  roster.expectSnapshot();
  assert.equal(roster.take(delta(7, 8, { leave: [{ user: "ann" }] })), "waiting");
  assert.deepEqual([...roster.members.keys()], ["ann"]);
  assert.equal(roster.since, undefined);
  assert.equal(roster.take(snapshot(8, [])), "snapshot");
  assert.deepEqual(roster.since, { epoch: "e", version: 8, mode: "full" });
});

test("in a channel that has become too large nobody is named, and a list begins again with a snapshot", () => {
  const roster = at(7, ["ann"]);
  const counted = (frame, users) => ({ ...frame, members: undefined, mode: "occupancy", occupancy: { users, connections: users } });
  assert.equal(roster.take(counted(delta(7, 8), 9)), "gap", "a delta does not end a list");
  assert.equal(roster.take(snapshot(8, ["ben"], { more: true, mode: "net", cause: "mode" })), "page");
  assert.equal(roster.take(counted(snapshot(8, [], { cause: "mode" }), 9)), "snapshot", "half of a list is given up");
  assert.deepEqual([roster.isTooLarge, roster.members.size, roster.occupancy.users], [true, 0, 9]);
  assert.equal(roster.take(counted(delta(8, 12), 11)), "delta");
  assert.deepEqual([roster.members.size, roster.occupancy.users], [0, 11]);
  assert.deepEqual(roster.since, { epoch: "e", version: 12, mode: "occupancy" });
  assert.equal(roster.take(delta(12, 13, { mode: "net", join: [member("zoe")] })), "gap", "nor does it begin one");
  assert.equal(roster.take(snapshot(14, ["ann", "zoe"], { mode: "net", cause: "mode" })), "snapshot");
  assert.deepEqual([roster.isTooLarge, [...roster.members.keys()]], [false, ["ann", "zoe"]]);
});

test("names that mean something to JavaScript are names like any other", () => {
  const roster = at(1, ["__proto__", "constructor"]);
  assert.deepEqual([...roster.members.keys()], ["__proto__", "constructor"]);
  assert.equal(roster.take(delta(1, 2, { leave: [{ user: "__proto__" }] })), "delta");
  assert.deepEqual([...roster.members.keys()], ["constructor"]);
});
