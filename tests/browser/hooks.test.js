// The examples in React and Vue as their READMEs start them, each with two people who see each other.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { eventually, faultsOf, startBrowser, startServer, Visitors } from "./harness.js";
import { ROOT, startServer as startProgram } from "./program.js";

const LIMIT = { timeout: 90_000 };
// The first page of an example waits for what it is made of.
const FIRST_MS = 30_000;
// What would run if anybody took it for markup. Names have no spaces.
const HOSTILE = "<img/src=x/onerror=alert(1)>";

let server;
let browser;
const running = [];
let visitors;

before(async () => {
  server = await startServer({ ROLLCALL__PRESENCE__GRACE_MS: "1000" });
  browser = await startBrowser();
  visitors = new Visitors(browser);
}, LIMIT);

after(async () => {
  await browser?.close();
  for (const example of running) await example.stop("SIGKILL");
  await server?.stop();
}, LIMIT);

afterEach(async () => assert.deepEqual(await visitors.leave(), [], "the browser has nothing to complain about"));

/** An example on a free port, by what its `npm start` says. The answer is its address. */
async function startExample(name) {
  const cwd = `${ROOT}examples/${name}`;
  const args = [`${cwd}/node_modules/vite/bin/vite.js`, "--host", "127.0.0.1", "--port", "0"];
  const example = await startProgram(process.execPath, args, { ROLLCALL: server.address, NO_COLOR: "1" }, { cwd, listens: /Local:\s+(http:\/\/\S+?)\/?\s/ });
  running.push(example);
  return example.address;
}

/** A browser of one person's, on the example's page. */
const person = (address, query) => visitors.visit(`${address}/?${new URLSearchParams(query)}`, { levels: ["error", "warning"] });

/** What axe finds in the page as it is, in light and in dark colours. */
async function faultsInAllColoursOf(page) {
  const faults = [];
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    faults.push(...(await faultsOf(page)).map((fault) => `${colorScheme}: ${fault}`));
  }
  return faults;
}

test("react-avatars: who looks at a document is there as an avatar, types, is counted where there are many, and goes", LIMIT, async () => {
  const address = await startExample("react-avatars");
  const avatars = (page) => page.locator(".avatars li").evaluateAll((items) => items.map((item) => item.title));
  const ann = await person(address, { user: "ann", document: "a" });
  await eventually("ann is there", () => avatars(ann), ["ann (you), online"], FIRST_MS);
  assert.equal(await ann.getByRole("status").textContent(), "Only you are here");
  const hostile = await person(address, { user: HOSTILE, document: "a" });
  const proto = await person(address, { user: "__proto__", document: "a" });
  await eventually("all are there", () => avatars(ann), ["ann (you), online", `${HOSTILE}, online`, "__proto__, online"]);
  await eventually("for each", () => avatars(proto), ["__proto__ (you), online", "ann, online", `${HOSTILE}, online`]);
  const sentence = () => ann.locator(".typing").textContent();
  // Typing ends by itself, so they go on until it is seen.
  const types = async (...pages) => {
    for (const page of pages) await page.locator("textarea").press("i");
    return sentence();
  };
  await eventually("he types", () => types(hostile), `${HOSTILE} is typing…`);
  const isBoth = (text) => text.includes(HOSTILE) && text.includes("__proto__") && text.endsWith(" are typing…");
  await eventually("both type", async () => isBoth(await types(hostile, proto)), true);
  assert.deepEqual(await faultsInAllColoursOf(ann), []);
  // A state may be of any shape: whoever says it need not be this page.
  const odd = await fetch(`${server.address}/v1/channels/document%3Aa/members/odd`, {
    method: "PUT",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ttl_ms: 60_000, state: { name: 5 } }),
  });
  assert.ok(odd.ok);
  await eventually("the odd one is there by its user's name", async () => (await avatars(ann)).at(-1), "odd, online");
  await hostile.locator("h1").click();
  await proto.locator("h1").click();
  await eventually("nobody types", sentence, "");
  assert.equal(await ann.locator("img").count(), 0);
  for (let n = 0; n < 3; n++) {
    const member = encodeURIComponent(`device-${n}`);
    const options = { method: "PUT", headers: { "content-type": "application/json" }, body: JSON.stringify({ ttl_ms: 60_000 }) };
    assert.ok((await fetch(`${server.address}/v1/channels/document%3Aa/members/${member}`, options)).ok);
  }
  await eventually("some are counted", async () => (await avatars(ann)).slice(4), ["3 more"]);
  assert.equal(await ann.locator(".more").textContent(), "+3");
  await eventually("all are counted", () => ann.getByRole("status").textContent(), "7 people are here");
  assert.deepEqual(await faultsInAllColoursOf(ann), []);
  await hostile.close();
  await eventually("he has gone", async () => (await avatars(ann)).includes(`${HOSTILE}, online`), false);
});

test("vue-users: friends come and go and say how they are, and those who are offline were seen", LIMIT, async () => {
  const address = await startExample("vue-users");
  const list = (page) => page.locator("li").evaluateAll((items) => items.map((item) => `${item.querySelector("b").textContent} ${item.querySelector("span").textContent}`));
  const ann = await person(address, { user: "ann" });
  await eventually("nobody is there", () => list(ann), ["ben offline", "kim offline", "zoe offline"], FIRST_MS);
  const ben = await person(address, { user: "ben" });
  await eventually("ben is", () => list(ann), ["ben online", "kim offline", "zoe offline"]);
  await eventually("and sees ann", async () => (await list(ben))[0], "ann online");
  await ben.getByLabel("Your status").selectOption("busy");
  await ben.getByLabel("What you say about it").fill("in a call");
  await ben.getByRole("button", { name: "Set" }).click();
  await eventually("ben is busy", async () => (await list(ann))[0], "ben busy – in a call");
  for (const friend of [HOSTILE, "__proto__"]) {
    await ann.getByLabel("Another friend").fill(friend);
    await ann.getByRole("button", { name: "Add" }).click();
  }
  await eventually("they are listed", async () => (await list(ann)).slice(3).map((line) => line.split(" ")[0]), [HOSTILE, "__proto__"]);
  await person(address, { user: HOSTILE });
  const proto = await person(address, { user: "__proto__" });
  await eventually("they are there", async () => (await list(ann)).slice(3), [`${HOSTILE} online`, "__proto__ online"]);
  await eventually("three of five", () => ann.getByRole("status").textContent(), "3 of 5 online");
  assert.deepEqual(await faultsInAllColoursOf(ann), []);
  assert.equal(await ann.locator("img").count(), 0);
  await proto.close();
  await eventually("one has gone", async () => (await list(ann))[4], "__proto__ seen just now");
});
