// docs/recipes.md: its code is run as it stands there, by somebody who is called Ann.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";

import { Rollcall, RollcallError } from "../../sdk/dist/index.js";
import { typingSentence } from "../../sdk/dist/typing.js";
import { eventually } from "./harness.js";
import { blocksOf } from "./manual.js";
import { ROLLCALL, ROOT, output, start, startServer } from "./program.js";

const LIMIT = { timeout: 60_000 };
const RECIPES = blocksOf("docs/recipes.md");
const SECRET = randomBytes(32).toString("base64url");
const AsyncFunction = (async () => {}).constructor;

let rollcall;
let key;
let clients = [];

before(async () => {
  const [made, setting] = (await output(ROLLCALL, ["key", "--name", "app", "--scopes", "read+write+admin"])).trim().split("\n");
  key = made;
  rollcall = await startServer(ROLLCALL, ["serve"], {
    ROLLCALL__SERVER__LISTEN: "127.0.0.1:0",
    ROLLCALL__AUTH__HS256_SECRET: SECRET,
    ROLLCALL__AUTH__API_KEYS: setting.replace("ROLLCALL__AUTH__API_KEYS=", ""),
  });
}, LIMIT);

after(() => rollcall?.stop(), LIMIT);
afterEach(() => clients.splice(0).forEach((client) => client.close()));

const EVERYTHING = { join: ["**"], watch: ["**"], typing: ["**"], send: ["**"], users: ["**"], status: true };

/** Somebody with a token as `rollcall token` makes it. */
function person(user, can = EVERYTHING) {
  const token = async () =>
    (await output(ROLLCALL, ["token", "--user", user, "--can", JSON.stringify(can)], { ROLLCALL__AUTH__HS256_SECRET: SECRET })).trim();
  const client = new Rollcall({ url: rollcall.address, token });
  clients.push(client);
  return client;
}

/** The blocks of a recipe in a language. */
function recipe(headline, language) {
  const found = RECIPES.filter((block) => block.headline === headline && block.language === language);
  assert.ok(found.length > 0, `docs/recipes.md has ${language} under "${headline}"`);
  return found;
}

/** Runs a block with what the page says it has; what `show` is given is answered. */
async function run({ code, place }, given) {
  const shown = [];
  // What it names is handed out, so that the test can go on with it.
  const names = [...code.matchAll(/^const (\w+) =/gm)].map(([, name]) => name);
  const scope = { show: (...said) => shown.push(said), ...given };
  const body = `${code}\nreturn { ${names.join(", ")} };\n//# sourceURL=${place}`;
  const made = await new AsyncFunction(...Object.keys(scope), body)(...Object.values(scope));
  return { shown, ...made };
}

