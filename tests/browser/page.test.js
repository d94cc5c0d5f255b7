// Clicks through the page as a visitor would, against a real server.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, afterEach, before, test } from "node:test";

import { eventually, faultsOf, startBrowser, startServer, Visitors } from "./harness.js";
import { output, ROLLCALL } from "./program.js";

const GRACE_MS = 5000;
const LIMIT = { timeout: 60_000 };

let server;
let browser;
let visitors;
let rooms = 0;

before(async () => {
  server = await startServer({ ROLLCALL__PRESENCE__GRACE_MS: String(GRACE_MS) });
  browser = await startBrowser();
  visitors = new Visitors(browser);
}, LIMIT);

after(async () => {
  await browser?.close();
  await server?.stop();
}, LIMIT);

afterEach(async () => assert.deepEqual(await visitors.leave(), [], "the browser has nothing to complain about"));

/** A visitor with a page on the channel. */
const visit = (channel, { address = server.address, ...how } = {}) => visitors.visit(`${address}/#${encodeURIComponent(channel)}`, how);
const room = () => `room:browser-${process.pid}-${++rooms}`;
const press = (page, name, what) => page.getByRole("button", { name: `${name}: ${what}`, exact: true }).click();
const card = (page, place) => page.locator(".person").nth(place);
const note = (page, place) => card(page, place).locator(".note").first().textContent();
const texts = (page, selector) => page.locator(selector).allTextContents();
const members = (page) => texts(page, ".who-name");
const log = async (page) => (await texts(page, "#log .text")).reverse();
const counts = async (page) => [await page.locator("#users").textContent(), await page.locator("#connections").textContent()].map(Number);
const live = (page) => eventually("the page is live", () => page.locator("#live-text").textContent(), "live");
const shows = (page, people, users, connections) =>
  eventually("who is here", async () => [await members(page), await counts(page)], [people, [users, connections]]);

/** What the server itself says about the channel. */
async function asked(channel) {
  const response = await fetch(`${server.address}/v1/channels/${encodeURIComponent(channel)}/members`);
  assert.equal(response.status, 200);
  const body = await response.json();
  return { people: body.members.map((member) => member.user), occupancy: body.occupancy, version: body.version };
}

test("the page comes with a policy that allows it nothing but itself and this server", LIMIT, async () => {
  const response = await fetch(server.address);
  assert.equal(response.status, 200);
  const policy = response.headers.get("content-security-policy");
  const { host } = new URL(server.address);
  assert.match(policy, /default-src 'none'/);
  assert.match(policy, /frame-ancestors 'none'/);
  assert.ok(policy.includes(`connect-src 'self' ws://${host} wss://${host};`), policy);
  assert.ok(!policy.includes("unsafe"), policy);
  assert.equal(response.headers.get("x-content-type-options"), "nosniff");
  assert.equal(response.headers.get("referrer-policy"), "no-referrer");
  const again = await fetch(server.address, { headers: { "if-none-match": response.headers.get("etag") } });
  assert.equal(again.status, 304);
});

test("three people are switched on and off one by one, and everybody who watches sees and counts them", LIMIT, async () => {
  const channel = room();
  const page = await visit(channel);
  const other = await visit(channel);
  await Promise.all([live(page), live(other)]);
  await shows(page, [], 0, 0);
  const here = [];
  for (const name of ["Ann", "Ben", "Zoe"]) {
    await press(page, name, "present");
    here.push(name);
    for (const view of [page, other]) await shows(view, here, here.length, here.length);
  }
  const { people, occupancy } = await asked(channel);
  assert.deepEqual(people, here);
  assert.deepEqual(occupancy, { users: 3, connections: 3 });
  assert.equal(await page.getByRole("button", { name: "Ann: present" }).getAttribute("aria-pressed"), "true");

  await press(page, "Ben", "present");
  for (const view of [page, other]) await shows(view, ["Ann", "Zoe"], 2, 2);
  await press(page, "Zoe", "leave");
  for (const view of [page, other]) {
    await shows(view, ["Ann"], 1, 1);
    const lines = await log(view);
    assert.deepEqual(lines.filter((line) => /joined|left/.test(line)), ["Ann joined", "Ben joined", "Zoe joined", "Ben left (left)", "Zoe left (left)"]);
  }
});

