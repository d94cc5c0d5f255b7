// Makes docs/images/page.png: the page as a visitor has it after a minute of trying. `npm run screenshot`

import { fileURLToPath } from "node:url";

import { eventually, startBrowser, startServer } from "./harness.js";

const server = await startServer();
const browser = await startBrowser();
try {
  const context = await browser.newContext({ viewport: { width: 1120, height: 960 }, locale: "en-GB" });
  const [page, second] = [await context.newPage(), await context.newPage()];
  const press = (view, name, what) => view.getByRole("button", { name: `${name}: ${what}`, exact: true }).click();
  const users = (number) => eventually("users", () => page.locator("#users").textContent(), String(number));
  const said = (words) => eventually(words, () => page.locator(".entry .text").first().textContent(), words);
  for (const view of [page, second]) {
    await view.goto(server.address);
    await eventually("live", () => view.locator("#live-text").textContent(), "live");
  }
  await press(page, "Ann", "present");
  await users(1);
  await press(page, "Ben", "present");
  await users(2);
  await press(second, "Ann", "present");
  await said("Ann is on 2 connections");
  await press(page, "Zoe", "present");
  await users(3);
  await page.locator(".person").nth(0).getByRole("button", { name: "free" }).click();
  await said("Ann is now free");
  await page.locator(".person").nth(2).getByRole("button", { name: "on a break" }).click();
  await said("Zoe is now on a break");
  await press(page, "Zoe", "drop the connection");
  await eventually("the countdown", async () => /for 13 s/.test(await page.locator(".person .note").nth(2).textContent()), true);
  await press(page, "Zoe", "come back");
  await said("Zoe: came back by resume: nothing to announce");
  await press(page, "Ben", "drop the connection");
  await eventually("the countdown", async () => /for 9 s/.test(await page.locator(".person .note").nth(1).textContent()), true);
  await page.mouse.move(0, 0);
  await page.evaluate(() => document.activeElement.blur());
  await page.screenshot({ path: fileURLToPath(new URL("../../docs/images/page.png", import.meta.url)) });
} finally {
  await browser.close();
  await server.stop();
}
