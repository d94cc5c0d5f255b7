// Makes docs/images: the playground as a visitor has it after a minute of trying, and the dashboard of a service with some life in it.
// `npm run screenshot`

import { fileURLToPath } from "node:url";

import { eventually, startBrowser, startServer } from "./harness.js";

const USERS = 300;
const CHANNELS = 40;
/** A chart shows a minute at least, milliseconds. */
const FILLED_MS = 75_000;

const server = await startServer();
const browser = await startBrowser();
const image = (name) => fileURLToPath(new URL(`../../docs/images/${name}.png`, import.meta.url));
const shoot = async (page, name) => {
  await page.mouse.move(0, 0);
  await page.evaluate(() => {
    document.activeElement.blur();
    scrollTo(0, 0);
  });
  await page.screenshot({ path: image(name) });
};

/** The playground, with three people of whom one has two devices and one types. */
async function playground() {
  const page = await browser.newPage({ viewport: { width: 1180, height: 1180 }, locale: "en-GB", reducedMotion: "reduce" });
  const press = (name, what) => page.getByRole("button", { name: `${name}: ${what}`, exact: true }).click();
  const said = (words) => eventually(words, () => page.locator("#log .text").first().textContent(), words);
  await page.goto(server.address);
  await eventually("live", () => page.locator("#live-text").textContent(), "live");
  await press("Ann", "present");
  await said("Ann joined");
  await press("Ben", "present");
  await said("Ben joined");
  await press("Ann", "add a phone");
  await said("Ann is on 2 connections");
  await press("Zoe", "present");
  await said("Zoe joined");
  await page.locator(".person").nth(0).getByRole("button", { name: "free" }).click();
  await said("Ann is now free");
  await page.getByLabel("Zoe: status").selectOption("busy");
  await said("Zoe is busy");
  await press("Ben", "drop the connection");
  await said("Ben: dropped without a goodbye; place kept for 15 s");
  await eventually("the countdown", async () => /for 9 s/.test(await page.locator(".person .note").nth(2).textContent()), true);
  await press("Zoe", "wave");
  await said("Zoe waves");
  await page.getByLabel("Ann: say something").pressSequentially("Hello");
  await eventually("ann types", () => page.locator("#typing").textContent(), "Ann is typing…");
  await shoot(page, "playground");
  await page.close();
}

/** People who come and go, made with the client that the server hands out. */
async function people(first) {
  const page = await browser.newPage();
  await page.goto(`${server.address}/page/logo.svg`);
  await page.evaluate(
    async ([start, users, channels]) => {
      const { Rollcall } = await import("/client.js");
      const names = "ada ben cleo dov eva finn gus hana ida jon kim lea mia noa ole pia rui sam tom uma vera wim yara zoe".split(" ");
      const moods = ["free", "on a break", "in the garden", "reading", "listening"];
      const known = ["room:lobby", "room:design", "doc/plan", "course:algebra", "game:7", "support:queue", "room:music", "doc/budget"];
      const all = Array.from({ length: channels }, (_, place) => known[place] ?? `room:${place}`);
      // The first ones are the large ones.
      const some = () => all[Math.floor(all.length * Math.random() ** 2.4)];
      const everybody = [];
      const join = (one, channel) => {
        if (!one.rooms.has(channel)) one.rooms.set(channel, one.client.join(channel, { state: { mood: moods[Math.floor(Math.random() * moods.length)] }, watch: false }));
      };
      for (let place = start; place < start + users; place++) {
        const user = `${names[place % names.length]}.${"klmnoprstuvwx"[Math.floor(place / names.length)]}`;
        const token = async () => (await (await fetch(`/dev/token?user=${user}`)).json()).token;
        const client = new Rollcall({ token, share: false, device: ["web", "phone", "laptop"][place % 3] });
        const one = { client, rooms: new Map() };
        everybody.push(one);
        for (let more = 0; more <= place % 3; more++) join(one, some());
        if (place % 11 === 3) client.setStatus("busy", { text: "in a call" });
        if (place % 13 === 5) client.setStatus("away");
        // Not faster than they are let in.
        if (place % 10 === 9) await new Promise((resolve) => setTimeout(resolve, 150));
      }
      setInterval(() => everybody.forEach(({ client }) => client.active()), 30_000);
      setInterval(() => {
        const one = everybody[Math.floor(Math.random() * everybody.length)];
        const [first] = one.rooms.keys();
        if (one.rooms.size < 2 || Math.random() < 0.45) return join(one, some());
        one.rooms.get(first).leave();
        one.rooms.delete(first);
      }, 150);
    },
    [first, USERS / 2, CHANNELS],
  );
}

async function dashboard(colorScheme) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 1010 }, locale: "en-GB", colorScheme });
  await page.goto(`${server.address}/dashboard`);
  await eventually("live", () => page.locator("#live-text").textContent(), "live");
  return page;
}

try {
  await playground();
  const pages = [await dashboard("light"), await dashboard("dark")];
  // One browser page may have 255 sockets.
  await Promise.all([people(0), people(USERS / 2)]);
  await pages[0].waitForTimeout(FILLED_MS);
  for (const [place, page] of pages.entries()) {
    await page.bringToFront();
    await page.getByRole("button", { name: "room:design" }).click();
    await eventually("a few changes", async () => (await page.locator("#changes li").count()) >= 4, true, 60_000);
    await shoot(page, place ? "dashboard-dark" : "dashboard");
  }
} finally {
  await browser.close();
  await server.stop();
}
