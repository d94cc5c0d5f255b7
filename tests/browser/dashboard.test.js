// The dashboard as somebody who runs the service uses it, against a real server.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { eventually, faultsOf, makeKey, startBrowser, startServer, Visitors } from "./harness.js";

const LIMIT = { timeout: 60_000 };

let server;
let browser;
let visitors;
let rooms = 0;

before(async () => {
  server = await startServer();
  browser = await startBrowser();
  visitors = new Visitors(browser);
}, LIMIT);

after(async () => {
  await browser?.close();
  await server?.stop();
}, LIMIT);

afterEach(async () => assert.deepEqual(await visitors.leave(), [], "the browser has nothing to complain about"));

const room = () => `room:dashboard-${process.pid}-${++rooms}`;
const visit = ({ address = server.address, ...how } = {}) => visitors.visit(`${address}/dashboard`, how);
const text = (page, selector) => page.locator(selector).textContent();
const texts = (page, selector) => page.locator(selector).allTextContents();
const live = (page) => eventually("the dashboard is live", () => text(page, "#live-text"), "live");
const number = (page, tile) => text(page, `#tile-${tile} .number`).then(Number);
const members = (page) => texts(page, "#members .who-name");
const open = async (page, channel) => {
  await page.getByLabel("Look into a channel").fill(channel);
  await page.keyboard.press("Enter");
  await eventually("the channel is live", () => text(page, "#room-live-text"), "live");
};