test("a mood is one update, and pressing it again takes it away", LIMIT, async () => {
  const channel = room();
  const page = await visit(channel);
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  const reading = card(page, 0).getByRole("button", { name: "reading" });
  await reading.click();
  await eventually("the mood is shown", () => texts(page, ".who-state"), ["reading"]);
  assert.equal(await reading.getAttribute("aria-pressed"), "true");
  await reading.click();
  await eventually("the mood is gone", () => texts(page, ".who-state"), [""]);
  assert.deepEqual((await log(page)).filter((line) => !line.includes("here")), ["Ann joined", "Ann is now reading", "Ann is now without a mood"]);
});

test("a dropped connection comes back in its grace, and no watcher hears of it", LIMIT, async () => {
  const channel = room();
  const page = await visit(channel);
  const other = await visit(channel);
  await Promise.all([live(page), live(other)]);
  await press(page, "Ann", "present");
  await press(page, "Zoe", "present");
  await eventually("both are here", async () => (await members(other)).sort(), ["Ann", "Zoe"]);
  const { version } = await asked(channel);

  await press(page, "Zoe", "drop the connection");
  await eventually("the countdown runs", async () => /kept for [1-4] s/.test(await note(page, 2)), true);
  assert.equal((await asked(channel)).occupancy.users, 2);
  await press(page, "Zoe", "come back");
  await eventually("resumed", () => note(page, 2), "Back by resume. Nobody noticed.");
  assert.equal((await asked(channel)).version, version);

  // What comes after it in the same channel shows that nothing was on its way.
  await card(page, 0).getByRole("button", { name: "free" }).click();
  await eventually("the next event", async () => (await log(other)).at(-1), "Ann is now free");
  const lines = await log(other);
  assert.equal(lines.filter((line) => line.includes("Zoe")).length, 1, lines.join("\n"));
  assert.equal((await asked(channel)).version, version + 1);
});

test("a dropped connection that stays away leaves once, with the reason timeout", LIMIT, async () => {
  const page = await visit(room());
  await live(page);
  await press(page, "Ben", "present");
  await shows(page, ["Ben"], 1, 1);
  await press(page, "Ben", "drop the connection");
  await shows(page, [], 0, 0);
  assert.deepEqual((await log(page)).filter((line) => line.startsWith("Ben left")), ["Ben left (timeout)"]);
  await eventually("the switch is off", () => page.getByRole("button", { name: "Ben: present" }).getAttribute("aria-pressed"), "false");
  await press(page, "Ben", "present");
  await shows(page, ["Ben"], 1, 1);
});

test("leaving during the grace is a leave at once", LIMIT, async () => {
  const page = await visit(room());
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  await press(page, "Ann", "drop the connection");
  await press(page, "Ann", "leave");
  await shows(page, [], 0, 0);
  assert.equal((await log(page)).at(-1), "Ann left (left)");
});

test("the same name in a second tab is one person on two connections", LIMIT, async () => {
  const channel = room();
  const page = await visit(channel);
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  const popup = page.waitForEvent("popup");
  await page.getByRole("link", { name: "Open in another tab" }).click();
  const second = await popup;
  await live(second);
  await press(second, "Ann", "present");
  for (const view of [page, second]) {
    await shows(view, ["Ann"], 1, 2);
    assert.deepEqual(await texts(view, ".devices-count"), ["2 connections"]);
  }
  await second.close();
  await shows(page, ["Ann"], 1, 1);
  const lines = await log(page);
  assert.deepEqual(lines.filter((line) => /joined|left/.test(line)), ["Ann joined"]);
});

test("hostile names and states are shown as the text they are", LIMIT, async () => {
  const channel = room();
  const page = await visit(channel);
  await live(page);
  const names = ["<img/src=x/onerror=alert(1)>", "__proto__", "constructor"];
  for (const [place, name] of names.entries()) {
    await card(page, place).getByRole("textbox", { name: "Name" }).fill(name);
    await press(page, name, "present");
    await shows(page, names.slice(0, place + 1), place + 1, place + 1);
  }
  const state = { mood: "<svg onload=alert(1)>", __proto__x: "<b>" };
  await page.evaluate(
    async ([name, target, shown]) => {
      const { token } = await (await fetch("dev/token?user=mallory")).json();
      const socket = new WebSocket(`ws://${location.host}/v1/ws`, "rollcall.v1");
      await new Promise((resolve) => (socket.onopen = resolve));
      socket.send(JSON.stringify({ id: 1, op: "hello", token }));
      socket.send(JSON.stringify({ id: 2, op: name, channel: target, state: shown }));
    },
    ["join", channel, state],
  );
  await eventually("the stranger is here", async () => (await texts(page, ".who-state")).at(-1), state.mood);
  assert.equal(await page.locator("#members img, #members svg, #log img, #log svg").count(), 0);
  await press(page, "__proto__", "leave");
  await eventually("one has left", () => members(page), [names[0], names[2], "mallory"]);
});

