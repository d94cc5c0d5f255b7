// docs/quickstart.md, done as it says: its files are written, its commands run, its pages opened. Only the ports are others.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { after, afterEach, before, test } from "node:test";

import { eventually, startBrowser } from "./harness.js";
import { blocksOf, moved } from "./manual.js";
import { ROLLCALL, ROOT, freePort, output, start } from "./program.js";

const LIMIT = { timeout: 90_000 };
const BLOCKS = blocksOf("docs/quickstart.md");

let browser;
let folder;
let running = [];
let contexts = [];
let addresses;

before(async () => (browser = await startBrowser()), LIMIT);
after(() => browser?.close(), LIMIT);

afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()));
  for (const { child, exit } of running.splice(0)) {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has ended.
    }
    await exit;
  }
  if (folder) rmSync(folder, { recursive: true });
}, LIMIT);

/** A reader's folder, and the ports of this test. */
async function begin() {
  folder = mkdtempSync(join(tmpdir(), "rollcall-quickstart-"));
  const [rollcall, app] = [await freePort(), await freePort()];
  addresses = { "127.0.0.1:8080": `127.0.0.1:${rollcall}`, "127.0.0.1:3000": `127.0.0.1:${app}`, "listen(3000,": `listen(${app},` };
  // `make run` and the commands of the reader find these.
  mkdirSync(join(folder, "bin"));
  symlinkSync(ROLLCALL, join(folder, "bin", "rollcall"));
  writeFileSync(join(folder, "Makefile"), "run:\n\trollcall serve --dev\n");
  // What `npm install jose` gets.
  symlinkSync(`${ROOT}examples/server-node/node_modules`, join(folder, "node_modules"));
  for (const { file, code } of BLOCKS) if (file) writeFileSync(join(folder, file), moved(code, addresses));
}

const environment = () => ({
  PATH: `${join(folder, "bin")}${delimiter}${dirname(process.execPath)}${delimiter}${process.env.PATH}`,
  ROLLCALL__SERVER__LISTEN: addresses["127.0.0.1:8080"],
  XDG_STATE_HOME: folder,
});

/** The commands under a headline, the ones that begin with `skipped` left out. */
function commands(headline, index = 0, skipped = "-") {
  const found = BLOCKS.filter((block) => block.language === "sh" && block.headline === headline)[index];
  assert.ok(found, `the manual has commands under "${headline}"`);
  return moved(found.code, addresses).split("\n").filter((line) => !line.startsWith(skipped)).join("\n");
}

function run(script) {
  const program = start("bash", ["-euc", script], environment(), { cwd: folder, detached: true });
  running.push(program);
  return program;
}

async function answers(address) {
  await eventually(`${address} answers`, () => fetch(address).then((answer) => answer.ok, () => false), true, 20_000);
}

const at = (name, path = "/") => `http://${addresses[name]}${path}`;

async function open(user) {
  const context = await browser.newContext();
  contexts.push(context);
  const page = await context.newPage();
  await page.goto(at("127.0.0.1:3000", `/?user=${user}`));
  return page;
}

const shown = (page) => page.locator("#here").textContent();

async function bothAreSeen() {
  const [ann, ben] = [await open("ann"), await open("ben")];
  await eventually("ann sees both", () => shown(ann), "ann, ben");
  await eventually("ben sees both", () => shown(ben), "ann, ben");
}

test("in development mode two windows show each other, and REST says who is here", LIMIT, async () => {
  await begin();
  run(commands("Start Rollcall"));
  await answers(at("127.0.0.1:8080", "/readyz"));
  run(commands("A page"));
  await answers(at("127.0.0.1:3000"));
  await bothAreSeen();
  const said = await output("bash", ["-euc", commands("Ask who is here").replaceAll("curl", "curl --silent --show-error --fail -w '\\n'")], environment());
  const [members, users] = said.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(members.members.map(({ user }) => user), ["ann", "ben"]);
  assert.deepEqual(Object.entries(users.users).map(([user, { status }]) => [user, status]), [["ann", "online"], ["ben", "online"], ["zoe", "offline"]]);
});

test("with keys and tokens the same page works, and nobody gets in without", LIMIT, async () => {
  await begin();
  run(commands("With keys and tokens"));
  await answers(at("127.0.0.1:8080", "/readyz"));
  run(commands("With keys and tokens", 1, "npm install"));
  await answers(at("127.0.0.1:3000"));
  await bothAreSeen();
  assert.deepEqual(await (await fetch(at("127.0.0.1:3000", "/here"))).json(), ["ann", "ben"]);
  assert.equal((await fetch(at("127.0.0.1:8080", "/v1/channels/room:1/members"))).status, 401);
  assert.equal((await fetch(at("127.0.0.1:8080", "/dev/token?user=ann"))).status, 404);
});