/** Asks over REST, as an app server does. */
async function rest(method, path, body, { address = server.address, key } = {}) {
  const headers = { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
  const answer = await fetch(`${address}/v1/${path}`, { method, headers, ...(body && { body: JSON.stringify(body) }) });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${answer.ok ? "" : await answer.text()}`);
  return answer.status === 204 ? undefined : answer.json();
}

const place = (channel, user, state = {}, where) =>
  rest("PUT", `channels/${encodeURIComponent(channel)}/members/${encodeURIComponent(user)}`, { state }, where);
const remove = (channel, user) => rest("DELETE", `channels/${encodeURIComponent(channel)}/members/${encodeURIComponent(user)}`);

/** Somebody on the playground: a person with a socket, who can be put out. */
async function present(channel, name, address = server.address) {
  const page = await visitors.visit(`${address}/#${encodeURIComponent(channel)}`);
  await page.locator(".person").first().getByRole("textbox", { name: "Name" }).fill(name);
  await page.getByRole("button", { name: `${name}: present`, exact: true }).click();
  await eventually("is here", async () => (await texts(page, ".who-name")).includes(name), true);
  return page;
}
const note = (page) => page.locator(".person .note").first().textContent();

/** A dashboard whose server answers `/v1/stats` as the test wants it. */
function withStats(next) {
  return (page) =>
    page.route("**/v1/stats", async (route) => {
      const stats = await next();
      if (stats === undefined) return route.abort("connectionrefused");
      await route.fulfill({ json: { users: 0, connections: 0, channels: 0, instances: [], ...stats } });
    });
}

test("numbers, instances and channels are those of the server, and move", LIMIT, async () => {
  const own = await startServer();
  try {
    const [large, small] = [room(), room()];
    const page = await visit({ address: own.address });
    await live(page);
    await eventually("nobody yet", async () => [await number(page, "connections"), await number(page, "users"), await number(page, "channels")], [0, 0, 0]);
    await page.getByText("No channel is occupied.").waitFor();
    await present(large, "ann", own.address);
    await place(small, "lease", {}, own);
    await place(large, "lease", {}, own);
    await eventually("they are counted", async () => [await number(page, "connections"), await number(page, "users"), await number(page, "channels")], [1, 2, 2]);
    await eventually("the largest first", () => texts(page, "#channels .link"), [large, small], 20_000);
    assert.deepEqual(await texts(page, "#channels .channel-users"), ["2", "1"]);
    assert.match(await page.locator("#tile-users .plot").getAttribute("aria-label"), /^Users: 2 now, from 0 to 2 in the last five minutes$/);
    assert.equal(await page.locator("#tile-users canvas").count(), 1);
    const { instances } = await rest("GET", "stats", undefined, own);
    assert.deepEqual(await texts(page, "#instances .instance-name"), [instances[0].instance]);
    assert.deepEqual(await texts(page, "#instances .instance-connections"), ["1"]);
    assert.match(await text(page, "#instances .lease-words"), /^\d+\.\d s$/);
    assert.equal(await text(page, "#instances-count"), "1 instance");
  } finally {
    await visitors.close();
    await own.stop();
  }
});

test("joins and leaves are told by the second, and counters that fall give no rate", LIMIT, async () => {
  const told = [
    { joins: 1000, leaves: 10 },
    { joins: 1040, leaves: 10 },
    { joins: 3, leaves: 0 },
    { joins: 43, leaves: 40 },
  ];
  const page = await visit({ prepare: withStats(() => (told.length > 1 ? told.shift() : told[0])) });
  const seen = new Set();
  const rates = async () => {
    const both = `${await text(page, "#joins-rate")} ${await text(page, "#leaves-rate")}`;
    seen.add(both);
    return both;
  };
  await eventually("the counters rest", async () => (await rates()) === "0 0" && told.length === 1, true, 20_000);
  const numbers = [...seen].flatMap((both) => both.split(" ")).filter((word) => word !== "–");
  assert.ok(numbers.every((word) => Number(word) >= 0 && Number(word) <= 40), [...seen].join(", "));
  assert.ok(numbers.some((word) => Number(word) > 10), `forty in two seconds were seen: ${[...seen].join(", ")}`);
  assert.ok(seen.has("– –"), `at the first and where they fall there is nothing to tell: ${[...seen].join(", ")}`);
});

test("a server that does not answer is said, the charts pause, and go on", LIMIT, async () => {
  let isAway = false;
  const page = await visit({ prepare: withStats(() => (isAway ? undefined : { users: 7 })), bears: /ERR_CONNECTION_REFUSED/ });
  await live(page);
  isAway = true;
  await eventually("it is said", () => text(page, "#live-text"), "no answer");
  assert.match(await text(page, "#notice"), /the server does not answer/);
  assert.equal(await number(page, "users"), 7);
  isAway = false;
  await live(page);
  assert.equal(await text(page, "#notice"), "");
});

test("what is only known from before is called so", LIMIT, async () => {
  const page = await visit({
    prepare: (opened) => opened.route("**/v1/channels?*", (route) => route.fulfill({ json: { channels: [], next: null, stale: true, complete: false } })),
  });
  await eventually("stale", () => text(page, "#live-text"), "stale");
  assert.match(await text(page, "#notice"), /away or settles/);
  assert.match(await text(page, "#channels-note"), /10,000 that were looked at/);
});

test("nobody is asked while nobody looks", LIMIT, async () => {
  let asked = 0;
  const page = await visit({ prepare: withStats(() => ({ users: ++asked })) });
  await live(page);
  const show = (state) =>
    page.evaluate((value) => {
      Object.defineProperty(document, "visibilityState", { value, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }, state);
  await show("hidden");
  const before = asked;
  await page.evaluate(() => [1, 2, 3].forEach(() => dispatchEvent(new Event("online"))));
  await page.waitForTimeout(5000);
  assert.ok(asked <= before + 1, `${asked - before} requests while the page was hidden`);
  await show("visible");
  await eventually("it goes on", () => asked > before + 1, true);
});

test("a user is found by the beginning of the name, online or not, and looked at", LIMIT, async () => {
  const channel = room();
  const name = `find-${process.pid}`;
  const seen = await present(channel, `${name}-on`);
  await rest("PATCH", `users/${name}-on`, { state: { title: "Dr" }, status: "busy", text: "in a call" });
  await place(channel, `${name}-off`);
  await remove(channel, `${name}-off`);
  const page = await visit();
  await live(page);
  await page.getByLabel("The name begins with").fill(name);
  await eventually("both are found", () => texts(page, "#found .who-name"), [`${name}-off`, `${name}-on`]);
  await page.getByLabel("offline too").uncheck();
  await eventually("who is there", () => texts(page, "#found .who-name"), [`${name}-on`]);
  await page.getByLabel("offline too").check();
  await page.getByRole("button", { name: `${name}-on` }).click();
  await eventually("how", () => text(page, "#user-status"), "busy: in a call");
  assert.deepEqual(await texts(page, "#user-devices .device-name"), ["browser"]);
  assert.deepEqual(await texts(page, "#user-channels .open"), [channel]);
  assert.deepEqual(JSON.parse(await text(page, "#user-state")), { title: "Dr" });
  await seen.getByRole("button", { name: `${name}-on: add a phone` }).click();
  await eventually("another device is seen", () => texts(page, "#user-devices .device-name").then((all) => all.sort()), ["browser", "phone"]);
  await page.getByRole("button", { name: `${name}-off` }).click();
  await eventually("when last", () => text(page, "#user-status"), "offline");
  await page.locator("#user-last-seen").waitFor();
  assert.equal(await page.locator("#user-devices-row").isHidden(), true);
  await page.getByLabel("The name begins with").fill(`${name}-nobody`);
  await page.getByText("Nobody with such a name is known.").waitFor();
});

test("a channel's members are live: who comes, changes, types and goes", LIMIT, async () => {
  const channel = room();
  await place(channel, "first", { mood: "glad" });
  const page = await visit();
  await live(page);
  await open(page, channel);
  await eventually("who is there", () => members(page), ["first"]);
  assert.deepEqual(await texts(page, "#members .who-state"), ["glad"]);
  const seconds = await present(channel, "second");
  await eventually("who has come", () => members(page), ["first", "second"]);
  await seconds.getByRole("button", { name: "second: add a phone" }).click();
  await eventually("on what", () => texts(page, "#members .devices-count"), ["", "2 connections"]);
  await seconds.getByLabel("second: say something").pressSequentially("hm");
  await eventually("who types", () => text(page, "#typing"), "second is typing…");
  await remove(channel, "first");
  await eventually("who has gone", () => members(page), ["second"]);
  assert.deepEqual(await texts(page, "#changes .text"), ["first left (left)", "second is on 2 connections", "second joined"]);
  await page.getByRole("button", { name: "second", exact: true }).click();
  await eventually("a name leads to the user", () => text(page, "#user-title"), "second");
  await page.locator("#room-close").click();
  await page.getByText("Choose a channel").waitFor();
});

for (const [how, signal] of [["was told to come back later", "SIGTERM"], ["broke", "SIGKILL"]]) {
  test(`the stream of a channel goes on after it ${how}`, LIMIT, async () => {
    const channel = room();
    let own = await startServer();
    try {
      await place(channel, "before", {}, own);
      const page = await visit({ address: own.address, bears: /ERR_|Failed to load resource/ });
      await live(page);
      await open(page, channel);
      await eventually("who is there", () => members(page), ["before"]);
      await own.stop(signal);
      await eventually("it is said", async () => /trying again/.test(await text(page, "#room-live-text")), true);
      own = await startServer({ ROLLCALL__SERVER__LISTEN: new URL(own.address).host });
      await place(channel, "after", {}, own);
      await eventually("who is there now", () => members(page), ["after"], 30_000);
      await live(page);
    } finally {
      await visitors.close();
      await own.stop();
    }
  });
}

/** A stream that tells these frames and breaks. */
const broken = (...frames) => ({ contentType: "text/event-stream", body: frames.map((frame, at) => `id: ${at}\ndata: ${JSON.stringify(frame)}\n\n`).join("") });

test("a stream that opens and breaks each time is asked for more and more rarely", LIMIT, async () => {
  const asked = [];
  const page = await visit({
    prepare: async (opened) => {
      // The longest that each wait can be.
      await opened.addInitScript(() => (Math.random = () => 0.999));
      await opened.route("**/v1/events?*", (route) => {
        asked.push(performance.now());
        return route.fulfill(broken());
      });
    },
  });
  await live(page);
  await page.getByLabel("Look into a channel").fill(room());
  await page.keyboard.press("Enter");
  await eventually("it is asked for again", () => asked.length >= 4, true, 20_000);
  assert.ok(asked[3] - asked[0] > 3400, `half a second, one and two were waited: ${asked}`);
});

test("nobody types on a page whose stream broke", LIMIT, async () => {
  const channel = room();
  const ann = { user: "ann", status: "online", state: {}, since: 1, connections: 1 };
  const about = { channel, time: 1 };
  const told = { event: "snapshot", level: "users", mode: "full", epoch: "e", version: 1, members: [ann], more: false, occupancy: { users: 1, connections: 1 }, ...about };
  const answers = [broken(told, { event: "typing", user: "ann", typing: true, ...about })];
  const page = await visit({
    prepare: (opened) => opened.route("**/v1/events?*", (route) => (answers[0] ? route.fulfill(answers.shift()) : route.abort())),
    bears: /ERR_FAILED/,
  });
  await live(page);
  await page.getByLabel("Look into a channel").fill(channel);
  await page.keyboard.press("Enter");
  await eventually("who was there", () => members(page), ["ann"]);
  await eventually("it is said", async () => /trying again/.test(await text(page, "#room-live-text")), true);
  assert.equal(await text(page, "#typing"), "");
});

test("the dialog about one is not closed by what was asked about another, and names whom it is about in full", LIMIT, async () => {
  const channel = room();
  const [first, second] = ["a", "b"].map((end) => `${"0123456789".repeat(5)}${end}`);
  for (const user of [first, second]) await place(channel, user);
  let answer;
  const page = await visit({
    prepare: (opened) => opened.route(`**/v1/users/${first}/channels/*`, (route) => (answer = () => route.fulfill({ json: { connections: 1 } }))),
  });
  await live(page);
  await open(page, channel);
  await page.getByRole("button", { name: `Kick ${first}…` }).click();
  await page.getByRole("button", { name: "Kick", exact: true }).click();
  await eventually("it is asked", () => answer !== undefined, true);
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: `Kick ${second}…` }).click();
  assert.equal(await text(page, "#kick-title"), `Kick ${second}?`);
  answer();
  await eventually("it is said of the one", async () => (await text(page, "#done")).startsWith("0123456789"), true);
  assert.equal(await page.getByRole("dialog").count(), 1);
  await page.getByRole("button", { name: "Kick", exact: true }).click();
  await eventually("who has no connection is not put out", async () => /has no connection in .*: nobody was put out/.test(await text(page, "#done")), true);
  assert.equal(await page.getByRole("dialog").count(), 0);
});

test("somebody is taken out of a channel, after a question, and sees it", LIMIT, async () => {
  const channel = room();
  const name = `kick-${process.pid}`;
  const seen = await present(channel, name);
  await place(channel, "stays");
  const page = await visit();
  await live(page);
  await open(page, channel);
  await eventually("both are there", () => members(page), [name, "stays"]);
  const ask = page.getByRole("button", { name: `Kick ${name}…` });
  await ask.click();
  await page.getByRole("dialog", { name: `Kick ${name}?` }).waitFor();
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("dialog").count(), 0);
  await ask.click();
  await page.getByRole("button", { name: "Cancel" }).click();
  assert.deepEqual(await members(page), [name, "stays"], "nothing happens without a yes");
  await ask.click();
  await page.getByRole("button", { name: "Kick", exact: true }).click();
  await eventually("out", () => members(page), ["stays"]);
  await eventually("it is said", () => text(page, "#done"), `${name} was put out of ${channel}: 1 connection.`);
  assert.deepEqual((await texts(page, "#changes .text"))[0], `${name} left (kicked)`);
  await eventually("the kicked see it", () => note(seen), "Taken out of the channel (kicked).");
});