/** Runs a block of commands; the answer is what each of them said. */
async function ask({ code }) {
  const script = code.replaceAll("curl ", "curl --silent --show-error --fail-with-body -w '\\n' ");
  const said = await output("bash", ["-euc", script], { rollcall: rollcall.address, key });
  return said.split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

/** That something was shown. */
const had = (shown, wanted) => eventually("it is shown", () => shown.some((said) => JSON.stringify(said) === JSON.stringify(wanted)), true);

test("a friends list shows who is there and how, and the server can ask for them", LIMIT, async () => {
  const [page] = recipe("A friends list", "js");
  const ben = person("ben");
  const can = JSON.parse(/`"can": (\{.*?\})`/.exec(readFileSync(`${ROOT}docs/recipes.md`, "utf8"))[1]);
  const { shown, friends } = await run(page, { client: person("ann", can) });
  await had(shown, ["ben", "online", "", undefined]);
  await had(shown, ["zoe", "offline", "", undefined]);
  const kim = person("kim");
  await had(shown, ["kim", "online", "", undefined]);
  kim.close();
  await eventually("when kim was last seen", () => shown.some(([user, status, , seen]) => user === "kim" && status === "offline" && seen > 0), true);
  const [{ users }] = await ask(recipe("A friends list", "sh")[0]);
  assert.deepEqual([users.ben.status, users.zoe.status], ["online", "offline"]);
  assert.equal((await ben.users.get(["ann"])).get("ann").text, "in a call");
  friends.close();
});

test("who is viewing a document shows with a state, and carets go by signals", LIMIT, async () => {
  const [page] = recipe("Who is viewing this document", "js");
  const ben = person("ben").join("doc:42", { state: { name: "Ben", page: 1 } });
  const carets = [];
  ben.on("signal", ({ user, data }) => carets.push([user, data]));
  await ben.ready;
  const { shown, doc } = await run(page, { client: person("ann") });
  await had(shown, [["Ben is on page 1", "Ann is on page 4"]]);
  await eventually("the caret", () => carets, [["ann", { caret: 117 }]]);
  await ben.send({ caret: 5 });
  await had(shown, ["ben", 5]);
  const [members, channels] = await ask(recipe("Who is viewing this document", "sh")[0]);
  assert.deepEqual(members.members.map(({ state }) => state.page), [1, 4]);
  assert.deepEqual(channels.channels.map(({ channel }) => channel), ["doc:42"]);
  await doc.leave();
  await eventually("ann has left", () => [...ben.members.keys()], ["ben"]);
});

test("a fleet beats, is found, listened to and shown", LIMIT, async () => {
  const [beats, questions, stream] = recipe("A fleet of devices", "sh");
  const { shown, hall } = await run(recipe("A fleet of devices", "js")[0], { client: person("ann") });
  await hall.ready;
  const [{ results }] = await ask(beats);
  assert.equal(results.filter(({ ok }) => ok).length, 2);
  await had(shown, [["dev-7: 21 °C"]]);
  const [found, device] = await ask(questions);
  assert.deepEqual(found.users.map(({ user }) => user), ["dev-7", "dev-8"]);
  assert.deepEqual(device.channels, ["sensors:hall"]);
  const listening = start("bash", ["-euc", `exec ${stream.code}`], { rollcall: rollcall.address, key });
  try {
    await eventually("it hears of both", () => ["sensors:hall", "sensors:roof"].every((channel) => listening.said.includes(channel)), true);
    await fetch(`${rollcall.address}/v1/channels/sensors:hall/members/dev-7`, { method: "DELETE", headers: { authorization: `Bearer ${key}` } });
    await eventually("it hears of the goodbye", () => /"leave":\[\{"user":"dev-7"/.test(listening.said), true);
  } finally {
    await listening.stop("SIGKILL");
  }
  await had(shown, ["dev-7 is gone (left)", { celsius: 21 }]);
});

test("who types is a sentence, which ends", LIMIT, async () => {
  const [page] = recipe("Who is typing", "js");
  const imported = 'import { typingSentence } from "@rollcall/client/typing";\n';
  assert.ok(page.code.startsWith(imported));
  const input = Object.assign(new EventTarget(), { value: "H" });
  const client = person("ann");
  const { shown, chat } = await run({ ...page, code: page.code.slice(imported.length) }, { client, input, typingSentence });
  await chat.ready;
  const others = ["ben", "kim", "zoe"].map((user) => person(user).join("chat:7", { state: { name: user.toUpperCase() } }));
  await Promise.all(others.map((room) => room.ready));
  const heard = [];
  others[0].on("typing", (typing) => heard.push(typing));
  input.dispatchEvent(new Event("input"));
  await eventually("ann types", () => heard, [{ user: "ann", typing: true }]);
  for (const [place, sentence] of ["BEN is typing…", "BEN and KIM are typing…", "3 people are typing…"].entries()) {
    others[place].typing();
    await had(shown, [sentence]);
  }
  await eventually("it ends", () => shown.at(-1), [""]);
});

test("somebody is put out of a channel, then of everything, and the client knows", LIMIT, async () => {
  const client = person("mallory");
  const chat = client.join("chat:7");
  await chat.ready;
  const { shown } = await run(recipe("Put somebody out", "js")[0], { client, chat });
  const [block] = recipe("Put somebody out", "sh");
  const [everywhere, one] = block.code.trim().split("\n");
  assert.deepEqual(await ask({ code: one }), [{ connections: 1 }]);
  await had(shown, ["You are not in the chat any more", "kicked"]);
  assert.deepEqual(await ask({ code: everywhere }), [{ connections: 1 }]);
  await eventually("the client has ended", () => client.state, "ended");
  assert.ok(client.error instanceof RollcallError);
  assert.equal(shown.at(-1)[0], client.error.code);
  assert.match(client.error.code, /^(banned|kicked)$/);
});

test("a worker hears who comes and goes", LIMIT, async () => {
  const [worker] = recipe("Tell your server who comes and goes", "js");
  const heard = new Map();
  const note = ({ users }) => users.forEach(({ user, status }) => heard.set(user, status));
  // Its stream ends with the server, which `after` stops.
  run(worker, { rollcall: rollcall.address, key, note }).catch(() => {});
  const tom = person("tom");
  await eventually("tom comes", () => heard.get("tom"), "online");
  tom.close();
  await eventually("tom goes", () => heard.get("tom"), "offline");
});
