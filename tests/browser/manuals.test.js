// What the manuals for users name is there: settings, routes, calls of the client, files and headlines that they link to.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";

import { Rollcall } from "../../sdk/dist/index.js";
import { Logins } from "../../sdk/dist/logins.js";
import { ROOT } from "./program.js";

const MANUALS = ["README.md", "docs/quickstart.md", "docs/tokens.md", "docs/recipes.md", "docs/rest.md", "docs/coming-from.md", "sdk/README.md", "examples/README.md",
  "examples/react-avatars/README.md", "examples/vue-users/README.md"];
const read = (path) => readFileSync(join(ROOT, path), "utf8");

/** What stands in one of the manuals and fits the pattern, with its place. */
function* mentions(pattern) {
  for (const path of MANUALS) {
    for (const [place, line] of read(path).split("\n").entries()) for (const found of line.matchAll(pattern)) yield [`${path}:${place + 1}`, ...found];
  }
}

test("settings that manuals name are there", () => {
  const defaults = read("src/config.default.toml");
  const known = new Set();
  let section;
  for (const line of defaults.split("\n")) {
    section = /^\[(\w+)\]$/.exec(line)?.[1] ?? section;
    const name = /^#?(\w+) = /.exec(line)?.[1];
    if (name) known.add(`${section}.${name}`);
  }
  let seen = 0;
  for (const [place, , name] of mentions(/`((?:server|redis|auth|presence|limits)\.[a-z0-9_]+)(?=[`\s])/g)) {
    assert.ok(known.has(name), `${place}: ${name}`);
    seen++;
  }
  for (const [place, , section, name] of mentions(/ROLLCALL__([A-Z]+)__([A-Z0-9_]+?)(?:_FILE)?\b/g)) {
    assert.ok(known.has(`${section}.${name}`.toLowerCase()), `${place}: ${section}.${name}`);
    seen++;
  }
  assert.ok(seen > 20, `${seen}`);
});

test("routes that manuals name are described", () => {
  const described = new Map();
  let path;
  for (const line of read("openapi.yaml").split("\ncomponents:")[0].split("\n")) {
    path = /^ {2}(\/\S*):$/.exec(line)?.[1] ?? path;
    const method = /^ {4}(get|put|post|patch|delete):$/.exec(line)?.[1];
    if (method) described.set(`${method.toUpperCase()} ${path}`, true);
  }
  let seen = 0;
  for (const [place, , method, route] of mentions(/`(GET|PUT|POST|PATCH|DELETE) (\/[^`?\s]*)/g)) {
    assert.ok(described.has(`${method} ${route}`), `${place}: ${method} ${route}`);
    seen++;
  }
  assert.ok(seen > 8, `${seen}`);
});

test("calls of the client that manuals name are there", () => {
  const client = new Rollcall({ url: "http://127.0.0.1:9", token: () => "", connect: false });
  const room = client.join("room");
  const objects = { client, room, doc: room, chat: room, hall: client.channel("hall"), friends: client.watch(["ben"]), presence: new Logins(client) };
  let seen = 0;
  for (const [place, , object, call] of mentions(/\b(client|room|doc|chat|hall|friends)\.(\w+)/g)) {
    if (["js", "mjs"].includes(call) || place.startsWith("docs/coming-from.md") && call === "presence") continue;
    assert.ok(call in objects[object], `${place}: ${object}.${call}`);
    seen++;
  }
  client.close();
  assert.ok(seen > 30, `${seen}`);
});

test("files and headlines that manuals link to are there", () => {
  const anchors = (path) => read(path).split("\n").filter((line) => /^#+ /.test(line))
    .map((line) => line.replace(/^#+ /, "").toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, "").replace(/ /g, "-"));
  let seen = 0;
  for (const [place, , target] of mentions(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:|^docs\/images\//.test(target)) continue;
    const [file, anchor] = target.split("#");
    const from = place.split(":")[0];
    const path = file ? join(dirname(from), file) : from;
    assert.ok(existsSync(join(ROOT, path)), `${place}: ${target}`);
    if (anchor) assert.ok(anchors(path).includes(anchor), `${place}: ${target}`);
    seen++;
  }
  assert.ok(seen > 20, `${seen}`);
});
