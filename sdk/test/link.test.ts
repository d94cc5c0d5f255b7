// How a connection is made, kept and made again, with a socket and timers that the test moves.

import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Rollcall, RollcallError, type RollcallOptions } from "@rollcall/client";

import { fullJitter } from "../dist/waiting.js";
import { FakeSocket, pass, settle, startClock, startOver } from "./fake.js";

beforeEach(startOver);
afterEach(startClock);

const jwt = (claims: object) => `h.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.s`;
const inSeconds = (seconds: number) => Date.now() / 1000 + seconds;

function client(options: Partial<RollcallOptions> = {}): Rollcall {
  return new Rollcall({ url: "http://there", token: () => jwt({ sub: "ann", exp: inSeconds(3600) }), WebSocket: FakeSocket, ...options });
}

async function opened(options: Partial<RollcallOptions> = {}): Promise<Rollcall> {
  const made = client(options);
  await settle();
  await FakeSocket.last.welcome("r1");
  return made;
}

test("waits are drawn from the whole length up to a bound: the first is quicker, then a second that doubles up to thirty", () => {
  assert.deepEqual([0, 1, 2, 3, 50].map((attempt) => fullJitter(attempt, () => 1)), [500, 1000, 2000, 4000, 30_000]);
  assert.equal(fullJitter(50, () => 0), 0);
});

test("the socket is asked for where the server is, and the token goes in the first frame", async () => {
  const made = client({ url: "https://there:444/", device: "web" });
  await settle();
  assert.deepEqual([FakeSocket.last.url, FakeSocket.last.protocol], ["wss://there:444/v1/ws", "rollcall.v1"]);
  const hello = await FakeSocket.last.welcome("r1");
  assert.deepEqual([hello.device, hello.resume], ["web", undefined]);
  assert.equal(made.state, "open");
  assert.equal((made.welcome as unknown as Record<string, unknown>).resume, undefined, "what could take the connection is not shown");
});

test("a broken connection comes back with the newest resume token, each time after a longer wait", async () => {
  const made = await opened();
  FakeSocket.last.breaks();
  assert.equal(made.state, "waiting");
  await pass(249);
  assert.equal(FakeSocket.all.length, 1);
  await pass(1);
  assert.equal(FakeSocket.all.length, 2);
  FakeSocket.last.breaks();
  await pass(499);
  assert.equal(FakeSocket.all.length, 2);
  await pass(1);
  assert.equal((await FakeSocket.last.welcome("r2")).resume, "r1");
  FakeSocket.last.breaks(1001);
  await pass(1000);
  assert.equal((await FakeSocket.last.welcome("r3")).resume, "r2");
});

test("an announced restart is obeyed to the millisecond", async () => {
  await opened();
  FakeSocket.last.hear({ event: "reconnect", after_ms: 1834 });
  FakeSocket.last.breaks(1012);
  await pass(1833);
  assert.equal(FakeSocket.all.length, 1);
  await pass(1);
  assert.equal((await FakeSocket.last.welcome("r2")).resume, "r1");
});

test("close codes say whether to come back: with the place, as a new connection, or not at all", async () => {
  for (const code of [1000, 1001, 1006, 1009, 1012, 4001, 4008, 4499]) {
    const made = await opened();
    FakeSocket.last.breaks(code);
    await pass(250);
    assert.equal((await FakeSocket.last.welcome("r2")).resume, "r1", String(code));
    made.close();
  }
  const replaced = await opened();
  FakeSocket.last.breaks(4502);
  await pass(250);
  assert.equal((await FakeSocket.last.welcome("r2")).resume, undefined);
  replaced.close();
  for (const [code, why] of [[4500, "bad_request"], [4503, "kicked"], [4504, "banned"], [4505, "limit"], [4999, "internal"]] as const) {
    const made = await opened();
    const sockets = FakeSocket.all.length;
    FakeSocket.last.breaks(code, "because");
    await pass(60_000);
    assert.deepEqual([made.state, made.error?.code, FakeSocket.all.length], ["ended", why, sockets]);
    assert.match(made.error?.message ?? "", /because/);
    made.connect();
    await settle();
    assert.equal((await FakeSocket.last.welcome("r2")).resume, undefined);
    made.close();
  }
});

test("one token is used for more than one hello, and another is asked for when it has ended or was refused", async () => {
  let asked = 0;
  const made = await opened({ token: () => jwt({ sub: "ann", exp: inSeconds(3600), n: asked++ }) });
  FakeSocket.last.breaks();
  await pass(250);
  await FakeSocket.last.welcome("r2");
  assert.equal(asked, 1);
  FakeSocket.last.breaks(4003);
  await pass(1000);
  await FakeSocket.last.welcome("r3");
  assert.equal(asked, 2);
  FakeSocket.last.breaks(4501, "revoked");
  await pass(1000);
  assert.equal(asked, 3, "one that held before may only be too old");
  FakeSocket.last.breaks(4501, "it does not hold");
  assert.deepEqual([made.state, made.error?.code], ["ended", "unauthorized"]);
});

test("who said goodbye and begins again is asked for a token, for it may be another user's", async () => {
  const users = ["ann", "ben"];
  const made = await opened({ token: () => jwt({ sub: users.shift(), exp: inSeconds(3600) }) });
  made.close();
  made.connect();
  await settle();
  const { token } = await FakeSocket.last.welcome("r2");
  assert.equal(token, jwt({ sub: "ben", exp: inSeconds(3600) }));
  made.close();
});

