// The examples, each run as its reader would run it: against a Rollcall outside development mode, where keys and tokens matter.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text as readText } from "node:stream/consumers";
import { after, afterEach, before, describe, test } from "node:test";

import { Rollcall } from "../../sdk/dist/index.js";
import { eventually, faultsOf, makeKey, startBrowser, Visitors } from "./harness.js";
import { ROLLCALL, ROOT, freePort, start, startCable, startServer } from "./program.js";

const LIMIT = { timeout: 90_000 };
const GRACE_MS = 8000;
const SECRET = randomBytes(32).toString("base64url");
const SERVERS = {
  "the app server in Node": ["node", [`${ROOT}examples/server-node/server.js`]],
  "the app server in Python": [`${ROOT}.venv/bin/python`, [`${ROOT}examples/server-python/server.py`]],
};

let browser;
let rollcall;
let cable;
let keys;
let ports;
let folder;
let visitors;
let clients = [];

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "rollcall-examples-"));
  const [app, devices, admin] = await Promise.all([
    makeKey("app", "read"),
    makeKey("devices", "write(sensors:**)"),
    makeKey("admin", "admin"),
  ]);
  keys = { app: app.key, devices: devices.key, admin: admin.key };
  // Origins are settings, so the ports of the app servers have to be known before.
  ports = Object.fromEntries(await Promise.all(Object.keys(SERVERS).map(async (name) => [name, await freePort()])));
  rollcall = await startServer(ROLLCALL, ["serve"], {
    ROLLCALL__SERVER__LISTEN: "127.0.0.1:0",
    ROLLCALL__SERVER__ALLOWED_ORIGINS: Object.values(ports).map((port) => `http://127.0.0.1:${port}`).join(),
    ROLLCALL__AUTH__HS256_SECRET: SECRET,
    ROLLCALL__AUTH__API_KEYS: [app, devices, admin].map(({ entry }) => entry).join(),
    ROLLCALL__PRESENCE__GRACE_MS: String(GRACE_MS),
  });
  cable = await startCable(rollcall.address);
  browser = await startBrowser();
  visitors = new Visitors(browser);
}, LIMIT);

after(async () => {
  await browser?.close();
  await cable?.stop();
  await rollcall?.stop();
  if (folder) rmSync(folder, { recursive: true });
}, LIMIT);

const ask = async (path) => {
  const answer = await fetch(`${rollcall.address}${path}`, { headers: { authorization: `Bearer ${keys.app}` } });
  assert.equal(answer.status, 200);
  return answer.json();
};
const membersOf = async (channel) => (await ask(`/v1/channels/${encodeURIComponent(channel)}/members`)).members;
const empty = async (channel) => {
  const headers = { authorization: `Bearer ${keys.admin}`, "content-type": "application/json" };
  const answer = await fetch(`${rollcall.address}/v1/revocations`, { method: "POST", headers, body: JSON.stringify({ channel }) });
  assert.equal(answer.status, 204);
};
const usersIn = async (channel) => (await membersOf(channel)).map(({ user }) => user);

async function startApp(name) {
  const secret = join(folder, "secret");
  writeFileSync(secret, `${SECRET}\n`, { mode: 0o600 });
  const [command, args] = SERVERS[name];
  return startServer(command, args, {
    ROLLCALL_URL: rollcall.address,
    ROLLCALL_PUBLIC_URL: cable.address,
    ROLLCALL_API_KEY: keys.app,
    ROLLCALL_HS256_SECRET_FILE: secret,
    PORT: String(ports[name]),
  });
}