test("a name that the server refuses is refused in words", LIMIT, async () => {
  // The refusal is what is tested; that Chromium reports its status is no complaint.
  const page = await visit(room(), { bears: /status of 400/ });
  await live(page);
  await card(page, 0).getByRole("textbox", { name: "Name" }).fill("two words");
  await press(page, "two words", "present");
  await eventually("the reason", async () => /white space/.test(await note(page, 0)), true);
  assert.equal(await page.getByRole("button", { name: "two words: present" }).getAttribute("aria-pressed"), "false");
});

test("another channel takes everybody along", LIMIT, async () => {
  const [first, second] = [room(), room()];
  const left = await visit(first);
  const page = await visit(first);
  await Promise.all([live(left), live(page)]);
  await press(page, "Ann", "present");
  await shows(left, ["Ann"], 1, 1);
  await page.getByLabel("Channel").fill(second);
  await page.getByRole("button", { name: "Watch" }).click();
  await shows(page, ["Ann"], 1, 1);
  await shows(left, [], 0, 0);
  assert.equal(new URL(page.url()).hash, `#${second}`);
  assert.deepEqual((await asked(second)).people, ["Ann"]);
});

test("a missed delta is noticed and the channel is watched again", LIMIT, async () => {
  let swallow = false;
  const page = await visit(room(), {
    prepare: (opened) =>
      opened.routeWebSocket(/\/v1\/ws$/, (socket) => {
        const upstream = socket.connectToServer();
        upstream.onMessage((message) => {
          if (swallow && String(message).includes('"delta"')) swallow = false;
          else socket.send(message);
        });
      }),
  });
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  swallow = true;
  await press(page, "Ben", "present");
  await eventually("it was swallowed", () => swallow, false);
  assert.deepEqual(await members(page), ["Ann"]);
  await press(page, "Zoe", "present");
  await eventually("all are here", async () => (await members(page)).sort(), ["Ann", "Ben", "Zoe"]);
  assert.ok((await log(page)).some((line) => line.includes("something was missed")));
});

test("after a restart of the server everybody comes back without being asked", LIMIT, async () => {
  const settings = { ROLLCALL__PRESENCE__GRACE_MS: String(GRACE_MS) };
  let own = await startServer(settings);
  try {
    const page = await visit(room(), { address: own.address, bears: /ERR_CONNECTION/ });
    await live(page);
    await press(page, "Ann", "present");
    await press(page, "Zoe", "present");
    await eventually("both are here", async () => (await members(page)).sort(), ["Ann", "Zoe"]);
    const epoch = await page.locator("#version").textContent();
    await own.stop();
    own = await startServer({ ...settings, ROLLCALL__SERVER__LISTEN: new URL(own.address).host });
    await eventually("another epoch", async () => /^version \d+/.test(await page.locator("#version").textContent()) && (await page.locator("#version").textContent()) !== epoch, true);
    await eventually("both are here again", async () => [(await members(page)).sort(), await counts(page)], [["Ann", "Zoe"], [2, 2]]);
    await live(page);
    assert.ok((await log(page)).some((line) => line.includes("the server restarts")), "the announcement came");
  } finally {
    await visitors.close();
    await own.stop();
  }
});

test("a channel that is too large for a list is counted, and listed again when it is small", LIMIT, async () => {
  const small = { ROLLCALL__PRESENCE__NET_ABOVE: "1", ROLLCALL__PRESENCE__OCCUPANCY_ABOVE: "2" };
  const crowded = await startServer(small);
  try {
    const page = await visit(room(), { address: crowded.address });
    await live(page);
    for (const name of ["Ann", "Ben"]) await press(page, name, "present");
    await shows(page, ["Ann", "Ben"], 2, 2);
    await press(page, "Zoe", "present");
    await shows(page, [], 3, 3);
    assert.match(await page.locator("#empty").textContent(), /Too many for a list/);
    await eventually("the log says why", async () => (await log(page)).at(-1), "3 people here, too many for a list, because: mode");
    for (const name of ["Ann", "Ben", "Zoe"]) await press(page, name, "leave");
    await shows(page, [], 0, 0);
    await eventually("a list again", () => page.locator("#empty").textContent(), "Nobody yet. Switch somebody on.");
  } finally {
    await visitors.close();
    await crowded.stop();
  }
});

