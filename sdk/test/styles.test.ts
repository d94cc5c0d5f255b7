// The two styles on top of the client, against a real server.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Rollcall } from "@rollcall/client";
import { Logins } from "@rollcall/client/logins";
import { Topics, type Message, type Presence } from "@rollcall/client/topics";

import { eventually, startServer, token, EVERYTHING, type Running } from "./server.js";

const LIMIT = { timeout: 60_000 };
let server: Running;
let names = 0;
const open: Rollcall[] = [];

before(async () => (server = await startServer({ PRESENCE__GRACE_MS: "2000" })), LIMIT);
after(async () => {
  for (const client of open) client.close();
  await server.stop();
}, LIMIT);

const fresh = (what: string) => `${what}-${process.pid}-${++names}`;

function connect(user: string, can: object = EVERYTHING): Rollcall {
  const client = new Rollcall({ url: server.address, token: () => token(user, { can }) });
  open.push(client);
  return client;
}

test("whoever listens to a topic is in it, is told of all who are, and of each who comes and goes", LIMIT, async () => {
  const topic = fresh("topic");
  const [ann, ben] = [new Topics(connect("ann")), new Topics(connect("ben"))];
  const told: Presence[] = [];
  const short = () => told.map(({ clientId, status, subscribers }) => [clientId, status, subscribers.length]);
  await ann.onPresence(topic, (presence) => told.push(presence));
  assert.deepEqual(short(), [["ann", "online", 1]]);
  assert.equal(told[0]?.topic, topic);
  assert.ok(Math.abs((told[0]?.timestamp ?? 0) - Date.now()) < 60_000);
  const seen: string[] = [];
  const handler = ({ clientId }: Presence) => seen.push(clientId);
  await ben.onPresence(topic, handler);
  assert.deepEqual(seen, ["ann", "ben"]);
  await eventually("ben came", short, [["ann", "online", 1], ["ben", "online", 2]]);
  ben.offPresence(topic, handler);
  await eventually("ben went", short, [["ann", "online", 1], ["ben", "online", 2], ["ben", "offline", 1]]);
  ann.clearPresenceHandlers(topic);
});

test("a topic is left with the last of its handlers, and a handler that throws stops no other", LIMIT, async () => {
  const topic = fresh("topic");
  const client = connect("ann");
  const ann = new Topics(client);
  const watched = connect("zoe").channel(topic);
  await watched.ready;
  const thrown: unknown[] = [];
  const later = globalThis.queueMicrotask;
  globalThis.queueMicrotask = (task) => later(() => {
    try {
      task();
    } catch (error) {
      thrown.push(error);
    }
  });
  const throwing = () => {
    throw new Error("a handler's fault");
  };
  const told: string[] = [];
  const telling = ({ clientId }: Presence) => told.push(clientId);
  await ann.onPresence(topic, throwing);
  await ann.onPresence(topic, telling);
  const listening = () => {};
  await ann.subscribe(topic, listening);
  assert.deepEqual(told, ["ann"]);
  await eventually("it was reported", () => thrown.length, 1);
  globalThis.queueMicrotask = later;
  ann.offPresence(topic, throwing);
  ann.clearPresenceHandlers(topic);
  // A leave would have come before what comes next.
  await client.where("ann");
  await connect("ben").join(topic).ready;
  await eventually("both are there", () => [...watched.members.keys()], ["ann", "ben"]);
  ann.unsubscribe(topic, listening);
  await eventually("ann left", () => [...watched.members.keys()], ["ben"]);
});

test("what is published reaches those who are subscribed, and not oneself", LIMIT, async () => {
  const topic = fresh("topic");
  const [ann, ben] = [new Topics(connect("ann")), new Topics(connect("ben"))];
  const heard: Message<{ text: string }>[] = [];
  await ben.subscribe<{ text: string }>(topic, (message) => heard.push(message));
  let own = 0;
  await ann.subscribe(topic, () => own++);
  await ann.publish(topic, { text: "hi" });
  await eventually("it is heard", () => heard.map(({ senderId, payload }) => [senderId, payload]), [["ann", { text: "hi" }]]);
  assert.equal(own, 0);
});

test("a topic that may not be joined says so, and may be tried again", LIMIT, async () => {
  const ann = new Topics(connect("ann", { join: ["room:*"], watch: ["room:*"] }));
  for (let attempt = 0; attempt < 2; attempt++) await assert.rejects(ann.onPresence("secret", () => {}), { code: "forbidden" });
});

test("logins and logouts of one user are told, and nothing else of them", LIMIT, async () => {
  const [user, other] = [fresh("user"), fresh("user")];
  const watcher = connect("watcher");
  const logins = new Logins(watcher);
  const told: unknown[] = [];
  const handler = (name: string, isOnline: boolean) => told.push([name === user, isOnline]);
  await logins.subscribe(user, handler);
  assert.deepEqual(await logins.getAll([user, other]), { [user]: false, [other]: false });
  const there = connect(user);
  connect(other);
  await eventually("the login is told", () => told, [[true, true]]);
  await there.setStatus("busy");
  const friends = watcher.watch([user]);
  await eventually("the status is seen", () => friends.users.get(user)?.status, "busy");
  assert.deepEqual((await logins.getAll([user]))[user], true);
  there.close();
  await eventually("the logout is told", () => told, [[true, true], [true, false]]);
  logins.unsubscribe(user, handler);
  const again = connect(user);
  await again.join(fresh("room")).ready;
  logins.unsubscribe();
  assert.equal(told.length, 2);
  await assert.rejects(logins.subscribe("", handler), TypeError);
  assert.throws(() => (logins as unknown as { unsubscribe(user: string): void }).unsubscribe("name"), TypeError);
});

test("a subscription that the token does not allow is refused, and the others stay", LIMIT, async () => {
  const user = fresh("user");
  const logins = new Logins(connect("watcher", { users: [user] }));
  const told: unknown[] = [];
  await logins.subscribe(user, (_, isOnline) => told.push(isOnline));
  await assert.rejects(logins.subscribe("stranger", () => {}), { code: "forbidden" });
  await assert.rejects(logins.subscribe(() => {}), { code: "forbidden" });
  connect(user);
  await eventually("the login is told", () => told, [true]);
});

test("everybody's logins are told, not those before; and who is online can be asked", LIMIT, async () => {
  const [early, late] = [fresh("user"), fresh("user")];
  const there = connect(early);
  await there.join(fresh("room")).ready;
  const logins = new Logins(connect("watcher"));
  const told: unknown[] = [];
  const handler = (name: string, isOnline: boolean) => (name === early || name === late) && told.push([name === early ? "early" : "late", isOnline]);
  await logins.subscribe(handler);
  assert.ok((await logins.getAll()).includes(early));
  const other = connect(late);
  await eventually("the login is told", () => told, [["late", true]]);
  there.close();
  await eventually("the logout is told", () => told, [["late", true], ["early", false]]);
  logins.unsubscribe(handler);
  other.close();
  assert.ok(!(await logins.getAll()).includes(early));
  assert.equal(told.length, 2);
});
