// How a connection comes back, with a socket and timers that the test moves.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { Link, NoToken, fullJitter, mayComeBack } from "../../web/link.js";

class Socket {
  static OPEN = 1;
  static all = [];
  readyState = 0;
  sent = [];

  constructor(url, protocol) {
    Object.assign(this, { url, protocol });
    Socket.all.push(this);
  }

  static get last() {
    return Socket.all.at(-1);
  }

  send(text) {
    this.sent.push(JSON.parse(text));
  }

  close(code) {
    this.readyState = 3;
    this.closedWith = code;
  }

  hear(frame) {
    this.onmessage({ data: JSON.stringify(frame) });
  }

  breaks(code, reason = "") {
    this.readyState = 3;
    this.onclose({ code, reason });
  }
}

let now;
const settle = () => new Promise((resolve) => setImmediate(resolve));

async function pass(ms) {
  now += ms;
  mock.timers.tick(ms);
  await settle();
}

beforeEach(() => {
  now = 1000;
  Socket.all = [];
  globalThis.WebSocket = Socket;
  mock.timers.enable({ apis: ["setTimeout"] });
  mock.method(performance, "now", () => now);
  mock.method(Math, "random", () => 0.5);
});

afterEach(() => {
  mock.timers.reset();
  mock.restoreAll();
});

function link(options = {}) {
  const notes = [];
  const made = new Link({
    url: "ws://there/v1/ws",
    token: async () => "t",
    hello: { device: "web" },
    resumes: true,
    onState() {},
    onWelcome() {},
    onEvent() {},
    onNote: (text) => notes.push(text),
    ...options,
  });
  return Object.assign(made, { notes });
}

async function welcome(resume, more) {
  await settle();
  const socket = Socket.last;
  socket.readyState = 1;
  socket.onopen();
  const [hello] = socket.sent;
  socket.hear({ id: hello.id, ok: { resume, ping_ms: 25000, grace_ms: 15000, channels: [], ...more } });
  await settle();
  return hello;
}

test("waits are drawn from the whole length up to a bound that doubles and then stays", () => {
  assert.equal(fullJitter(0, () => 0), 0);
  assert.equal(fullJitter(0, () => 1), 500);
  assert.equal(fullJitter(3, () => 1), 4000);
  assert.equal(fullJitter(50, () => 1), 10_000);
});

test("close codes say by their range whether to come back", () => {
  for (const code of [1000, 1001, 1003, 1006, 1009, 1012, 4000, 4001, 4003, 4008, 4499]) assert.ok(mayComeBack(code), code);
  for (const code of [4500, 4501, 4502, 4503, 4504, 4505, 4999]) assert.ok(!mayComeBack(code), code);
});

test("a broken connection comes back with the newest resume token, each time after a longer wait", async () => {
  const one = link();
  one.start();
  assert.equal((await welcome("r1")).resume, undefined);
  assert.equal(one.state, "open");
  Socket.last.breaks(1006);
  assert.equal(one.state, "waiting");
  await pass(249);
  assert.equal(Socket.all.length, 1);
  await pass(1);
  assert.equal(Socket.all.length, 2);
  Socket.last.breaks(1006);
  await pass(499);
  assert.equal(Socket.all.length, 2);
  await pass(1);
  assert.equal((await welcome("r2")).resume, "r1");
  Socket.last.breaks(1012);
  await pass(1000);
  assert.equal((await welcome("r3")).resume, "r2");
});

test("a connection that lasted starts the waits from the beginning", async () => {
  const one = link();
  one.start();
  await welcome("r1");
  for (const wait of [250, 500, 1000]) {
    Socket.last.breaks(1006);
    await pass(wait);
    await welcome("r");
  }
  await pass(10_001);
  Socket.last.breaks(1006);
  await pass(250);
  assert.equal(one.state, "connecting");
});

test("an announced restart is obeyed to the millisecond", async () => {
  const one = link();
  one.start();
  await welcome("r1");
  Socket.last.hear({ event: "reconnect", after_ms: 1834 });
  Socket.last.breaks(1012);
  await pass(1833);
  assert.equal(Socket.all.length, 1);
  await pass(1);
  assert.equal((await welcome("r2")).resume, "r1");
});

test("what is closed for good stays closed, and a new start says hello without the old token", async () => {
  const one = link();
  one.start();
  await welcome("r1");
  Socket.last.breaks(4502, "replaced");
  assert.equal(one.state, "ended");
  await pass(60_000);
  assert.equal(Socket.all.length, 1);
  one.start();
  assert.equal((await welcome("r2")).resume, undefined);
});

test("a drop waits for its grace and then has left", async () => {
  const one = link();
  one.start();
  await welcome("r1", { grace_ms: 4000 });
  one.drop();
  assert.equal(Socket.last.closedWith, 4000);
  await pass(3999);
  assert.equal(one.state, "dropped");
  await pass(1);
  assert.deepEqual([one.state, one.reason], ["off", "timeout"]);
  one.start();
  assert.equal((await welcome("r2")).resume, undefined);
});

test("leaving says goodbye, in the grace by coming back for it", async () => {
  const one = link();
  one.start();
  await welcome("r1");
  one.leave();
  assert.deepEqual(Socket.last.sent.at(-1), { op: "bye" });
  assert.equal(one.state, "off");
  one.start();
  await welcome("r2");
  one.drop();
  one.leave();
  assert.equal((await welcome("r3")).resume, "r2");
  assert.deepEqual(Socket.last.sent.at(-1), { op: "bye" });
  assert.equal(one.state, "off");
});

test("a server that fell silent is noticed", async () => {
  const one = link();
  one.start();
  await welcome("r1");
  await pass(25_000);
  const { op, id } = Socket.last.sent.at(-1);
  assert.equal(op, "ping");
  Socket.last.hear({ id, ok: {} });
  await pass(10_000);
  assert.equal(one.state, "open");
  await pass(25_000);
  assert.equal(Socket.last.sent.at(-1).op, "ping");
  await pass(10_000);
  assert.equal(one.state, "waiting");
});

test("what an earlier attempt started late has no say", async () => {
  let give;
  const tokens = [new Promise((resolve) => (give = resolve)), Promise.resolve("second")];
  const one = link({ token: () => tokens.shift() });
  one.start();
  one.leave();
  one.start();
  const hello = await welcome("r1");
  give("first");
  await settle();
  assert.equal(hello.token, "second");
  assert.equal(Socket.all.length, 1);
});

test("without a token it does not try again by itself, without a network it does", async () => {
  const never = link({ token: () => Promise.reject(new NoToken("none")) });
  never.start();
  await settle();
  assert.deepEqual([never.state, never.reason], ["ended", "none"]);
  const later = link({ token: () => Promise.reject(new TypeError("no network")) });
  later.start();
  await settle();
  assert.equal(later.state, "waiting");
});

test("a refusal and a lost connection both answer whoever asked", async () => {
  const one = link();
  one.start();
  await welcome("r1");
  const refused = one.ask({ op: "join", channel: "x" });
  Socket.last.hear({ id: Socket.last.sent.at(-1).id, error: { code: "forbidden", message: "no", retry_after_ms: 5 } });
  await assert.rejects(refused, { code: "forbidden", message: "no", retryAfterMs: 5 });
  const lost = one.ask({ op: "join", channel: "y" });
  Socket.last.breaks(1006);
  await assert.rejects(lost, { code: "unavailable" });
});