test("without development mode the page asks for tokens, and works with those that its commands print", LIMIT, async () => {
  const user = "O'Neil;$(x)";
  const settings = { ROLLCALL__AUTH__HS256_SECRET: randomBytes(32).toString("hex") };
  const print = async (command) => {
    assert.match(command, /^rollcall token --user /);
    return (await output("bash", ["-euc", command.replace("rollcall", '"$ROLLCALL"')], { ...settings, ROLLCALL })).trim();
  };
  const closed = await startServer(settings, []);
  try {
    const page = await visit(room(), { address: closed.address, bears: /status of 404/ });
    await page.getByRole("heading", { name: "This server wants tokens" }).waitFor();
    assert.deepEqual(await faultsOf(page), []);
    // One that allows nothing is refused in words that say what is missing, and the next may do.
    await page.getByLabel("Token to watch with").fill(await print("rollcall token --user nobody"));
    await page.getByRole("button", { name: "Use" }).click();
    await eventually("the reason", async () => /watch/.test(await page.locator("#refusal").textContent()), true);
    assert.equal(await page.locator("#live-text").textContent(), "refused");
    assert.deepEqual(await faultsOf(page), []);
    await card(page, 0).getByRole("textbox", { name: "Name" }).fill(user);
    await page.getByLabel("Token to watch with").fill(await print(await page.locator("#token-command").textContent()));
    await page.getByRole("button", { name: "Use" }).click();
    await live(page);
    assert.equal(await page.locator("#refusal").isHidden(), true);
    await card(page, 0).getByLabel("Token").fill(await print(await card(page, 0).locator(".token-command").textContent()));
    await press(page, user, "present");
    await shows(page, [user], 1, 1);
    // All that can be tried there is allowed.
    await page.getByLabel(`${user}: status`).selectOption("busy");
    await eventually("busy", async () => (await log(page)).at(-1), `${user} is busy`);
    await press(page, user, "wave");
    await eventually("a wave", async () => (await log(page)).at(-1), `${user} waves`);
    await page.getByLabel(`${user}: say something`).pressSequentially("H");
    await eventually("typing", () => page.locator("#typing").textContent(), `${user} is typing…`);
    assert.equal(await page.evaluate(() => localStorage.length + sessionStorage.length + document.cookie.length), 0);
  } finally {
    await visitors.close();
    await closed.stop();
  }
});

test("the keyboard alone does it, with a visible focus", LIMIT, async () => {
  const page = await visit(room());
  await live(page);
  const toggle = page.getByRole("button", { name: "Ann: present" });
  for (let presses = 0; presses < 30; presses++) {
    await page.keyboard.press("Tab");
    if (await toggle.evaluate((element) => element === document.activeElement)) break;
  }
  assert.notEqual(await toggle.evaluate((element) => getComputedStyle(element).outlineStyle), "none");
  await page.keyboard.press("Space");
  await shows(page, ["Ann"], 1, 1);
  await page.keyboard.press("Enter");
  await shows(page, [], 0, 0);
  assert.equal(await page.locator("#members").getAttribute("aria-live"), "polite");
});

test("a phone of 360 pixels shows all of it without scrolling sideways", LIMIT, async () => {
  const page = await visit(room(), { options: { viewport: { width: 360, height: 740 }, colorScheme: "dark" } });
  await live(page);
  const long = `x${"0123456789".repeat(20)}`;
  await card(page, 0).getByRole("textbox", { name: "Name" }).fill(long);
  await press(page, long, "present");
  await shows(page, [long], 1, 1);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 360);
});