const postTo = (app, path, body, session) =>
  fetch(`${app.address}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(session && { authorization: `Bearer ${session}` }) },
    body: JSON.stringify(body),
  });

/** Somebody who is logged in, with a client whose tokens come from the app server. */
async function logIn(app, given, url = rollcall.address) {
  const { session, user } = await (await postTo(app, "/login", { name: given })).json();
  const token = async () => (await (await postTo(app, "/token", {}, session)).json()).token;
  const client = new Rollcall({ url, token });
  clients.push(client);
  return { session, user, client };
}

/** A page for the chat. A browser says itself that an address did not answer, or refused: where the test brings that about it is no complaint. */
const openPage = (options = {}, mayBreak = false) =>
  visitors.open({ options: { locale: "en-GB", ...options }, ...(mayBreak && { bears: /ERR_|status of 40[01]/ }) });

/** Somebody in a browser of their own who has come into the chat. */
async function visit(app, given, { options = {}, room = "lobby", mayBreak = false } = {}) {
  const page = await openPage(options, mayBreak);
  await page.goto(`${app.address}/#${room}`);
  await page.getByLabel("Your name").fill(given);
  await page.getByRole("button", { name: "Come in" }).click();
  await connected(page);
  return page;
}

const connected = (page) => eventually("it is connected", () => page.locator("#connection").textContent(), "connected", 30_000);
const people = async (page) => (await page.locator("#members .who").allTextContents()).sort();

afterEach(async () => {
  cable.mend();
  clients.splice(0).forEach((client) => client.close());
  const complaints = await visitors.leave();
  // Their places would be kept for a while, and the next test would see them.
  await Promise.all(["lobby", "garden", "workshop"].map((room) => empty(`chat:${room}`)));
  assert.deepEqual(complaints, [], "the browser has nothing to complain about");
});

for (const [name, [command, args]] of Object.entries(SERVERS)) {
  describe(name, () => {
    let app;

    before(async () => (app = await startApp(name)), LIMIT);
    after(() => app?.stop(), LIMIT);

    const post = (path, body, session) => postTo(app, path, body, session);
    const get = (path, session) => fetch(`${app.address}${path}`, { headers: session ? { authorization: `Bearer ${session}` } : {} });

    test("a token that it has made lets a client in under its user's name, with what it says of the user", LIMIT, async () => {
      const ann = await logIn(app, "Ann Smith");
      const room = ann.client.join("chat:lobby");
      await room.ready;
      assert.deepEqual([ann.user, ann.client.welcome.user], ["Ann_Smith", "Ann_Smith"]);
      assert.deepEqual(room.members.get("Ann_Smith").info, { name: "Ann Smith" });
      // What it does not allow is refused: another channel, and other users.
      await assert.rejects(ann.client.join("secrets:1", { watch: false }).ready, { code: "forbidden" });
      await assert.rejects(ann.client.channel("secrets:1").ready, { code: "forbidden" });
      await assert.rejects(ann.client.users.get(["ben"]), { code: "forbidden" });
    });

    test("it knows who is online, and who is in a room", LIMIT, async () => {
      const [ann, ben] = [await logIn(app, "ann"), await logIn(app, "ben")];
      await ben.client.join("chat:garden").ready;
      const asks = async (path) => (await get(path, ann.session)).json();
      const online = await asks("/online?users=ben,zoe");
      assert.deepEqual([online.ben.status, online.zoe.status], ["online", "offline"]);
      assert.deepEqual(await asks("/members?room=garden"), [{ user: "ben", status: "online", name: "ben" }]);
      ben.client.close();
      await eventually("ben is gone", () => asks("/members?room=garden"), []);
      await eventually("and offline", async () => (await asks("/online?users=ben")).ben.status, "offline");
    });

    test("whoever is not logged in gets no token, and is told of nobody", LIMIT, async () => {
      for (const session of [undefined, "made-up"]) {
        for (const answer of [await post("/token", {}, session), await get("/online?users=ann", session), await get("/members?room=lobby", session)]) {
          assert.equal(answer.status, 401);
          assert.deepEqual(Object.keys(await answer.json()), ["error"]);
        }
      }
    });

    test("names that are none, bodies that are not JSON and other paths are refused with a sentence", LIMIT, async () => {
      for (const bad of ["", " ", "..", "a*b", "x".repeat(41), "a\u0000b", "a\u200eb", 7, null]) {
        const answer = await post("/login", { name: bad });
        assert.equal(answer.status, 400, JSON.stringify(bad));
        assert.match((await answer.json()).error, /1 to 40 characters/);
      }
      const odd = await fetch(`${app.address}/login`, { method: "POST", body: "{" });
      assert.equal(odd.status, 400);
      const long = await fetch(`${app.address}/login`, { method: "POST", body: "x".repeat(20_000) });
      assert.equal(long.status, 413);
      for (const path of ["/server.js", "/server.py", "/../server-node/server.js", "/%2e%2e/server-node/server.js", "/constructor", "/__proto__"]) {
        assert.equal((await get(path)).status, 404, path);
      }
    });

    test("a name is understood also where a letter of it comes in two pieces", LIMIT, async () => {
      const body = Buffer.from(JSON.stringify({ name: "Zoë" }));
      const cut = body.indexOf(0xc3) + 1;
      const sent = request(`${app.address}/login`, { method: "POST", headers: { "content-type": "application/json", "content-length": body.length } });
      sent.write(body.subarray(0, cut), () => setImmediate(() => sent.end(body.subarray(cut))));
      const [answer] = await once(sent, "response");
      assert.equal(JSON.parse(await readText(answer)).user, "Zoë");
    });

    test("without settings it says which are missing, and what they are", LIMIT, async () => {
      const bare = start(command, args, {});
      assert.equal(await bare.exit, 2);
      for (const setting of ["ROLLCALL_URL", "ROLLCALL_API_KEY", "ROLLCALL_HS256_SECRET_FILE"]) assert.match(bare.said, new RegExp(`${setting}\\b`));
    });

    test("beside a Rollcall in development mode it needs no settings but where that is", LIMIT, async () => {
      const development = await startServer(ROLLCALL, ["serve", "--dev"], { ROLLCALL__SERVER__LISTEN: "127.0.0.1:0", XDG_STATE_HOME: folder });
      try {
        const own = await startServer(command, [...args, "--dev"], { ROLLCALL_URL: development.address, PORT: String(await freePort()) });
        try {
          const ann = await logIn(own, "Ann Smith", development.address);
          await ann.client.join("chat:lobby").ready;
          assert.equal(ann.client.welcome.user, "Ann_Smith");
          const online = await fetch(`${own.address}/online?users=Ann_Smith`, { headers: { authorization: `Bearer ${ann.session}` } });
          assert.equal((await online.json()).Ann_Smith.status, "online");
        } finally {
          await own.stop();
        }
      } finally {
        await development.stop();
      }
    });

    test("the chat that it serves lets people in, and they see each other", LIMIT, async () => {
      const [ann, ben] = [await visit(app, "Ann"), await visit(app, "Ben")];
      await eventually("both are here", () => people(ann), ["Ann (you)", "Ben"]);
      await eventually("both are here", () => people(ben), ["Ann", "Ben (you)"]);
    });
  });
}

