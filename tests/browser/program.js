// Programs that tests start: they say where they listen, and end with the test.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, connect } from "node:net";
import { fileURLToPath } from "node:url";

const START_MS = 20_000;
const STOP_MS = 35_000; // Rollcall may spread its goodbyes over `server.drain_ms`
const KEPT = 4000; // of what it said, characters

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const ROLLCALL = process.env.ROLLCALL_BIN ?? `${ROOT}target/debug/rollcall`;

/** The environment of this shell without what it sets for Rollcall and for the examples, and with `more`. */
export function environment(more = {}) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(ROLLCALL_|PORT$|DEVICE$|CHANNEL$|EVERY_S$|TTL_S$)/.test(name));
  return { ...Object.fromEntries(inherited), ...more };
}

/** Starts a program. `said` is what it wrote, `exit` its end, and `stop` ends it. */
export function start(command, args, env, options = {}) {
  const child = spawn(command, args, { env: environment(env), stdio: ["ignore", "pipe", "pipe"], ...options });
  const program = { child, said: "" };
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (bytes) => (program.said = (program.said + bytes).slice(-KEPT)));
  program.exit = new Promise((resolve) => {
    child.once("error", (error) => resolve(String(error)));
    // Not when it exits: the last of what it wrote may not have come by then.
    child.once("close", (code, signal) => resolve(code ?? signal));
  });
  program.stop = async (signal = "SIGTERM") => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    const killer = setTimeout(() => child.kill("SIGKILL"), STOP_MS);
    await program.exit;
    clearTimeout(killer);
  };
  return program;
}

/** Starts a program that says where it listens, in the words of `listens`. */
export async function startServer(command, args, env, { listens = /listening on (http:\/\/\S+)\s/, ...options } = {}) {
  const program = start(command, args, env, options);
  let late;
  const address = new Promise((resolve, reject) => {
    late = setTimeout(() => reject(new Error(`${command} said no address in ${START_MS} ms\n${program.said}`)), START_MS);
    let out = "";
    program.child.stdout.on("data", (bytes) => {
      out += bytes;
      const found = listens.exec(out);
      if (found) resolve(found[1]);
    });
    program.exit.then((code) => reject(new Error(`${command} ended with ${code}\n${program.said}`)));
  });
  try {
    return Object.assign(program, { address: await address });
  } catch (error) {
    program.child.kill("SIGKILL");
    throw error;
  } finally {
    clearTimeout(late);
  }
}

/** What a program that ends by itself wrote to standard output. */
export async function output(command, args, env, options) {
  const program = start(command, args, env, options);
  let out = "";
  program.child.stdout.on("data", (bytes) => (out += bytes));
  const code = await program.exit;
  if (code !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${code}\n${program.said}`);
  return out;
}

/** A port that was free just now, for what has to know one before it listens. */
export async function freePort() {
  const server = createServer();
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A way to an address that can be cut: what goes through it breaks, and nobody gets through until it is mended. */
export async function startCable(address) {
  const { hostname, port } = new URL(address);
  const ends = new Set();
  let isCut = false;
  const server = createServer((near) => {
    near.on("error", () => {});
    if (isCut) return near.destroy();
    const far = connect(Number(port), hostname);
    far.on("error", () => near.destroy());
    for (const end of [near, far]) {
      ends.add(end);
      end.on("close", () => {
        ends.delete(end);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far).pipe(near);
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const cut = () => {
    isCut = true;
    for (const end of ends) end.destroy();
  };
  const mend = () => (isCut = false);
  const stop = () => {
    cut();
    return new Promise((resolve) => server.close(resolve));
  };
  return { address: `http://127.0.0.1:${server.address().port}`, cut, mend, stop };
}