test("a frame is shown on demand, and the log keeps the last 200 lines", LIMIT, async () => {
  let tell;
  const page = await visit(room(), {
    prepare: (opened) =>
      opened.routeWebSocket(/\/v1\/ws$/, (socket) => {
        socket.connectToServer();
        tell ??= (frame) => socket.send(JSON.stringify(frame));
      }),
  });
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  await page.locator('#log [data-kind="join"] summary').click();
  // The page hears of the opening a moment later, and fills it in then.
  const shown = page.locator('#log [data-kind="join"] pre', { hasText: "{" });
  const frame = JSON.parse(await shown.textContent());
  assert.equal(frame.event, "delta");
  assert.equal(frame.join[0].user, "Ann");
  for (let number = 1; number <= 250; number++) tell({ event: `made-up-${number}` });
  await eventually("the last one", async () => (await log(page)).at(-1), "made-up-250");
  const lines = await log(page);
  assert.equal(lines.length, 200);
  assert.equal(lines[0], "made-up-51");
  await page.getByRole("button", { name: "Clear" }).click();
  assert.equal(await page.locator("#log .entry").count(), 0);
});

test("two people in two browsers see each other", LIMIT, async () => {
  const channel = room();
  const [anns, bens] = [await visit(channel), await visit(channel)];
  await Promise.all([live(anns), live(bens)]);
  await press(anns, "Ann", "present");
  await press(bens, "Ben", "present");
  for (const page of [anns, bens]) await eventually("both are here", async () => (await members(page)).sort(), ["Ann", "Ben"]);
  await press(bens, "Ben", "wave");
  await eventually("ann is waved to", async () => (await log(anns)).at(-1), "Ben waves");
  await eventually("it is seen beside the list", () => anns.locator("#said").textContent(), "Ben waves");
  await eventually("and is over in a moment", () => anns.locator("#said").textContent(), "");
  await bens.getByLabel("Ben: say something").fill("<b>hello</b>");
  await bens.keyboard.press("Enter");
  await eventually("what was said", async () => (await log(anns)).at(-1), "Ben says: <b>hello</b>");
});

test("whoever types is seen typing, and seen to stop", LIMIT, async () => {
  const channel = room();
  const [anns, bens] = [await visit(channel), await visit(channel)];
  await Promise.all([live(anns), live(bens)]);
  await press(anns, "Ann", "present");
  await press(bens, "Ben", "present");
  await press(bens, "Zoe", "present");
  await eventually("three are here", async () => (await members(bens)).length, 3);
  const said = () => bens.locator("#typing").textContent();
  const [annSays, zoeSays] = [anns.getByLabel("Ann: say something"), bens.getByLabel("Zoe: say something")];
  // Whoever types presses keys; how fast this machine is just now plays no part.
  const whileTyping = (fields) => async () => {
    for (const field of fields) await field.press("x");
    return said();
  };
  await eventually("ann types", whileTyping([annSays]), "Ann is typing…");
  await eventually("both type", async () => (await whileTyping([annSays, zoeSays])()).split(/ and | are /).sort().join(), "Ann,Zoe,typing…");
  await zoeSays.fill("");
  await eventually("zoe has taken it back", whileTyping([annSays]), "Ann is typing…");
  await eventually("ann has stopped", said, "");
  await eventually("ann types again", whileTyping([annSays]), "Ann is typing…");
  await press(anns, "Ann", "leave");
  await eventually("whoever leaves types no more", said, "");
});

test("a browser without a network comes back, and the other sees nothing of it", LIMIT, async () => {
  const channel = room();
  const [anns, bens] = [await visit(channel, { bears: /ERR_INTERNET_DISCONNECTED/ }), await visit(channel)];
  await Promise.all([live(anns), live(bens)]);
  await press(anns, "Ann", "present");
  await press(bens, "Ben", "present");
  for (const page of [anns, bens]) await eventually("both are here", async () => (await members(page)).sort(), ["Ann", "Ben"]);
  const before = await log(bens);
  const { version } = await asked(channel);
  // The socket itself is cut, too: a browser that is told to be offline keeps those that are open.
  await press(anns, "Ann", "drop the connection");
  await anns.context().setOffline(true);
  await press(anns, "Ann", "come back");
  await eventually("it does not succeed", async () => /Connection lost|Connecting/.test(await note(anns, 0)), true);
  await anns.context().setOffline(false);
  await eventually("ann is back", () => note(anns, 0), "Back by resume. Nobody noticed.");
  assert.equal((await asked(channel)).version, version);
  await card(bens, 0).getByRole("textbox", { name: "Name" }).fill("Kim");
  await press(bens, "Kim", "present");
  await eventually("what comes next", async () => (await log(bens)).at(-1), "Kim joined");
  assert.deepEqual(await log(bens), [...before, "Kim joined"]);
});

