// The client against a real server, with everything that can break between them.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Rollcall, RollcallError, type RollcallOptions, type Room } from "@rollcall/client";

import { eventually, startProxy, startRedis, startServer, token, type Running } from "./server.js";

const LIMIT = { timeout: 60_000 };
const API_KEY = "key-of-the-sdk-tests";

let server: Running;
let names = 0;
const open: Rollcall[] = [];

before(async () => {
  const { createHash } = await import("node:crypto");
  const digest = createHash("sha256").update(API_KEY).digest("hex");
  server = await startServer({ PRESENCE__GRACE_MS: "5000", AUTH__API_KEYS: `app:read+write+admin:${digest}` });
}, LIMIT);

after(async () => {
  for (const client of open) client.close();
  await server.stop();
}, LIMIT);

const fresh = (what = "room") => `${what}:${process.pid}-${++names}`;

function connect(user: string | null, options: Partial<RollcallOptions> = {}): Rollcall {
  const client = new Rollcall({ url: server.address, token: () => token(user), ...options });
  open.push(client);
  return client;
}

/** What a room tells, in words. */
function diary(room: { on: Room["on"] }): string[] {
  const lines: string[] = [];
  room.on("join", ({ user }) => lines.push(`join ${user}`));
  room.on("update", ({ user, state }) => lines.push(`update ${user} ${JSON.stringify(state)}`));
  room.on("leave", ({ user, reason }) => lines.push(`leave ${user} ${reason}`));
  return lines;
}

const people = (room: Pick<Room, "members">) => [...room.members.keys()];