test("a fresh token is brought before the old one ends, and asked for again when that fails", async () => {
  let asked = 0;
  const failures: string[] = [];
  const made = await opened({
    token: () => {
      if (++asked === 2) throw new Error("away");
      return jwt({ sub: "ann", exp: inSeconds(100) });
    },
  });
  made.on("error", ({ message }) => failures.push(message));
  await pass(79_000);
  assert.equal(asked, 1);
  await pass(1250);
  assert.equal(asked, 2);
  assert.match(failures[0] ?? "", /away/);
  await pass(1000);
  assert.equal(asked, 3);
  await FakeSocket.last.answer("refresh");
  assert.equal(FakeSocket.last.count("refresh"), 1);
  assert.equal(FakeSocket.all.length, 1);
});

test("a server that fell silent is noticed", async () => {
  FakeSocket.answersPings = false;
  const made = await opened();
  await pass(25_000);
  await FakeSocket.last.answer("ping");
  await pass(10_000);
  assert.equal(made.state, "open");
  await pass(25_000);
  assert.equal(FakeSocket.last.count("ping"), 2);
  await pass(10_000);
  assert.deepEqual([made.state === "open", FakeSocket.all[0]?.closedWith], [false, 4000]);
});

test("a hello that the store could not answer is said again on the same socket", async () => {
  const made = client();
  await settle();
  FakeSocket.last.onopen?.(undefined as never);
  await settle();
  await FakeSocket.last.refuse("hello", { code: "unavailable", retry_after_ms: 700 });
  await pass(700);
  assert.deepEqual([FakeSocket.last.count("hello"), FakeSocket.all.length], [2, 1]);
  await FakeSocket.last.answer("hello", { connection: "c", ping_ms: 25_000, server_time: Date.now(), limits: {}, channels: [], resume: "r" });
  assert.equal(made.state, "open");
});

test("what an earlier attempt started late has no say", async () => {
  let give = (_: string) => {};
  const tokens = [new Promise<string>((resolve) => (give = resolve)), Promise.resolve("second")];
  const made = client({ token: () => tokens.shift() ?? "third" });
  made.close();
  made.connect();
  await settle();
  const hello = await FakeSocket.last.welcome("r1");
  give("first");
  await settle();
  assert.deepEqual([hello.token, FakeSocket.all.length], ["second", 1]);
});

test("a token that the application has no more ends it, a network that is away does not", async () => {
  const never = client({ token: () => Promise.reject(new RollcallError("unauthorized", "logged out")) });
  await settle();
  assert.deepEqual([never.state, never.error?.code], ["ended", "unauthorized"]);
  const later = client({ token: () => Promise.reject(new TypeError("no network")) });
  await settle();
  assert.equal(later.state, "waiting");
  later.close();
});

test("what is asked for once waits for a connection for a while, and says so when there was none", async () => {
  const made = client({ waitMs: 3000 });
  await settle();
  const early = made.setStatus("busy");
  await FakeSocket.last.welcome("r1");
  await FakeSocket.last.answer("status");
  await early;
  FakeSocket.last.breaks();
  const late = assert.rejects(made.setStatus(null), { code: "offline" });
  await pass(3000);
  await late;
});

test("what was sent into a connection that broke may have happened or not, and is not sent again", async () => {
  const made = await opened();
  const sent = assert.rejects(made.send("room:1", "hi"), { code: "unavailable" });
  await settle();
  FakeSocket.last.breaks();
  await sent;
  await pass(250);
  await FakeSocket.last.welcome("r2");
  assert.equal(FakeSocket.last.count("send"), 0);
});

test("no more is sent in a second than the server takes, and no more waits than may wait", async () => {
  const made = await opened();
  const outcomes: string[] = [];
  for (let n = 0; n < 1100; n++) {
    made.send("room:1", n).then(
      () => outcomes.push("ok"),
      (error: RollcallError) => outcomes.push(error.code),
    );
  }
  await settle();
  assert.equal(outcomes.filter((code) => code === "full").length, 55, "45 were sent and 1000 wait");
  assert.equal(FakeSocket.last.count("send"), 45);
  await pass(250);
  assert.ok(FakeSocket.last.count("send") <= 64, "no more than 64 are owed an answer");
  for (const { id, op } of [...FakeSocket.last.sent]) if (op === "send") FakeSocket.last.hear({ id, ok: {} });
  await pass(1000);
  const count = FakeSocket.last.count("send");
  assert.ok(count > 90 && count <= 110, String(count));
  made.close();
  await settle();
  assert.equal(outcomes.length, 1100, "every one was answered");
});

test("a frame that the server would close the socket for is not sent", async () => {
  const made = await opened();
  await assert.rejects(made.send("room:1", "é".repeat(40_000)), { code: "too_large" });
  assert.equal(FakeSocket.last.count("send"), 0);
});

test("a server's refusal arrives with its code, its time and what to do", async () => {
  const made = await opened();
  const refused = assert.rejects(made.send("room:1", 1), (error: unknown) => {
    assert.ok(error instanceof RollcallError);
    assert.deepEqual([error.code, error.retryAfterMs, error.isPassing], ["rate_limited", 40, true]);
    assert.match(error.message, /too many: wait/);
    return true;
  });
  await settle();
  await FakeSocket.last.refuse("send", { code: "rate_limited", message: "too many", retry_after_ms: 40 });
  await refused;
});

test("a frame that is no JSON, an event that is not known and a field that is not known do no harm", async () => {
  const made = await opened();
  const failures: RollcallError[] = [];
  made.on("error", (error) => failures.push(error));
  FakeSocket.last.onmessage?.({ data: "{" });
  FakeSocket.last.hear({ event: "invented", channel: "__proto__", more: 1 });
  FakeSocket.last.hear({ id: null, error: { code: "unknown_op", message: "?" } });
  assert.deepEqual([made.state, failures.length], ["open", 1]);
});