describe("the chat", () => {
  let app;

  before(async () => (app = await startApp(Object.keys(SERVERS)[0])), LIMIT);
  after(() => app?.stop(), LIMIT);

  const lines = (page) => page.locator("#log > div").allTextContents();
  const messages = (page) => page.locator("#log > :not(.note) > p:last-child").allTextContents();
  const say = async (page, text) => {
    await page.getByLabel("Message").fill(text);
    await page.getByRole("button", { name: "Send" }).click();
  };

  test("two people see each other, what they say, and that they type", LIMIT, async () => {
    const ann = await visit(app, "Ann Smith");
    const ben = await visit(app, "Ben");
    for (const [page, seen] of [[ann, ["Ann Smith (you)", "Ben"]], [ben, ["Ann Smith", "Ben (you)"]]]) {
      await eventually("both are here", () => people(page), seen);
      assert.equal(await page.locator("#here").textContent(), "Here: 2");
    }
    const typing = (page) => page.locator("#typing").textContent();
    await ben.getByLabel("Message").pressSequentially("Hello");
    await eventually("ben types", () => typing(ann), "Ben is typing…");
    assert.equal(await typing(ben), "");
    for (const colorScheme of ["light", "dark"]) {
      await ann.emulateMedia({ colorScheme });
      assert.deepEqual(await faultsOf(ann), [], colorScheme);
    }
    await ben.getByRole("button", { name: "Send" }).click();
    await eventually("he types no more", () => typing(ann), "");
    for (const page of [ann, ben]) await eventually("the message is there", () => messages(page), ["Hello"]);
    assert.match((await lines(ann)).at(-1), /^Ben \d\d:\d\dHello$/);
    // Who stops without sending anything stops typing, too.
    await ben.getByLabel("Message").pressSequentially("Hm");
    await eventually("ben types again", () => typing(ann), "Ben is typing…");
    await eventually("he has stopped", () => typing(ann), "");
    await ben.getByRole("button", { name: "Leave" }).click();
    await eventually("ben is gone, and not only when the grace is over", () => people(ann), ["Ann Smith (you)"], GRACE_MS / 2);
    assert.deepEqual((await lines(ann)).filter((line) => line.startsWith("Ben") && !/\d/.test(line)), ["Ben came in", "Ben left"]);
  });

  test("how somebody is shows, and being invisible looks like a leave", LIMIT, async () => {
    const ann = await visit(app, "Ann");
    const ben = await visit(app, "Ben");
    await eventually("both are here", () => people(ann), ["Ann (you)", "Ben"]);
    const status = () => ann.locator("#members li").filter({ hasText: "Ben" }).locator(".how").allTextContents();
    await ben.getByLabel("My status").selectOption("busy");
    await eventually("ben is busy", status, ["busy"]);
    await ben.getByLabel("My status").selectOption("invisible");
    await eventually("ben is not to be seen", status, []);
    await ben.getByLabel("My status").selectOption("");
    await eventually("ben is back", status, ["online"]);
  });

  test("rooms are apart, and each shows how many are there", LIMIT, async () => {
    const ann = await visit(app, "Ann", { room: "garden" });
    const ben = await visit(app, "Ben", { room: "workshop" });
    const rooms = (page) => page.locator("nav a").allTextContents();
    for (const page of [ann, ben]) await eventually("the counts", () => rooms(page), ["lobby", "garden 1", "workshop 1"]);
    await say(ben, "nobody hears this");
    await eventually("it was said", () => messages(ben), ["nobody hears this"]);
    await ben.getByRole("link", { name: "garden" }).click();
    await eventually("ben is in the garden", () => people(ann), ["Ann (you)", "Ben"]);
    for (const page of [ann, ben]) await eventually("the counts", () => rooms(page), ["lobby", "garden 2", "workshop"]);
    assert.equal(await ben.getByRole("link", { name: "garden" }).getAttribute("aria-current"), "page");
    await say(ben, "here I am");
    for (const page of [ann, ben]) await eventually("it was said", () => messages(page), ["here I am"]);
  });

  test("who loses the network comes back, and the others see nothing of it", LIMIT, async () => {
    const ann = await visit(app, "Ann", { mayBreak: true });
    // Ben's own way is not cut.
    const { client: ben } = await logIn(app, "Ben");
    const room = ben.channel("chat:lobby");
    const seen = [];
    room.on("join", ({ user }) => seen.push(`${user} joined`));
    room.on("update", ({ user }) => seen.push(`${user} changed`));
    room.on("leave", ({ user }) => seen.push(`${user} left`));
    await room.ready;
    await eventually("ann is seen", () => [...room.members.keys()], ["Ann"]);
    seen.length = 0;
    cable.cut();
    await eventually("ann's page says it", () => ann.locator("#connection").textContent().then((text) => /lost|connecting/.test(text)), true);
    assert.deepEqual(await people(ann), ["Ann (you)"], "what was known stays to be seen");
    cable.mend();
    await connected(ann);
    await eventually("it is live again", () => ann.locator("#members.stale").count(), 0);
    // What comes after it shows that nothing was on its way.
    const heard = new Promise((resolve) => room.on("signal", ({ data }) => resolve(data)));
    await say(ann, "I am back");
    assert.deepEqual(await heard, { text: "I am back" });
    assert.deepEqual(seen, [], "neither a leave nor a join");
    assert.deepEqual((await lines(ann)).filter((line) => /came in|left/.test(line)), []);
  });

  test("a reload keeps the name, and nobody sees a leave", LIMIT, async () => {
    const ann = await visit(app, "Ann");
    const ben = await visit(app, "Ben");
    await eventually("both are here", () => people(ann), ["Ann (you)", "Ben"]);
    await ben.reload();
    await connected(ben);
    await eventually("both are here", () => people(ben), ["Ann", "Ben (you)"]);
    await say(ben, "again");
    await eventually("it was said", () => messages(ann), ["again"]);
    assert.deepEqual((await lines(ann)).filter((line) => /Ben (came in|left)/.test(line)), ["Ben came in"]);
  });

  test("hostile names and messages are text", LIMIT, async () => {
    const names = ["<img src=x onerror=alert(1)>", "__proto__", "constructor"];
    const pages = [];
    for (const one of names) pages.push(await visit(app, one));
    for (const [place, page] of pages.entries()) {
      await eventually("all are here", () => people(page), names.map((one, other) => (other === place ? `${one} (you)` : one)).sort());
      assert.equal(await page.locator("img").count(), 0);
    }
    await say(pages[0], "<script>alert(2)</script><img src=x onerror=alert(3)>");
    await say(pages[1], "__proto__");
    for (const page of pages) {
      await eventually("both are text", () => messages(page), ["<script>alert(2)</script><img src=x onerror=alert(3)>", "__proto__"]);
      assert.equal(await page.locator("#log script, #log img").count(), 0);
    }
    await pages[0].getByLabel("Message").pressSequentially("x");
    await eventually("its typing is text", () => pages[2].locator("#typing").textContent(), "<img src=x onerror=alert(1)> is typing…");
  });

  test("a message that is too long is refused with a sentence, and stays to be changed", LIMIT, async () => {
    const ann = await visit(app, "Ann");
    await say(ann, "😀".repeat(150)); // 300 characters to the browser, 600 bytes
    await eventually("it was said", async () => (await messages(ann)).length, 1);
    await ann.getByLabel("Message").evaluate((input) => input.removeAttribute("maxlength"));
    await say(ann, "😀".repeat(300));
    await eventually("it says why", async () => /1024/.test(await ann.locator("#fault").textContent()), true);
    assert.equal(await ann.getByLabel("Message").inputValue(), "😀".repeat(300));
  });

  test("a name that is none is refused where it can be changed", LIMIT, async () => {
    const page = await openPage({}, true);
    await page.goto(app.address);
    await page.getByLabel("Your name").fill("a*b");
    await page.getByRole("button", { name: "Come in" }).click();
    await eventually("it says why", () => page.locator("#login-fault").textContent(), "A name has 1 to 40 characters, and no `*` among them.");
    assert.equal(await page.locator("#chat").isVisible(), false);
    await page.getByLabel("Your name").fill("ab");
    await page.getByRole("button", { name: "Come in" }).click();
    await connected(page);
  });

  test("whoever is not logged in any more is told so, and no longer tried to be connected", LIMIT, async () => {
    const page = await openPage({}, true);
    let asked = 0;
    await page.route(`${app.address}/token`, (route) => {
      asked++;
      return route.fulfill({ status: 401, contentType: "application/json", body: JSON.stringify({ error: "Log in first." }) });
    });
    await page.goto(app.address);
    await page.getByLabel("Your name").fill("Ann");
    await page.getByRole("button", { name: "Come in" }).click();
    await eventually("it says so", async () => (await page.locator("#connection").textContent()).startsWith("not connected: Log in first."), true);
    assert.deepEqual([await page.locator("#connection").getAttribute("data-state"), asked], ["ended", 1]);
  });

  for (const [view, options] of Object.entries({
    "by night": { colorScheme: "dark" },
    "by day": { colorScheme: "light" },
    "by night on a phone": { colorScheme: "dark", viewport: { width: 360, height: 640 } },
    "by day on a phone": { colorScheme: "light", viewport: { width: 360, height: 640 } },
  })) {
    test(`it can be read ${view}`, LIMIT, async () => {
      const page = await visit(app, "Ann", { options });
      const others = await Promise.all(["Ben", "Kim", "Zoe of the long name"].map((name) => logIn(app, name)));
      await Promise.all(others.map(({ client, user }) => client.join("chat:lobby", { state: { name: user } }).ready));
      await say(page, `${"x".repeat(299)}`);
      await eventually("it was said", async () => (await messages(page)).length, 1);
      await eventually("all are here", async () => (await people(page)).length, 4);
      const crowded = await page.locator("#members li").evaluateAll((items) => items.filter((item) => item.scrollWidth > item.clientWidth).length);
      if (process.env.ROLLCALL_PICTURES) await page.screenshot({ path: join(process.env.ROLLCALL_PICTURES, `chat ${view}.png`) });
      assert.equal(crowded, 0, "nobody's name lies over another's");
      const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
      const lightness = Math.max(...ground.match(/\d+/g).map(Number));
      assert.ok(options.colorScheme === "dark" ? lightness < 60 : lightness > 200, ground);
      assert.deepEqual(
        await page.evaluate(() => {
          const [all, log] = [document.documentElement, document.getElementById("log")];
          return [all.scrollWidth <= innerWidth, all.scrollHeight <= innerHeight, log.scrollWidth <= log.clientWidth];
        }),
        [true, true, true],
        "nothing is wider or higher than the screen, or the log",
      );
      for (const part of ["#text", "#composer button", "#members", "#connection", "nav a", "#status"]) {
        assert.ok(await page.locator(part).first().isVisible(), part);
      }
    });
  }
});