test("somebody is put out of everything, with a ban, and told why", LIMIT, async () => {
  const channel = room();
  const name = `ban-${process.pid}`;
  const seen = await present(channel, name);
  const page = await visit();
  await live(page);
  await page.getByLabel("The name begins with").fill(name);
  await page.getByRole("button", { name, exact: true }).click();
  await page.locator("#user-kick").click();
  assert.equal(await page.getByText("may join again").isHidden(), true);
  await page.getByLabel("Ban", { exact: true }).selectOption("for 10 minutes");
  await page.getByLabel("Reason").fill("no shouting");
  await page.getByRole("button", { name: "Kick", exact: true }).click();
  await eventually("it is said", () => text(page, "#done"), `${name} was put out of everywhere: 1 connection.`);
  await eventually("gone", () => text(page, "#user-status"), "offline");
  await eventually("the kicked see why", async () => /no shouting/.test(await note(seen)), true);
  await seen.getByRole("button", { name: `${name}: present`, exact: true }).click();
  await eventually("and do not come back", async () => /ban/.test(await note(seen)), true);
});

test("outside development mode it wants a key, which stays in memory, and says what a key may not", LIMIT, async () => {
  const [all, reads, narrow] = await Promise.all([makeKey("all", "read+write+admin"), makeKey("reads", "read"), makeKey("narrow", "read(room:**)")]);
  const own = await startServer(
    {
      ROLLCALL__AUTH__HS256_SECRET: "0123456789abcdef0123456789abcdef",
      ROLLCALL__AUTH__API_KEYS: [all, reads, narrow].map(({ entry }) => entry).join(","),
    },
    [],
  );
  try {
    const channel = room();
    await place(channel, "ann", {}, { address: own.address, key: all.key });
    const addresses = [];
    const page = await visit({
      address: own.address,
      bears: /status of 40[13]/,
      prepare: (opened) => opened.on("request", (request) => addresses.push(request.url())),
    });
    const use = async (key) => {
      await page.getByRole("textbox", { name: "API key" }).fill(key);
      await page.getByRole("button", { name: "Use" }).click();
    };
    await page.getByRole("heading", { name: "This server wants an API key" }).waitFor();
    assert.equal(await text(page, "#live-text"), "needs a key");
    assert.deepEqual(await faultsOf(page), []);
    await use("rck_made-up");
    await eventually("wrong", () => text(page, "#key-problem"), "Not accepted: no such API key is known here.");
    await use(narrow.key);
    await eventually("insufficient", () => text(page, "#key-problem"), "The key may not: this asks for the scope `read`, not narrowed to channels.");
    await use(reads.key);
    await live(page);
    assert.equal(await page.locator("#key-section").isHidden(), true);
    await eventually("numbers", () => number(page, "users"), 1);
    await open(page, channel);
    await eventually("members", () => members(page), ["ann"]);
    await page.getByRole("button", { name: "Kick ann…" }).click();
    await page.getByRole("button", { name: "Kick", exact: true }).click();
    await eventually("which scope is missing", async () => /lacks the scope `write`/.test(await text(page, "#kick-problem")), true);
    await page.getByText("Out of everything:").click();
    await page.getByRole("button", { name: "Kick", exact: true }).click();
    await eventually("which scope is missing", async () => /the scope `admin`/.test(await text(page, "#kick-problem")), true);
    await page.getByRole("button", { name: "Cancel" }).click();
    const kept = await page.evaluate(() => [
      JSON.stringify({ ...localStorage, ...sessionStorage }) + document.cookie,
      location.href,
      document.documentElement.outerHTML + [...document.querySelectorAll("input")].map(({ value }) => value),
    ]);
    for (const { key } of [all, reads, narrow]) assert.ok(kept.every((where) => !where.includes(key)), "the key is in no storage, address or field");
    assert.ok(addresses.some((one) => one.includes("/v1/events?")), "the stream is among the requests");
    for (const { key } of [all, reads, narrow]) assert.ok(addresses.every((one) => !one.includes(key)), "the key is in no address");
    await page.reload();
    await page.getByRole("heading", { name: "This server wants an API key" }).waitFor();
  } finally {
    await visitors.close();
    await own.stop();
  }
});

