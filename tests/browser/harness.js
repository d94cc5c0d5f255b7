// One server and one browser for all tests of a file; both are ended by who started them, whatever happened.

import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

import { ROLLCALL, output, startServer as startProgram } from "./program.js";

const TRUTH_MS = 10_000;

/** A server on a free port, in development mode unless `mode` is empty. `settings` are environment variables. */
export function startServer(settings = {}, mode = ["--dev"]) {
  return startProgram(ROLLCALL, ["serve", ...mode], { ROLLCALL__SERVER__LISTEN: "127.0.0.1:0", ...settings });
}

/** An API key with these scopes, and the entry of `auth.api_keys` that lets it in. */
export async function makeKey(name, scopes) {
  const said = await output(ROLLCALL, ["key", "--name", name, "--scopes", scopes]);
  return { key: said.split("\n")[0], entry: /API_KEYS=(\S+)/.exec(said)[1] };
}

/** The system's Chromium without a window. */
export function startBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"],
  });
}

/** Asks until the answer is the expected one, and says the last answer when it never was. */
export async function eventually(what, ask, expected, within = TRUTH_MS) {
  const deadline = Date.now() + within;
  const wanted = JSON.stringify(expected);
  let last;
  do {
    last = JSON.stringify(await ask());
    if (last === wanted) return;
    await pause(25);
  } while (Date.now() < deadline);
  throw new Error(`${what}: expected ${wanted}, at last ${last}`);
}

/**
 * Visitors of the pages, each in a browser context of their own. Whatever their consoles complain of, what they ask elsewhere, and dialogs
 * that a script opened are found by `leave`.
 */
export class Visitors {
  #browser;
  #contexts = [];
  #complaints = [];

  constructor(browser) {
    this.#browser = browser;
  }

  /** A page that is nowhere yet. Complaints of other `levels` of the console do not count, and those that match `bears` are part of what is tested. */
  async open({ options = {}, bears, levels = ["error"] } = {}) {
    const context = await this.#browser.newContext(options);
    this.#contexts.push(context);
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    // A server that builds its page first takes longer.
    page.setDefaultNavigationTimeout(30_000);
    const complain = (text) => bears?.test(text) || this.#complaints.push(text);
    page.on("pageerror", (error) => complain(String(error)));
    page.on("console", (message) => levels.includes(message.type()) && complain(message.text()));
    page.on("dialog", (dialog) => {
      complain(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    return page;
  }

  /** Opens `address`, which asks nothing elsewhere. `prepare` comes before that. */
  async visit(address, { prepare, ...how } = {}) {
    const page = await this.open(how);
    const { origin } = new URL(address);
    page.on("request", (request) => {
      if (!request.url().startsWith(`${origin}/`)) this.#complaints.push(`asked elsewhere: ${request.url()}`);
    });
    await prepare?.(page);
    await page.goto(address);
    return page;
  }

  /** Closes all of them: before their server stops, of which they would complain. */
  async close() {
    await Promise.all(this.#contexts.splice(0).map((context) => context.close()));
  }

  /** Closes all of them and answers what was complained of. */
  async leave() {
    await this.close();
    return this.#complaints.splice(0);
  }
}

const axe = readFile(fileURLToPath(import.meta.resolve("axe-core")), "utf8");

/** Serious and critical faults of accessibility that axe finds in the page as it is, one line each. */
export async function faultsOf(page) {
  // Evaluated by the browser's own tools, which the page's policy does not concern.
  await page.evaluate(await axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  return serious.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target.join(" ")}: ${failureSummary}`));
}