async function rest(method: string, path: string, body?: unknown): Promise<void> {
  const response = await fetch(server.address + path, {
    method,
    headers: { authorization: `Bearer ${API_KEY}`, ...(body !== undefined && { "content-type": "application/json" }) },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status} ${await response.text()}`);
}

test("who joins finds oneself, is seen by others, and everybody's names are names", LIMIT, async () => {
  const channel = fresh();
  const room = connect("ann").join<{ mood?: string }>(channel, { state: { mood: "glad" } });
  const seen = diary(room as Room);
  await room.ready;
  assert.deepEqual(room.members.get("ann")?.state, { mood: "glad" });
  const other = connect("__proto__").join(channel);
  await other.ready;
  assert.deepEqual(people(other), ["ann", "__proto__"]);
  await eventually("both are seen", () => people(room as Room), ["ann", "__proto__"]);
  await room.update({ mood: "calm" });
  assert.deepEqual(room.state, { mood: "calm" });
  await eventually("the mood is seen", () => other.members.get("ann")?.state, { mood: "calm" });
  assert.deepEqual(other.occupancy, { users: 2, connections: 2 });
  await other.leave();
  await eventually("all was told", () => seen, ["join __proto__", 'update ann {"mood":"calm"}', "leave __proto__ left"]);
});

test("a snapshot for stores is the same object until something changes, and never changes itself", LIMIT, async () => {
  const channel = fresh();
  const room = connect("ann").join(channel);
  await room.ready;
  const first = room.getSnapshot();
  assert.equal(room.getSnapshot(), first);
  let told = 0;
  const stop = room.subscribe(() => told++);
  const other = connect("ben").join(channel);
  await other.ready;
  await eventually("ben is seen", () => [...room.getSnapshot().members.keys()], ["ann", "ben"]);
  assert.ok(told > 0);
  assert.deepEqual([...first.members.keys()], ["ann"]);
  assert.notEqual(room.getSnapshot(), first);
  stop();
});

test("a connection that breaks comes back as it was: nobody is told, and what happened meanwhile is", LIMIT, async () => {
  const channel = fresh();
  const proxy = await startProxy(server.address);
  try {
    const ann = connect("ann", { url: proxy.address });
    const room = ann.join(channel, { state: { here: true } });
    const watched = connect(null).channel(channel);
    await Promise.all([room.ready, watched.ready]);
    await eventually("ann is seen", () => people(watched), ["ann"]);
    const told = diary(watched);
    const seen = diary(room);
    const connection = ann.welcome?.connection;
    proxy.refuses = true;
    proxy.cut();
    await eventually("the break is noticed", () => [ann.state === "open", room.isLive], [false, false]);
    await connect("ben").join(channel).ready;
    proxy.refuses = false;
    await eventually("it is live again", () => room.isLive, true);
    assert.equal(ann.welcome?.connection, connection);
    assert.equal(ann.welcome?.resumed, true);
    await eventually("ben is seen", () => people(room), ["ann", "ben"]);
    await eventually("nothing else was told", () => [told, seen], [["join ben"], ["join ben"]]);
    const again = proxy.said.filter(({ op }) => op === "join" || op === "watch");
    assert.deepEqual(again.map(({ op }) => op), ["join", "watch", "watch"], "the place was kept, the watch went on");
    assert.ok(again[2]?.since, "only what came after is asked for");
  } finally {
    await proxy.stop();
  }
});

test("a change that was lost on the way is noticed with the next, and the channel is watched anew", LIMIT, async () => {
  const channel = fresh();
  const proxy = await startProxy(server.address);
  try {
    const watched = connect(null, { url: proxy.address }).channel(channel);
    await watched.ready;
    const told = diary(watched);
    let lost = 0;
    proxy.losesToClient = ({ event }) => event === "delta" && lost++ === 0;
    await connect("ann").join(channel).ready;
    await eventually("it was lost", () => lost, 1);
    assert.deepEqual(people(watched), []);
    await connect("ben").join(channel).ready;
    await eventually("both are seen", () => people(watched), ["ann", "ben"]);
    await eventually("both were told", () => told, ["join ann", "join ben"]);
    assert.deepEqual(proxy.said.filter(({ op }) => op === "watch").map(({ since }) => since), [undefined, undefined]);
  } finally {
    await proxy.stop();
  }
});

test("a place that was lost is taken again, with the state as it was changed meanwhile", LIMIT, async () => {
  const channel = fresh();
  const proxy = await startProxy(server.address);
  try {
    const ann = connect("ann", { url: proxy.address });
    const room = ann.join(channel, { state: { n: 1 }, graceMs: 0 });
    const watched = connect(null).channel(channel);
    await Promise.all([room.ready, watched.ready]);
    await eventually("ann is seen", () => people(watched), ["ann"]);
    const told = diary(watched);
    proxy.refuses = true;
    proxy.cut();
    await eventually("the leave is seen", () => people(watched), []);
    const updated = room.update({ n: 2 });
    proxy.refuses = false;
    await updated;
    await eventually("ann is back", () => watched.members.get("ann")?.state, { n: 2 });
    assert.deepEqual(told, ["leave ann timeout", "join ann"]);
  } finally {
    await proxy.stop();
  }
});

test("a token is renewed before it ends, and the connection goes on", LIMIT, async () => {
  const channel = fresh();
  let asked = 0;
  const soon = () => token("ann", { exp: Math.floor(Date.now() / 1000) + 3 + 100 * Math.min(asked++, 1) });
  const proxy = await startProxy(server.address);
  try {
    const ann = connect("ann", { url: proxy.address, token: soon });
    const states: string[] = [];
    ann.on("state", (state) => states.push(state));
    await ann.join(channel).ready;
    await eventually("it was renewed", () => proxy.said.filter(({ op }) => op === "refresh").length, 1);
    assert.equal(asked, 2);
    assert.deepEqual(states, ["open"]);
  } finally {
    await proxy.stop();
  }
});

test("a token that ended because none came in time is followed by a fresh one", LIMIT, async () => {
  const channel = fresh();
  let asked = 0;
  const failing = (): string => {
    if (ann.state === "open") throw new Error("the app server is away");
    return token("ann", { exp: Math.floor(Date.now() / 1000) + (asked++ === 0 ? 3 : 3600) });
  };
  const own = await startServer({ AUTH__LEEWAY_MS: "0", PRESENCE__GRACE_MS: "5000" });
  const ann: Rollcall = connect("ann", { url: own.address, token: failing, connect: false });
  try {
    ann.connect();
    const room = ann.join(channel);
    const failures: string[] = [];
    ann.on("error", ({ message }) => failures.push(message));
    await room.ready;
    const connection = ann.welcome?.connection;
    await eventually("another connection", () => ann.welcome?.connection !== connection && room.isLive, true);
    assert.match(failures[0] ?? "", /the app server is away/);
    assert.deepEqual(people(room), ["ann"]);
  } finally {
    await own.stop();
  }
});

test("after a restart of the server everybody is back without being asked", LIMIT, async () => {
  const channel = fresh();
  let own = await startServer();
  const settings = { SERVER__LISTEN: new URL(own.address).host };
  try {
    const room = connect("ann", { url: own.address }).join(channel, { state: { n: 1 } });
    const other = connect("ben", { url: own.address }).join(channel);
    await Promise.all([room.ready, other.ready]);
    await own.stop();
    await eventually("it is noticed", () => [room.isLive, other.isLive], [false, false]);
    own = await startServer(settings);
    await eventually("both are live", () => [room.isLive, other.isLive], [true, true]);
    for (const one of [room, other]) await eventually("both are here", () => people(one).sort(), ["ann", "ben"]);
    assert.deepEqual(other.members.get("ann")?.state, { n: 1 });
  } finally {
    await own.stop();
  }
});

test("a Redis that was restarted, and is empty, costs nobody the place", LIMIT, async () => {
  const channel = fresh();
  let redis = await startRedis();
  const own = await startServer({ REDIS__URL: redis.address });
  try {
    const room = connect("ann", { url: own.address }).join(channel, { state: { n: 1 } });
    const other = connect("ben", { url: own.address }).join(channel);
    await Promise.all([room.ready, other.ready]);
    await eventually("both are here", () => people(room).sort(), ["ann", "ben"]);
    const told = diary(room);
    await redis.stop();
    redis = await startRedis(redis.port);
    await other.update({ back: true });
    await eventually("it goes on", () => room.members.get("ben")?.state, { back: true });
    assert.deepEqual(told, ['update ben {"back":true}']);
  } finally {
    await own.stop();
    await redis.stop();
  }
});

test("when its instance is killed a client goes on at another, and nobody is told", LIMIT, async () => {
  const channel = fresh();
  const redis = await startRedis();
  const settings = { REDIS__URL: redis.address };
  const [one, two] = [await startServer(settings), await startServer(settings)];
  const proxy = await startProxy(one.address);
  try {
    const ann = connect("ann", { url: proxy.address });
    const room = ann.join(channel, { state: { n: 1 } });
    const watched = connect(null, { url: two.address }).channel(channel);
    await Promise.all([room.ready, watched.ready]);
    await eventually("ann is seen", () => people(watched), ["ann"]);
    const told = diary(watched);
    const connection = ann.welcome?.connection;
    proxy.target = two.address;
    await one.stop("SIGKILL");
    await eventually("it is noticed", () => room.isLive, false);
    await eventually("it goes on", () => room.isLive, true);
    assert.deepEqual([ann.welcome?.connection, ann.welcome?.resumed], [connection, true]);
    await room.update({ n: 2 });
    await eventually("the change is told, and nothing else", () => told, ['update ann {"n":2}']);
  } finally {
    await proxy.stop();
    await two.stop();
    await redis.stop();
  }
});

test("a refusal says what to do, ends what it concerns and nothing else", LIMIT, async () => {
  const can = { join: ["room:**"], watch: ["room:**", "open"] };
  const ann = connect("ann", { token: () => token("ann", { can }) });
  const refused = ann.join("secret");
  const failures: RollcallError[] = [];
  refused.on("error", (error) => failures.push(error));
  await assert.rejects(refused.ready, (error: unknown) => error instanceof RollcallError && error.code === "forbidden" && /`can`/.test(error.message));
  assert.equal(failures[0]?.code, "forbidden");
  const watched = ann.join("open");
  await assert.rejects(watched.ready, { code: "forbidden" });
  await ann.join(fresh()).ready;
  await assert.rejects(ann.setStatus("busy"), { code: "forbidden" });
  assert.equal(ann.state, "open");
  const wrong = connect("ann", { token: () => token("ann", {}, "another secret that is long enough to be one") });
  await assert.rejects(wrong.join(fresh()).ready, { code: "unauthorized" });
  assert.equal(wrong.state, "ended");
  assert.equal(wrong.error?.code, "unauthorized");
});

test("as many channels as may be are joined at once without being refused, and taken again after a break", LIMIT, async () => {
  const proxy = await startProxy(server.address);
  try {
    const ann = connect("ann", { url: proxy.address });
    const rooms = Array.from({ length: 100 }, () => ann.join(fresh("many")));
    const failures: unknown[] = [];
    for (const room of rooms) room.on("error", (error) => failures.push(error));
    await Promise.all(rooms.map((room) => room.ready));
    proxy.cut();
    await eventually("the break is noticed", () => ann.state === "open", false);
    await eventually("all are live", () => rooms.filter((room) => room.isLive).length, 100);
    assert.deepEqual(failures, []);
  } finally {
    await proxy.stop();
  }
});

test("handles count: the last that is given back leaves, and the watch ends with the last that watches", LIMIT, async () => {
  const channel = fresh();
  const proxy = await startProxy(server.address);
  try {
    const ann = connect("ann", { url: proxy.address });
    const [one, two, counted] = [ann.join(channel), ann.join(channel), ann.channel(channel, { level: "occupancy" })];
    const watched = connect(null).channel(channel);
    await Promise.all([one.ready, two.ready, counted.ready, watched.ready]);
    await eventually("ann is seen", () => people(watched), ["ann"]);
    const told = diary(watched);
    await one.leave();
    await one.leave();
    assert.throws(() => ann.channel(channel, { level: "connections" }), { code: "conflict" });
    await assert.rejects(one.update({ a: 1 }), { code: "closed" });
    await two.update({ a: 1 });
    await eventually("the update is told", () => told.length, 1);
    await two.leave();
    await eventually("all was told", () => told, ['update ann {"a":1}', "leave ann left"]);
    assert.deepEqual(counted.occupancy.users, 0);
    counted.close();
    await eventually("nothing is watched", () => proxy.said.at(-1)?.op, "unwatch");
    assert.equal(proxy.said.filter(({ op }) => op === "leave").length, 1);
  } finally {
    await proxy.stop();
  }
});

test("a goodbye is a leave at once, and a closed client takes no more", LIMIT, async () => {
  const channel = fresh();
  const ann = connect("ann");
  const room = ann.join(channel);
  const watched = connect(null).channel(channel);
  await Promise.all([room.ready, watched.ready]);
  await eventually("ann is seen", () => people(watched), ["ann"]);
  const told = diary(watched);
  ann.close();
  await eventually("the leave is told", () => told, ["leave ann left"]);
  assert.throws(() => ann.join(channel), { code: "closed" });
  ann.connect();
  await ann.join(channel).ready;
  await eventually("ann is back", () => people(watched), ["ann"]);
});

test("connections are shown one by one at their level, with their devices", LIMIT, async () => {
  const channel = fresh();
  await Promise.all([connect("ann", { device: "web" }).join(channel).ready, connect("ann", { device: "phone" }).join(channel).ready]);
  const watched = connect(null).channel(channel, { level: "connections" });
  await watched.ready;
  assert.deepEqual([...watched.members.values()].map(({ device }) => device).sort(), ["phone", "web"]);
  assert.deepEqual(watched.occupancy, { users: 1, connections: 2 });
});

test("a channel that is too large for a list is counted, asked for in pages, and listed again when it is small", LIMIT, async () => {
  const channel = fresh();
  const own = await startServer({ PRESENCE__NET_ABOVE: "1", PRESENCE__OCCUPANCY_ABOVE: "4" });
  try {
    const watched = connect(null, { url: own.address }).channel(channel);
    await watched.ready;
    const clients = Array.from({ length: 6 }, (_, number) => connect(`user-${number}`, { url: own.address }));
    await Promise.all(clients.map((client) => client.join(channel, { watch: false }).ready));
    await eventually("it is counted", () => [watched.mode, watched.occupancy.users, watched.members.size], ["occupancy", 6, 0]);
    const found: string[] = [];
    for await (const page of watched.pages(4)) found.push(...page.map(({ user }) => user));
    assert.deepEqual(found.sort(), ["user-0", "user-1", "user-2", "user-3", "user-4", "user-5"]);
    for (const client of clients.slice(1)) client.close();
    await eventually("it is listed", () => [watched.mode !== "occupancy", people(watched)], [true, ["user-0"]]);
  } finally {
    await own.stop();
  }
});

test("whoever is taken out is told, stays out, and may come again; whoever is put out for good does not come back", LIMIT, async () => {
  const [channel, user] = [fresh(), fresh("user")];
  const ann = connect(user);
  const room = ann.join(channel);
  await room.ready;
  const told: string[] = [];
  ann.on("joined", (name) => told.push(`joined ${name === channel}`));
  room.on("left", (reason) => told.push(`left ${reason}`));
  await rest("DELETE", `/v1/users/${user}/channels/${channel}`);
  await eventually("it is told", () => told, ["left kicked"]);
  await eventually("the watch goes on", () => [people(room), room.isLive, room.getSnapshot().isJoined], [[], true, false]);
  await rest("POST", `/v1/users/${user}/channels/${channel}`, { state: { by: "app" } });
  await eventually("it is told", () => told, ["left kicked", "joined true"]);
  await eventually("it is shown", () => room.members.get(user)?.state, { by: "app" });
  await rest("POST", `/v1/users/${user}/disconnect`, { reason: "enough", ban_ms: 60_000 });
  await eventually("it ended", () => [ann.state, ann.error?.code], ["ended", "banned"]);
});
