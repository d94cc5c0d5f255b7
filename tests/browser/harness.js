// One server and one browser for all tests of a file; both are ended by who started them, whatever happened.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

const START_MS = 20_000;
const STOP_MS = 35_000; // the server may spread its goodbyes over `server.drain_ms`
const TRUTH_MS = 10_000;

const BINARY = process.env.ROLLCALL_BIN ?? fileURLToPath(new URL("../../target/debug/rollcall", import.meta.url));

/** A server on a free port, in development mode unless `mode` is empty. `settings` are environment variables. */
export async function startServer(settings = {}, mode = ["--dev"]) {
  // Whatever this shell is set to: the test's server has its own settings, and its presence in memory.
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("ROLLCALL__"));
  const child = spawn(BINARY, ["serve", ...mode], {
    env: { ...Object.fromEntries(inherited), ROLLCALL__SERVER__LISTEN: "127.0.0.1:0", ...settings },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let said = "";
  child.stderr.on("data", (bytes) => (said = (said + bytes).slice(-4000)));
  const address = await new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`no address after ${START_MS} ms\n${said}`)), START_MS);
    let out = "";
    child.stdout.on("data", (bytes) => {
      out = (out + bytes).slice(-4000);
      const found = /listening on (http:\/\/\S+)/.exec(out);
      if (!found) return;
      clearTimeout(late);
      resolve(found[1]);
    });
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}\n${out}${said}`)));
  }).catch((error) => {
    child.kill("SIGKILL");
    throw error;
  });
  const stop = async (signal = "SIGTERM") => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    const killer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await ended;
    clearTimeout(killer);
  };
  return { address, stop };
}

/** An API key with these scopes, and the entry of `auth.api_keys` that lets it in. */
export async function makeKey(name, scopes) {
  const { stdout } = await promisify(execFile)(BINARY, ["key", "--name", name, "--scopes", scopes]);
  return { key: stdout.split("\n")[0], entry: /API_KEYS=(\S+)/.exec(stdout)[1] };
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

  /** Opens `address`. `prepare` comes before that; complaints that match `bears` are part of what is tested. */
  async visit(address, { options = {}, prepare, bears } = {}) {
    const context = await this.#browser.newContext(options);
    this.#contexts.push(context);
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    const complain = (text) => bears?.test(text) || this.#complaints.push(text);
    page.on("pageerror", (error) => complain(String(error)));
    page.on("console", (message) => message.type() === "error" && complain(message.text()));
    page.on("dialog", (dialog) => {
      complain(`a dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    const { origin } = new URL(address);
    page.on("request", (request) => {
      if (!request.url().startsWith(`${origin}/`)) complain(`asked elsewhere: ${request.url()}`);
    });
    await prepare?.(page);
    await page.goto(address);
    return page;
  }

  /** Closes all of them and answers what was complained of. */
  async leave() {
    await Promise.all(this.#contexts.map((context) => context.close()));
    const complaints = this.#complaints;
    [this.#contexts, this.#complaints] = [[], []];
    return complaints;
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
