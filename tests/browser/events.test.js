// The lines for an EventSource in docs/recipes.md, as they stand there, in a browser.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { eventually, startBrowser, startServer } from "./harness.js";
import { blocksOf } from "./manual.js";

const LIMIT = { timeout: 60_000 };

let server;
let browser;

before(async () => {
  server = await startServer();
  browser = await startBrowser();
}, LIMIT);

after(async () => {
  await browser?.close();
  await server?.stop();
}, LIMIT);

async function lease(user) {
  const asked = { method: "PUT", headers: { "Content-Type": "application/json" }, body: "{}" };
  const answer = await fetch(`${server.address}/v1/channels/room:1/members/${user}`, asked);
  assert.equal(answer.status, 204);
}

test("a page listens with tickets, and goes on when the server has been away", LIMIT, async () => {
  const [{ code: lines }] = blocksOf("docs/recipes.md").filter(({ headline }) => headline === "Only listen");
  const page = await browser.newPage();
  const heard = [];
  page.on("console", async (message) => {
    if (message.text().startsWith("heard:")) heard.push(await message.args()[1].jsonValue());
  });
  const tickets = [];
  page.on("response", (response) => {
    if (response.url().endsWith("/v1/tickets")) tickets.push(response.status());
  });
  await page.goto(`${server.address}/page/logo.svg`);
  await page.evaluate(lines);
  await eventually("the snapshot", async () => heard.map((event) => event.event), ["snapshot"]);
  await lease("ann");
  await eventually("who has come", async () => heard[1]?.join?.[0]?.user, "ann");
  assert.deepEqual(tickets, [200]);

  // The next one has another memory, at the same address: what was known there means nothing to it.
  const { port } = new URL(server.address);
  await server.stop();
  await eventually("when to come back", async () => heard.at(-1).event, "reconnect");
  server = await startServer({ ROLLCALL__SERVER__LISTEN: `127.0.0.1:${port}` });
  await eventually("another stream", async () => heard.at(-1).event, "snapshot", 30_000);
  assert.deepEqual([tickets.at(-1), heard.at(-1).members], [200, []]);
  await lease("ben");
  await eventually("who has come there", async () => heard.at(-1).join?.[0]?.user, "ben");
});
