// A real server, a Redis of its own where one is asked for, and a proxy that can lose what goes through it.

import { spawn, type ChildProcess } from "node:child_process";
import { createHmac } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import { WebSocket, WebSocketServer } from "ws";

const START_MS = 20_000;
const TRUTH_MS = 15_000;
export const SECRET = "a-secret-of-the-sdk-tests-of-32-bytes-or-more";
export const EVERYTHING = { join: ["**"], watch: ["**"], typing: ["**"], send: ["**"], users: ["**"], status: true };

/** A token of the user, as an app server would make it. */
export function token(user: string | null, more: Record<string, unknown> = {}, secret = SECRET): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const claims = { ...(user !== null && { sub: user }), iat: now, exp: now + 3600, can: EVERYTHING, ...more };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

export interface Running {
  readonly address: string;
  stop(signal?: NodeJS.Signals): Promise<void>;
}

/** A server on a free port, or on the given one. `settings` are environment variables without their prefix. */
export async function startServer(settings: Record<string, string> = {}): Promise<Running> {
  const built = fileURLToPath(new URL("../../target/debug/rollcall", import.meta.url));
  // Whatever this shell is set to: the test's server has its own settings.
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("ROLLCALL__")));
  const own = { SERVER__LISTEN: "127.0.0.1:0", AUTH__HS256_SECRET: SECRET, ...settings };
  for (const [name, value] of Object.entries(own)) env[`ROLLCALL__${name}`] = value;
  const child = spawn(process.env.ROLLCALL_BIN ?? built, ["serve"], { env, stdio: ["ignore", "pipe", "pipe"] });
  const address = await said(child, /listening on (http:\/\/\S+)/);
  return { address, stop: (signal = "SIGTERM") => stop(child, signal) };
}

/** A Redis without anything on disk. */
export async function startRedis(port = 0): Promise<Running & { readonly port: number }> {
  const chosen = port || (await freePort());
  const folder = mkdtempSync(join(tmpdir(), "rollcall-sdk-"));
  const settings = ["--port", String(chosen), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder];
  const child = spawn(process.env.REDIS_SERVER ?? "redis-server", settings, { stdio: ["ignore", "pipe", "pipe"] });
  await said(child, /(Ready to accept connections)/);
  const end = async () => {
    await stop(child, "SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  };
  return { address: `redis://127.0.0.1:${chosen}/0`, port: chosen, stop: end };
}

async function said(child: ChildProcess, pattern: RegExp): Promise<string> {
  return new Promise<string>((resolve, reject) => {
    let all = "";
    const late = setTimeout(() => reject(new Error(`not started after ${START_MS} ms\n${all}`)), START_MS);
    const hear = (bytes: Buffer) => {
      all = (all + bytes).slice(-4000);
      const found = pattern.exec(all)?.[1];
      if (found === undefined) return;
      clearTimeout(late);
      resolve(found);
    };
    child.stdout?.on("data", hear);
    child.stderr?.on("data", hear);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`ended with ${code}\n${all}`)));
  }).catch((error) => {
    child.kill("SIGKILL");
    throw error;
  });
}

async function stop(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill(signal);
  const killer = setTimeout(() => child.kill("SIGKILL"), 35_000);
  await ended;
  clearTimeout(killer);
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

/** Stands between client and server, frame by frame. */
export interface Proxy {
  readonly address: string;
  /** Where sockets are led that come from now on. */
  target: string;
  /** Frames for which this answers true go no further. */
  losesToClient: (frame: Record<string, unknown>) => boolean;
  /** What clients have said, oldest first. */
  readonly said: Record<string, unknown>[];
  /** Sockets break without a goodbye. */
  cut(): void;
  /** No socket comes through any more, or again. */
  refuses: boolean;
  stop(): Promise<void>;
}

export async function startProxy(target: string): Promise<Proxy> {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "rollcall.v1" });
  await once(server, "listening");
  const pairs = new Set<[WebSocket, WebSocket]>();
  const proxy: Proxy = {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    target,
    losesToClient: () => false,
    said: [],
    refuses: false,
    cut: () => pairs.forEach((pair) => pair.forEach((socket) => socket.terminate())),
    stop: async () => {
      proxy.cut();
      server.close();
      await once(server, "close");
    },
  };
  server.on("connection", (client) => {
    if (proxy.refuses) return client.terminate();
    const upstream = new WebSocket(`${proxy.target.replace(/^http/, "ws")}/v1/ws`, "rollcall.v1");
    const pair: [WebSocket, WebSocket] = [client, upstream];
    pairs.add(pair);
    const early: string[] = [];
    client.on("message", (data) => {
      proxy.said.push(JSON.parse(String(data)) as Record<string, unknown>);
      if (upstream.readyState === WebSocket.OPEN) upstream.send(String(data));
      else early.push(String(data));
    });
    upstream.on("open", () => early.forEach((text) => upstream.send(text)));
    upstream.on("message", (data) => {
      if (!proxy.losesToClient(JSON.parse(String(data)) as Record<string, unknown>)) client.send(String(data));
    });
    const ends = (other: WebSocket) => (code: number) => {
      pairs.delete(pair);
      if (code === 1005 || code === 1006) other.terminate();
      else other.close(code);
    };
    client.on("close", ends(upstream));
    upstream.on("close", ends(client));
    for (const socket of pair) socket.on("error", () => {});
  });
  return proxy;
}

/** Asks until the answer is the expected one, and says the last answer when it never was. */
export async function eventually(what: string, ask: () => unknown, expected: unknown): Promise<void> {
  const deadline = Date.now() + TRUTH_MS;
  const wanted = JSON.stringify(expected);
  let last: string | undefined;
  do {
    last = JSON.stringify(await ask());
    if (last === wanted) return;
    await pause(20);
  } while (Date.now() < deadline);
  throw new Error(`${what}: expected ${wanted}, at last ${last}`);
}
