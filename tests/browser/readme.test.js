// The code of README.md and docs/rest.md, and what docs/recipes.md has for those without the client, as it stands there.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { eventually, startBrowser } from "./harness.js";
import { blocksOf, moved } from "./manual.js";
import { ROLLCALL, output, start, startServer } from "./program.js";

const LIMIT = { timeout: 60_000 };
const README = blocksOf("README.md");

let app;
let rollcall;
let browser;
let folder;

/** A server of one's own, with the page of the README and its route for tokens. */
async function startApp(page) {
  const http = createServer(async (request, response) => {
    if (request.url === "/") return response.setHeader("content-type", "text/html").end(page());
    if (request.url !== "/presence-token") return response.writeHead(404).end();
    response.end((await (await fetch(`${rollcall.address}/dev/token?user=ann`)).json()).token);
  });
  await once(http.listen(0, "127.0.0.1"), "listening");
  return { address: `http://127.0.0.1:${http.address().port}`, stop: () => http.close() };
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), "rollcall-readme-"));
  app = await startApp(() => `<!doctype html><title>A page</title><link rel="icon" href="data:,">${block("html", "client.js")}`);
  rollcall = await startServer(ROLLCALL, ["serve", "--dev"], {
    ROLLCALL__SERVER__LISTEN: "127.0.0.1:0",
    XDG_STATE_HOME: folder,
  });
  browser = await startBrowser();
}, LIMIT);

after(async () => {
  await browser?.close();
  await rollcall?.stop();
  app?.stop();
  rmSync(folder, { recursive: true });
}, LIMIT);

const addresses = () => ({ "http://127.0.0.1:8080": rollcall.address, "ws://127.0.0.1:8080": rollcall.address.replace("http", "ws") });

function block(language, word, blocks = README) {
  const found = blocks.find((one) => one.language === language && one.code.includes(word));
  assert.ok(found, `there is a block of ${language} with ${word}`);
  return moved(found.code, addresses());
}

const users = async (channel) => {
  const { members } = await (await fetch(`${rollcall.address}/v1/channels/${channel}/members`)).json();
  return members.map(({ user, state }) => [user, state]);
};

/** Runs the commands of a block; those that listen without an end are cut short when they have heard something. The answer is what was said. */
async function ask(code) {
  const said = [];
  const commands = code.replaceAll("\\\n", " ").split("\n").filter((line) => line.startsWith("curl"));
  const base = /^base=.*$/m.exec(code)?.[0] ?? "";
  for (const command of commands) {
    const careful = `${base}\nexec ${command.replace("curl", "curl --silent --show-error --fail-with-body")}`;
    if (!command.includes("curl -N")) {
      said.push(await output("bash", ["-euc", careful]));
      continue;
    }
    const listening = start("bash", ["-euc", careful]);
    await eventually("it hears something", () => listening.said.includes("data: "), true);
    said.push(listening.said);
    await listening.stop("SIGKILL");
  }
  return said;
}

test("the page of the README joins, and the calls that it shows are carried out", LIMIT, async () => {
  const page = await browser.newPage();
  const lines = [];
  page.on("console", (message) => lines.push(message.text()));
  page.on("pageerror", (error) => lines.push(String(error)));
  await page.goto(app.address);
  await eventually("it is here", () => lines, ["here: [ann]"]);
  assert.deepEqual(await users("room:1"), [["ann", { name: "Ann" }]]);

  // A module of a page shares nothing with others: the lines that come next in the README run in one that begins in the same way.
  const more = block("html", "client.js").replace("</script>", `await room.ready;\n${block("js", "client.watch")}</script>`);
  const listening = start("curl", ["-sN", `${rollcall.address}/v1/events?channel=room:1`]);
  await eventually("it hears", () => listening.said.includes("snapshot"), true);
  await page.evaluate((html) => {
    const script = document.createElement("script");
    script.type = "module";
    script.textContent = html.replace(/^<script.*?>|<\/script>\s*$/g, "");
    document.body.append(script);
  }, more);
  await eventually("a wave and who types", () => ["\"data\":{\"wave\":true}", "\"typing\":true", "\"busy\""].every((word) => listening.said.includes(word)), true);
  await listening.stop("SIGKILL");
  await eventually("friends", () => lines.some((line) => line.startsWith("friends:")), true);
  assert.deepEqual(lines.filter((line) => /error/i.test(line)), []);
  await page.close();
});

test("commands of the README and of the manual of REST are answered", LIMIT, async () => {
  const [members, channels, ann, query, events] = await ask(block("sh", "channels/room:1/members"));
  for (const answer of [members, channels, ann, query]) assert.ok(JSON.parse(answer));
  assert.match(events, /data: \{"event":"snapshot"/);
  const said = await ask(block("sh", "base=", blocksOf("docs/rest.md")));
  assert.ok(said.length > 8, `${said.length}`);
  for (const answer of said.slice(0, -1)) if (answer) assert.ok(JSON.parse(answer));
  assert.equal(JSON.parse(said.at(-2)).results.filter(({ ok }) => ok).length, 2);
});

test("without the client a few lines do", LIMIT, async () => {
  const alone = await startServer(ROLLCALL, ["serve", "--dev"], { ROLLCALL__SERVER__LISTEN: "127.0.0.1:0", XDG_STATE_HOME: folder });
  try {
    const recipes = moved(blocksOf("docs/recipes.md").find(({ code }) => code.includes("new WebSocket")).code, { "ws://127.0.0.1:8080": alone.address.replace("http", "ws") });
    const operations = block("js", 'op: "watch", users', blocksOf("docs/recipes.md"));
    const page = await browser.newPage();
    const lines = [];
    page.on("console", (message) => lines.push(message.text()));
    await page.goto(`${alone.address}/page/logo.svg`);
    await page.evaluate(`(async () => { ${recipes}; Object.assign(window, { send, socket }); })()`);
    await eventually("it is here", () => lines.filter((line) => line.startsWith("here:")), ["here: [ann]"]);
    const answers = await page.evaluate((code) => new Promise((resolve) => {
      const frames = [];
      window.socket.addEventListener("message", ({ data }) => {
        const frame = JSON.parse(data);
        frames.push(frame);
        if (frame.id === 5) resolve(frames.filter(({ id }) => id !== undefined));
      });
      new Function("send", code)(window.send);
    }), operations);
    assert.deepEqual(answers.map(({ id, error }) => [id, error]), [[3, undefined], [4, undefined], [5, undefined]]);
    await page.close();
  } finally {
    await alone.stop();
  }
});