test("several devices are one person, who leaves with the last", LIMIT, async () => {
  const page = await visit(room());
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  await press(page, "Ann", "add a phone");
  await shows(page, ["Ann"], 1, 2);
  await press(page, "Ann", "add a laptop");
  await shows(page, ["Ann"], 1, 3);
  assert.deepEqual(await texts(page, ".device-name"), ["browser", "phone", "laptop", "browser", "browser"]);
  await press(page, "Ann", "drop the phone");
  await press(page, "Ann", "leave");
  await shows(page, ["Ann"], 1, 2);
  await press(page, "Ann", "come back with the phone");
  await eventually("the phone is back", () => page.locator('[data-device="phone"] .note').textContent(), "Back by resume. Nobody noticed.");
  await press(page, "Ann", "leave with the laptop");
  await shows(page, ["Ann"], 1, 1);
  await press(page, "Ann", "present");
  await shows(page, [], 0, 0);
  const lines = (await log(page)).filter((line) => /joined|left/.test(line));
  assert.deepEqual(lines, ["Ann joined", "Ann left (left)"]);
});

test("a status is chosen for all devices, and invisible is as if not there", LIMIT, async () => {
  const page = await visit(room());
  await live(page);
  await press(page, "Ann", "present");
  await press(page, "Ann", "add a phone");
  await shows(page, ["Ann"], 1, 2);
  await page.getByLabel("Ann: status").selectOption("away");
  await eventually("away", () => texts(page, ".who-state"), ["away"]);
  await page.getByLabel("Ann: status").selectOption("invisible");
  await shows(page, [], 0, 0);
  await page.getByLabel("Ann: status").selectOption("");
  await shows(page, ["Ann"], 1, 2);
  assert.deepEqual(await texts(page, ".who-state"), [""]);
});

test("every frame is there in both directions, without what lets somebody in", LIMIT, async () => {
  const page = await visit(room());
  await live(page);
  await press(page, "Ann", "present");
  await shows(page, ["Ann"], 1, 1);
  await page.getByText("Frames", { exact: true }).click();
  const hello = page.locator("#frames .entry", { hasText: '"op":"hello"' }).filter({ hasText: "Ann" });
  await hello.locator("summary").click();
  const shown = JSON.parse(await hello.locator("pre", { hasText: "{" }).textContent());
  assert.deepEqual([shown.op, shown.device, shown.token], ["hello", "browser", "eyJ…"]);
  const frames = (await texts(page, "#frames .text")).join("\n");
  for (const word of ['"op":"join"', '"event":"delta"', '"resume":"AQA…"']) assert.ok(frames.includes(word), `${word} in ${frames}`);
  assert.ok(!/eyJ[\w-]/.test(frames), "no token is shown");
});

for (const colorScheme of ["light", "dark"]) {
  test(`axe finds no serious fault, in ${colorScheme} colours`, LIMIT, async () => {
    const page = await visit(room(), { options: { colorScheme, reducedMotion: "reduce" } });
    await live(page);
    await press(page, "Ann", "present");
    await press(page, "Ann", "add a phone");
    await shows(page, ["Ann"], 1, 2);
    await press(page, "Ann", "drop the phone");
    await press(page, "Ben", "present");
    await page.getByLabel("Ben: status").selectOption("busy");
    await press(page, "Ben", "wave");
    await eventually("the wave", async () => (await log(page)).at(-1), "Ben waves");
    assert.deepEqual(await faultsOf(page), []);
    await page.getByText("Frames", { exact: true }).click();
    assert.deepEqual(await faultsOf(page), []);
  });
}

test("the colours can be switched, and stay so on the next page", LIMIT, async () => {
  const page = await visit(room(), { options: { colorScheme: "light" } });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  assert.equal(await page.evaluate(() => localStorage.length), 0, "nothing is stored until somebody chooses");
  await page.getByRole("button", { name: "Switch to dark colours" }).click();
  const dark = await ground();
  assert.notEqual(dark, light);
  await page.getByRole("link", { name: "Dashboard" }).click();
  await page.getByRole("button", { name: "Switch to light colours" }).waitFor();
  assert.equal(await ground(), dark);
});
