// What a page tells the client: activity, networks that go and come, and its own end.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import type { RollcallOptions } from "@rollcall/client";

import { FakeSocket, opened, pass, settle, startClock, startOver } from "./fake.js";

let scope: EventTarget;
let view: EventTarget & { visibilityState: string };

beforeEach(() => {
  startOver();
  scope = new EventTarget();
  view = Object.assign(new EventTarget(), { visibilityState: "visible" });
  const bound = { addEventListener: scope.addEventListener.bind(scope), removeEventListener: scope.removeEventListener.bind(scope) };
  Object.assign(globalThis, { ...bound, document: view });
});

afterEach(() => {
  for (const name of ["addEventListener", "removeEventListener", "document"]) Reflect.deleteProperty(globalThis, name);
  startClock();
});

const onPage = (options: Partial<RollcallOptions> = {}) => opened({ platform: {}, ...options });

const happens = (name: string, more: object = {}, on: EventTarget = scope) => on.dispatchEvent(Object.assign(new Event(name), more));

test("activity is told, but sparingly", async () => {
  const client = await onPage();
  happens("pointermove");
  assert.equal(FakeSocket.last.count("active"), 0, "a new connection is activity by itself");
  await pass(30_000);
  for (let move = 0; move < 100; move++) happens("pointermove");
  happens("keydown");
  await settle();
  assert.equal(FakeSocket.last.count("active"), 1);
  await FakeSocket.last.answer("active");
  await pass(30_000);
  happens("keydown");
  await settle();
  assert.equal(FakeSocket.last.count("active"), 2);
  client.close();
});

test("a page that is hidden is not active, and one that is shown again is", async () => {
  const client = await onPage();
  await pass(40_000);
  view.visibilityState = "hidden";
  happens("visibilitychange", {}, view);
  happens("pointermove");
  await settle();
  assert.equal(FakeSocket.last.count("active"), 0);
  view.visibilityState = "visible";
  happens("visibilitychange", {}, view);
  await settle();
  assert.equal(FakeSocket.last.count("active"), 1);
  client.close();
});

test("a page that goes says nothing, for it may only be reloaded, and goodbye where the application wants that", async () => {
  for (const goodbye of [undefined, false, true]) {
    const client = await onPage(goodbye === undefined ? {} : { goodbye });
    happens("pagehide", { persisted: false });
    assert.deepEqual([FakeSocket.last.count("bye"), FakeSocket.last.closedWith], goodbye ? [1, 1000] : [0, 4000]);
    client.close();
  }
});

test("a page that the browser keeps says nothing, and goes on where it was when it is shown again", async () => {
  const client = await onPage({ goodbye: true });
  happens("pagehide", { persisted: true });
  assert.deepEqual([FakeSocket.last.count("bye"), FakeSocket.last.closedWith], [0, 4000]);
  happens("pageshow", { persisted: true });
  await settle();
  assert.equal((await FakeSocket.last.welcome("r2")).resume, "r1");
  client.close();
});

test("a network that is back is used at once, and one that went is asked whether it did", async () => {
  const client = await onPage();
  happens("offline");
  await settle();
  assert.equal(FakeSocket.last.count("ping"), 1);
  FakeSocket.last.breaks();
  assert.equal(client.state, "waiting");
  happens("online");
  await settle();
  assert.deepEqual([client.state, FakeSocket.all.length], ["connecting", 2]);
  client.close();
});

test("a client that was closed listens to nothing any more", async () => {
  const client = await onPage();
  const removed = mock.fn();
  client.close();
  client.on("state", removed);
  await pass(60_000);
  happens("pointermove");
  happens("pagehide", { persisted: false });
  happens("online");
  await settle();
  assert.deepEqual([removed.mock.callCount(), FakeSocket.all.length], [0, 1]);
});
