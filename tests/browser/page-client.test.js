// `/client.js`: the client for a page of another origin, which has neither npm nor a bundler.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { eventually, startBrowser, startServer } from "./harness.js";

const LIMIT = { timeout: 60_000 };

let app;
let server;
let browser;

before(async () => {
  app = createServer(async (request, response) => {
    const { pathname, search } = new URL(request.url, "http://app");
    if (pathname !== "/token") return response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>A page elsewhere</title>");
    response.end((await (await fetch(`${server.address}/dev/token${search}`)).json()).token);
  });
  await once(app.listen(0, "127.0.0.1"), "listening");
  app.address = `http://127.0.0.1:${app.address().port}`;
  server = await startServer({ ROLLCALL__SERVER__ALLOWED_ORIGINS: app.address });
  browser = await startBrowser();
}, LIMIT);

after(async () => {
  await browser?.close();
  await server?.stop();
  app?.close();
}, LIMIT);

/** A tab of a page elsewhere, with a client in it. */
async function tab(context, user, options = {}) {
  const page = await context.newPage();
  await page.goto(app.address);
  await page.evaluate(
    async ([url, name, more]) => {
      const { Rollcall } = await import(`${url}/client.js`);
      window.client = new Rollcall({ url, token: async () => (await fetch(`/token?user=${name}`)).text(), ...more });
      window.room = window.client.join("room:elsewhere");
      await window.room.ready;
    },
    [server.address, user, options],
  );
  return page;
}

test("a page of another origin imports the client and is there", LIMIT, async () => {
  const context = await browser.newContext();
  const complaints = [];
  context.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  const page = await tab(context, "ann");
  const names = await page.evaluate(async (url) => Object.keys(await import(`${url}/client.js`)).sort(), server.address);
  assert.deepEqual(names, ["Channel", "Logins", "Rollcall", "RollcallError", "Room", "Topics", "Watch", "typingSentence"]);
  await eventually("ann is here", () => page.evaluate(() => [...window.room.members.keys()]), ["ann"]);
  // Tabs share a connection with what is in the same file.
  const second = await tab(context, "ann");
  await eventually("one connection", () => second.evaluate(() => [window.client.state, window.client.isLeader, window.room.occupancy.connections]), ["open", false, 1]);
  assert.deepEqual(complaints, []);
  await context.close();
});

test("nothing but the client may be read by other origins", LIMIT, async () => {
  const page = await browser.newPage();
  await page.goto(app.address);
  const read = (path) => page.evaluate((url) => fetch(url).then((answer) => answer.status, () => "refused"), server.address + path);
  assert.equal(await read("/client.js"), 200);
  for (const path of ["/", "/dashboard", "/page/playground.js", "/v1/stats", "/dev/token"]) assert.equal(await read(path), "refused", path);
  await page.close();
});
