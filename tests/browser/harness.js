// One server and one browser for all tests of a file; both are ended by who started them, whatever happened.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const START_MS = 20_000;
const STOP_MS = 35_000; // the server may spread its goodbyes over `server.drain_ms`
const TRUTH_MS = 10_000;

/** A server in development mode on a free port. `settings` are environment variables. */
export async function startServer(settings = {}) {
  const built = fileURLToPath(new URL("../../target/debug/rollcall", import.meta.url));
  // Whatever this shell is set to: the test's server has its own settings, and its presence in memory.
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("ROLLCALL__"));
  const child = spawn(process.env.ROLLCALL_BIN ?? built, ["serve", "--dev"], {
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
  const stop = async () => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    const killer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await ended;
    clearTimeout(killer);
  };
  return { address, stop };
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