test("hostile names, states and texts are shown as the text they are", LIMIT, async () => {
  const names = ["<img/src=x/onerror=alert(1)>", "__proto__", "constructor"];
  const channel = `${room()}<svg/onload=alert(1)>`;
  for (const name of names) await place(channel, name, { mood: "<script>alert(1)</script>", __proto__x: 1 });
  await rest("PATCH", `users/${encodeURIComponent(names[0])}`, { status: "away", text: "<img src=x onerror=alert(1)>", state: { a: "</pre><img src=x onerror=alert(1)>" } });
  const page = await visit();
  await live(page);
  await eventually("the channel is listed", async () => (await texts(page, "#channels .link")).includes(channel), true, 20_000);
  await page.getByRole("button", { name: channel }).click();
  await eventually("who is there", () => members(page), names);
  assert.equal((await texts(page, "#members .who-state"))[1], "<script>alert(1)</script>");
  for (const name of names) {
    await page.getByLabel("The name begins with").fill(name);
    await eventually("is found", () => texts(page, "#found .who-name"), [name]);
    await page.locator("#found .who-name").click();
    await eventually("is looked at", () => texts(page, "#user-channels .open"), [channel]);
    assert.equal(await text(page, "#user-title"), name);
    await page.locator("#user-kick").click();
    await page.getByRole("button", { name: "Cancel" }).click();
  }
  await remove(channel, "__proto__");
  await eventually("one has left", () => members(page), [names[0], names[2]]);
  assert.equal(await page.locator("main img, main script, main svg, dialog img").count(), 0);
});