describe("the device", () => {
  const CHANNEL = "sensors:hall/1";
  let device;

  const begin = (more = {}) =>
    (device = start(`${ROOT}examples/device-curl/device.sh`, [], {
      ROLLCALL_URL: cable.address,
      ROLLCALL_API_KEY: keys.devices,
      DEVICE: "door/é",
      CHANNEL,
      EVERY_S: "1",
      TTL_S: "3",
      ...more,
    }, { detached: true }));

  afterEach(async () => {
    cable.mend();
    // It has children of its own, and is the first of its group.
    try {
      process.kill(-device.child.pid, "SIGKILL");
    } catch {
      // It has ended.
    }
    await device.exit;
    await eventually("nobody is left", () => usersIn(CHANNEL), []);
  });

  test("it is present while it beats, with what it measures, and gone at once after its goodbye", LIMIT, async () => {
    begin();
    await eventually("it is there", () => usersIn(CHANNEL), ["door/é"]);
    const state = async () => (await membersOf(CHANNEL))[0]?.state.uptime_s;
    const before = await state();
    await eventually("it beats", async () => (await state()) > before, true);
    device.child.kill("SIGTERM");
    assert.equal(await device.exit, 143);
    assert.deepEqual(await usersIn(CHANNEL), []);
    assert.equal(device.said, "");
  });

  test("killed, it stays until its time is over, and is gone then", LIMIT, async () => {
    begin();
    await eventually("it is there", () => usersIn(CHANNEL), ["door/é"]);
    process.kill(-device.child.pid, "SIGKILL");
    await device.exit;
    assert.deepEqual(await usersIn(CHANNEL), ["door/é"], "nobody said goodbye");
    await eventually("its time is over", () => usersIn(CHANNEL), [], 15_000);
  });

  test("without the network it tries again, and is there again when it is back", LIMIT, async () => {
    begin();
    await eventually("it is there", () => usersIn(CHANNEL), ["door/é"]);
    cable.cut();
    await eventually("it notices", () => /not heard \(000\)/.test(device.said), true);
    await eventually("its time is over", () => usersIn(CHANNEL), [], 15_000);
    cable.mend();
    await eventually("it is back", () => usersIn(CHANNEL), ["door/é"]);
    await eventually("it says so", () => device.said.includes("heard again"), true);
  });

  test("a key that may not write there is refused once, and not tried again", LIMIT, async () => {
    begin({ CHANNEL: "chat:lobby" });
    assert.equal(await device.exit, 2);
    assert.match(device.said, /refused with 403/);
  });

  test("settings that cannot work are refused", LIMIT, async () => {
    for (const [more, why] of [[{ EVERY_S: "3" }, /twice/], [{ EVERY_S: "0.5" }, /whole seconds/], [{ TTL_S: "-1" }, /whole seconds/]]) {
      begin(more);
      assert.equal(await device.exit, 2);
      assert.match(device.said, why);
    }
  });
});
