// The client plays its parts in the conversations of fixtures/wire, which a test of the server holds against what it sends and
// understands: so neither side can change a frame without the other.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, test } from "node:test";

import { Rollcall, type RollcallOptions } from "@rollcall/client";

import { FakeSocket, pass, settle, startClock, stopClock, type Frame } from "./fake.js";

interface Line {
  readonly from?: string;
  readonly to?: string;
  readonly break?: string;
  readonly frame: Frame;
  readonly close?: number;
}

/** One part of a conversation: the test does what its speaker wants, and the client has to say what stands there. */
class Part {
  readonly client: Rollcall;
  #lines: Line[];
  #seen = new Set<Frame>();
  #ids = new Map<unknown, unknown>();

  constructor(name: string, who: string, options: Partial<RollcallOptions> = {}) {
    const url = new URL(`../../fixtures/wire/${name}.json`, import.meta.url);
    const all = (JSON.parse(readFileSync(url, "utf8")) as { frames: Line[] }).frames;
    this.#lines = all.filter((line) => [line.from, line.to, line.break].includes(who));
    this.client = new Rollcall({ url: "http://there", token: () => "h.e30.s", WebSocket: FakeSocket, ...options });
  }

  /** Hears and says what comes next, until the client would have to say something that it was not asked for yet. */
  async goOn(): Promise<void> {
    await settle();
    for (let line = this.#lines[0]; line; line = this.#lines[0]) {
      if (line.break !== undefined || line.close !== undefined) FakeSocket.last.breaks(line.close ?? 1006);
      else if (line.to !== undefined) FakeSocket.last.hear({ ...line.frame, ...("id" in line.frame && { id: this.#ids.get(line.frame.id) }) });
      else if (!(await this.#says(line.frame))) return;
      this.#lines.shift();
      await settle();
    }
  }

  async #says(wanted: Frame): Promise<boolean> {
    if (wanted.op === "hello") {
      // Comes back by itself, in its time.
      for (let waited = 0; waited < 2000 && !this.#unseen() && FakeSocket.all.length > 0; waited += 250) {
        FakeSocket.last.onopen?.(undefined as never);
        await settle();
        if (!this.#unseen()) await pass(250);
      }
    }
    const said = this.#unseen();
    if (!said) return false;
    this.#seen.add(said);
    this.#ids.set(wanted.id, said.id);
    const plain = ({ id: _, token: __, ...rest }: Frame) => rest;
    assert.deepEqual(plain(said), plain(wanted));
    return true;
  }

  #unseen(): Frame | undefined {
    return FakeSocket.last.sent.find((frame) => !this.#seen.has(frame));
  }

  /** All of it was said and heard. */
  async end(): Promise<void> {
    await this.goOn();
    assert.deepEqual(this.#lines, []);
    assert.equal(this.#unseen(), undefined);
    this.client.close();
  }
}

beforeEach(() => {
  FakeSocket.all = [];
  stopClock();
});
afterEach(startClock);

/** A promise whose refusal somebody looks at later. */
function later<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

test("who is in a room and watches it sees others come, change, have two devices and go", async () => {
  const ann = new Part("room", "ann", { device: "web" });
  await ann.goOn();
  const room = ann.client.join<{ name: string; mood?: string }>("room:1", { state: { name: "Ann" } });
  const told: unknown[] = [];
  room.on("join", ({ user, state }) => told.push(["join", user, state]));
  room.on("update", ({ user, state, connections }) => told.push(["update", user, state, connections]));
  room.on("leave", ({ user, reason }) => told.push(["leave", user, reason]));
  await ann.end();
  await room.ready.catch(() => {});
  assert.deepEqual(told, [
    ["join", "ben", { name: "Ben" }],
    ["update", "ben", { name: "Ben", mood: "busy" }, 1],
    ["update", "ben", { on: "phone" }, 2],
    ["update", "ben", { name: "Ben", mood: "busy" }, 1],
    ["leave", "ben", "left"],
  ]);
});

test("who is in a room without watching it joins, changes and leaves", async () => {
  const ben = new Part("room", "ben");
  await ben.goOn();
  const room = ben.client.join<{ name: string; mood?: string }>("room:1", { state: { name: "Ben" }, graceMs: 5000, watch: false });
  await ben.goOn();
  await room.ready;
  const updated = room.update({ mood: "busy" });
  await ben.goOn();
  await updated;
  const left = room.leave();
  await ben.end();
  await left;
});

test("a connection goes on where it stopped, and what happened meanwhile is one change", async () => {
  const ann = new Part("resume", "ann");
  await ann.goOn();
  const room = ann.client.join("room:1");
  const told: string[] = [];
  room.on("join", ({ user }) => told.push(user));
  await ann.goOn();
  await room.ready;
  await ann.end();
  assert.deepEqual(told, ["ben"]);
  assert.deepEqual([...room.members.keys()], ["ann", "ben"]);
});

test("connections, and counts alone, are shown at their levels", async () => {
  const zoe = new Part("levels", "zoe", { present: false });
  await zoe.goOn();
  const devices = zoe.client.channel("room:1", { level: "connections" });
  const left: unknown[] = [];
  devices.on("leave", ({ device }) => left.push(device));
  await zoe.goOn();
  assert.deepEqual([...devices.members.values()].map(({ device }) => device).sort(), ["phone", "web"]);
  const counts = zoe.client.channel("room:2", { level: "occupancy" });
  await zoe.goOn();
  await counts.ready;
  assert.deepEqual([counts.members.size, counts.occupancy], [0, { users: 0, connections: 0 }]);
  counts.close();
  await zoe.end();
  assert.deepEqual([left, devices.occupancy], [["phone"], { users: 1, connections: 1 }]);
});

test("users are watched, asked for and watched no more", async () => {
  const zoe = new Part("users", "zoe", { present: false });
  await zoe.goOn();
  const watch = zoe.client.watch(["ann", "__proto__"]);
  const told: unknown[] = [];
  watch.on("change", (changes) => changes.forEach(({ user, view }) => told.push([user, view.status, view.text, view.state])));
  await zoe.goOn();
  await watch.ready;
  const asked = zoe.client.where("ann");
  await zoe.goOn();
  assert.deepEqual([(await asked).status, (await asked).channels], ["busy", []]);
  watch.close();
  await zoe.end();
  assert.deepEqual(told, [
    ["__proto__", "offline", undefined, undefined],
    ["ann", "offline", undefined, undefined],
    ["ann", "online", undefined, undefined],
    ["ann", "busy", "in a call", undefined],
    ["ann", "busy", "in a call", { title: "Dr" }],
    ["ann", "offline", "in a call", { title: "Dr" }],
  ]);
});

test("a status and what is shown of a user are chosen, and a goodbye is said", async () => {
  const ann = new Part("users", "ann");
  await ann.goOn();
  const busy = ann.client.setStatus("busy", { text: "in a call" });
  await ann.goOn();
  await busy;
  const title = ann.client.users.update({ title: "Dr" });
  await ann.goOn();
  await title;
  ann.client.close();
  assert.deepEqual(FakeSocket.last.sent.at(-1), { op: "bye" });
});

test("typing and signals are heard in a room", async () => {
  const zoe = new Part("asides", "zoe", { present: false });
  await zoe.goOn();
  const watched = zoe.client.channel("room:1");
  const told: unknown[] = [];
  watched.on("typing", ({ user, typing }) => told.push([user, typing, watched.getSnapshot().typing]));
  watched.on("signal", ({ user, data }) => told.push([user, data]));
  await zoe.end();
  assert.deepEqual(told, [
    ["ann", true, ["ann"]],
    ["ann", false, []],
    ["ann", { wave: [1, null, "👋"] }],
  ]);
});

test("typing and signals are said, to a room and to one user", async () => {
  const ann = new Part("asides", "ann");
  await ann.goOn();
  const room = ann.client.join("room:1", { watch: false });
  await ann.goOn();
  room.typing();
  await ann.goOn();
  room.typing(false);
  await ann.goOn();
  const sent = room.send({ wave: [1, null, "👋"] });
  await ann.goOn();
  await sent;
  ann.client.typingTo("ben");
  await ann.goOn();
  ann.client.typingTo("ben", false);
  await ann.end();
});

test("who is typed to is told", async () => {
  const ben = new Part("asides", "ben");
  const told: unknown[] = [];
  ben.client.on("typing", (typing) => told.push(typing));
  await ben.end();
  assert.deepEqual(told, [
    { user: "ann", typing: true },
    { user: "ann", typing: false },
  ]);
});

test("a room that grows too large for a list is counted, and its list asked for in pages", async () => {
  const zoe = new Part("modes", "zoe", { present: false });
  await zoe.goOn();
  const watched = zoe.client.channel("room:1");
  const modes: unknown[] = [];
  watched.on("change", () => modes.push([watched.mode, watched.members.size, watched.occupancy.users]));
  await zoe.goOn();
  assert.deepEqual(modes, [["full", 0, 0], ["full", 1, 1], ["net", 2, 2], ["occupancy", 0, 3]]);
  const found: string[] = [];
  const read = (async () => {
    for await (const page of watched.pages(2)) found.push(...page.map(({ user }) => user));
  })();
  await zoe.goOn();
  await zoe.goOn();
  await read;
  await zoe.end();
  assert.deepEqual(found, ["ann", "ben", "kim"]);
});

test("names are names, whatever they look like", async () => {
  const zoe = new Part("names", "zoe", { present: false });
  await zoe.goOn();
  const watched = zoe.client.channel("__proto__");
  const told: string[] = [];
  watched.on("join", ({ user }) => told.push(`join ${user}`));
  watched.on("leave", ({ user }) => told.push(`leave ${user}`));
  await zoe.end();
  assert.deepEqual(told, ["join __proto__", "join 😀", "join {x}/a%2Fb", "leave __proto__"]);
  assert.deepEqual([...watched.members.keys()], ["😀", "{x}/a%2Fb"]);
  assert.equal(({} as Frame).x, undefined);
});

test("a refusal has the server's code and sentence", async () => {
  const zoe = new Part("refusals", "zoe", { present: false });
  await zoe.goOn();
  const room = zoe.client.join("room:1", { watch: false });
  await zoe.goOn();
  await assert.rejects(room.ready, { code: "forbidden", message: /only watches/ });
  const sent = later(zoe.client.send("room:1", 1));
  await zoe.goOn();
  await assert.rejects(sent, { code: "forbidden" });
  zoe.client.close();
});