test("the keyboard alone does it, with a visible focus", LIMIT, async () => {
  const channel = room();
  await place(channel, "ann");
  const page = await visit();
  await live(page);
  await eventually("the channel is listed", async () => (await texts(page, "#channels .link")).includes(channel), true, 20_000);
  const tabTo = async (target) => {
    for (let presses = 0; presses < 80; presses++) {
      await page.keyboard.press("Tab");
      if (await target.evaluate((element) => element === document.activeElement)) {
        return assert.notEqual(await target.evaluate((element) => getComputedStyle(element).outlineStyle), "none");
      }
    }
    assert.fail("the tabulator does not come there");
  };
  await tabTo(page.getByRole("button", { name: channel }));
  await page.keyboard.press("Enter");
  await eventually("the channel has the focus", () => page.evaluate(() => document.activeElement.id), "room-title");
  await eventually("who is there", () => members(page), ["ann"]);
  await tabTo(page.getByRole("button", { name: "Kick ann…" }));
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await eventually("the focus is back", () => page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Kick ann…");
  await tabTo(page.getByLabel("The name begins with"));
  await page.keyboard.type("ann");
  await page.keyboard.press("Enter");
  await tabTo(page.locator("#found .who-name").first());
  await page.keyboard.press("Enter");
  await eventually("the user has the focus", () => page.evaluate(() => document.activeElement.id), "user-title");
});

for (const [colorScheme, width] of [["light", 1280], ["dark", 360]]) {
  test(`at ${width} pixels in ${colorScheme} colours nothing is cut off, and axe finds no serious fault`, LIMIT, async () => {
    const channel = `${room()}-${"0123456789".repeat(15)}`;
    const long = `w${width}-${"0123456789".repeat(20)}`;
    await place(channel, long, { mood: "x".repeat(500) });
    await rest("PATCH", `users/${long}`, { status: "busy", text: "y".repeat(200), state: { long: "z".repeat(300) } });
    const page = await visit({ options: { viewport: { width, height: 740 }, colorScheme, reducedMotion: "reduce" } });
    await live(page);
    await open(page, channel);
    await eventually("who is there", () => members(page), [long]);
    await page.getByLabel("The name begins with").fill(long);
    await eventually("is found", () => texts(page, "#found .who-name"), [long]);
    await page.locator("#found .who-name").click();
    await eventually("is looked at", () => texts(page, "#user-channels .open"), [channel]);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), width);
    assert.deepEqual(await faultsOf(page), []);
    await page.locator("#user-kick").click();
    await page.getByRole("dialog").waitFor();
    assert.deepEqual(await faultsOf(page), []);
    const { right } = await page.getByRole("dialog").evaluate((element) => element.getBoundingClientRect().toJSON());
    assert.ok(right <= width, "the dialog fits");
  });
}
