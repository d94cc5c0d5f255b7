// The client of `sdk/` in real tabs: what several of them share, and what is seen when one goes.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, afterEach, before, test } from "node:test";

import { eventually, startBrowser, startServer } from "./harness.js";

const LIMIT = { timeout: 60_000 };
const DIST = new URL("../../sdk/dist/", import.meta.url);
const PAGE = `<!doctype html><title>A page with a client</title><script type="module">
  import { Rollcall } from "/sdk/index.js";
  const { user, channel, ...options } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
  const token = async () => (await fetch("/token?user=" + user)).text();
  const client = new Rollcall({ token, ...options });
  const room = user === "zoe" ? client.channel(channel) : client.join(channel, { state: { tab: 1 } });
  const told = [];
  room.on("join", ({ user }) => told.push("join " + user));
  room.on("leave", ({ user, reason }) => told.push("leave " + user + " " + reason));
  Object.assign(window, { client, room, told });
</script>`;

let app;
let server;
let browser;
let contexts = [];
let complaints = [];
let rooms = 0;

/** An application's own server: the page, the client, and tokens for whoever asks. */
async function startApp() {
  const http = createServer(async (request, response) => {
    const { pathname, search } = new URL(request.url, "http://app");
    const answer = (type, body) => response.writeHead(200, { "content-type": type }).end(body);
    if (pathname === "/page") answer("text/html", PAGE);
    else if (pathname === "/token") answer("text/plain", (await (await fetch(`${server.address}/dev/token${search}`)).json()).token);
    else if (/^\/sdk\/\w+\.js$/.test(pathname)) answer("text/javascript", await readFile(new URL(pathname.slice("/sdk/".length), DIST)));
    else response.writeHead(404).end();
  });
  await once(http.listen(0, "127.0.0.1"), "listening");
  return { address: `http://127.0.0.1:${http.address().port}`, stop: () => http.close() };
}

before(async () => {
  app = await startApp();
  server = await startServer({ ROLLCALL__PRESENCE__GRACE_MS: "4000", ROLLCALL__SERVER__ALLOWED_ORIGINS: app.address });
  browser = await startBrowser();
}, LIMIT);

after(async () => {
  await browser?.close();
  await server?.stop();
  app?.stop();
}, LIMIT);

afterEach(async () => {
  await Promise.all(contexts.map((context) => context.close()));
  const found = complaints;
  [contexts, complaints] = [[], []];
  assert.deepEqual(found, [], "the browser has nothing to complain about");
});

/** A browser of one person's, with as many tabs as are opened. */
async function person(user, channel, options = {}) {
  const context = await browser.newContext();
  contexts.push(context);
  context.on("page", (page) => page.on("pageerror", (error) => complaints.push(String(error))));
  const address = `${app.address}/page#${encodeURIComponent(JSON.stringify({ url: server.address, user, channel, ...options }))}`;
  const tab = async () => {
    const page = await context.newPage();
    await page.goto(address);
    await live(page);
    return page;
  };
  return { context, tab };
}

const channelOf = () => `room:client-${process.pid}-${++rooms}`;
const live = (page) => eventually("the tab is live", () => page.evaluate(() => window.client?.state === "open" && window.room.isLive), true);
const members = (page) => page.evaluate(() => [...window.room.members.keys()]);
const told = (page) => page.evaluate(() => window.told);
const leads = (page) => page.evaluate(() => window.client.isLeader);
const connection = (page) => page.evaluate(() => window.client.welcome.connection);
const connections = async (user) => (await (await fetch(`${server.address}/v1/users/${user}`)).json()).connections.length;

/** Somebody who looks on from elsewhere, and sees the user. */
async function onlooker(channel, user) {
  const page = await (await person("zoe", channel, { present: false })).tab();
  await eventually("the user is seen", () => members(page), [user]);
  return page;
}

test("two tabs share one connection, and when the one that has it closes the other goes on, unseen", LIMIT, async () => {
  const channel = channelOf();
  const ann = await person("ann", channel);
  const first = await ann.tab();
  const watcher = await onlooker(channel, "ann");
  const second = await ann.tab();
  assert.deepEqual([await leads(first), await leads(second)], [true, false]);
  assert.equal(await connections("ann"), 1);
  const before = await connection(second);
  assert.equal(await connection(first), before);
  await first.close({ runBeforeUnload: true });
  await eventually("the second leads", () => leads(second), true);
  await live(second);
  assert.equal(await connection(second), before, "it is the same connection");
  assert.deepEqual(await members(second), ["ann"]);
  assert.deepEqual(await told(watcher), [], "nobody saw a thing");
  await second.evaluate(() => window.room.update({ tab: 2 }));
  await eventually("it goes on", () => watcher.evaluate(() => window.room.members.get("ann").state), { tab: 2 });
  await second.evaluate(() => window.client.close());
  await eventually("the last one says goodbye", () => told(watcher), ["leave ann left"]);
});

test("a tab that opens another, which gets a copy of all that it has stored, keeps its connection", LIMIT, async () => {
  const channel = channelOf();
  const ann = await person("ann", channel);
  const first = await ann.tab();
  const watcher = await onlooker(channel, "ann");
  const before = await connection(first);
  const opened = first.waitForEvent("popup");
  await first.evaluate(() => {
    sessionStorage.setItem("mark", "copied");
    window.open(location.href);
  });
  const copy = await opened;
  await live(copy);
  assert.equal(await copy.evaluate(() => sessionStorage.getItem("mark")), "copied");
  assert.deepEqual([await leads(first), await leads(copy)], [true, false]);
  assert.deepEqual([await connection(first), await connection(copy)], [before, before]);
  assert.equal(await connections("ann"), 1);
  assert.equal(await first.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 1, "only the mark is stored");
  assert.deepEqual(await told(watcher), []);
});

test("a reload is no leave, and a page that is closed leaves when its grace ends", LIMIT, async () => {
  const channel = channelOf();
  const ann = await person("ann", channel);
  const page = await ann.tab();
  const watcher = await onlooker(channel, "ann");
  await page.reload();
  await live(page);
  assert.deepEqual(await members(page), ["ann"]);
  await eventually("the connection from before has gone", () => watcher.evaluate(() => window.room.members.get("ann").connections), 1);
  assert.deepEqual(await told(watcher), []);
  await page.close({ runBeforeUnload: true });
  await eventually("ann has left", () => told(watcher), ["leave ann timeout"]);
});

test("with `goodbye` a page that is closed leaves at once", LIMIT, async () => {
  const channel = channelOf();
  const ann = await person("ann", channel, { goodbye: true });
  const page = await ann.tab();
  const watcher = await onlooker(channel, "ann");
  await page.close({ runBeforeUnload: true });
  await eventually("ann has left", () => told(watcher), ["leave ann left"]);
});

test("tabs that do not want to share have connections of their own", LIMIT, async () => {
  const channel = channelOf();
  const ann = await person("ann", channel, { share: false });
  await ann.tab();
  const second = await ann.tab();
  await eventually("two connections", () => connections("ann"), 2);
  assert.equal(await leads(second), true);
});
