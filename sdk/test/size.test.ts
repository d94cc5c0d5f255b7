// What a page loads.

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { test } from "node:test";

import type { RollcallOptions } from "@rollcall/client";
import { build } from "esbuild";

const KB = 1000;

/** The compressed sizes of an entry with all that it loads at once, but for what is `external`, and of what it loads when it is needed. */
async function sizes(entry: string, external: string[] = []): Promise<{ core: number; later: number }> {
  const result = await build({
    entryPoints: [fileURLToPath(new URL(`../dist/${entry}.js`, import.meta.url))],
    bundle: true,
    minify: true,
    splitting: true,
    external,
    write: false,
    metafile: true,
    outdir: "out",
    format: "esm",
    target: "es2022",
    logLevel: "silent",
  });
  const sizeOf = (path: string) => gzipSync(result.outputFiles.find((file) => file.path.endsWith(path))?.contents ?? "", { level: 9 }).length;
  const outputs = result.metafile.outputs;
  const first = Object.keys(outputs).find((path) => outputs[path]?.entryPoint?.endsWith(`${entry}.js`)) ?? "";
  const atOnce = new Set<string>();
  const load = (path: string) => {
    if (atOnce.has(path)) return;
    atOnce.add(path);
    for (const { path: next, kind } of outputs[path]?.imports ?? []) if (kind === "import-statement") load(next);
  };
  load(first);
  const sum = (paths: Iterable<string>) => [...paths].reduce((bytes, path) => bytes + sizeOf(path.replace(/^out\//, "")), 0);
  return { core: sum(atOnce), later: sum(Object.keys(outputs).filter((path) => !atOnce.has(path))) };
}

test("the core is less than 10 kB compressed, and what tabs that share a connection load beside it less than 4", async () => {
  const { core, later } = await sizes("index");
  assert.ok(core > 5 * KB && core < 10 * KB, `${core} bytes`);
  assert.ok(later > 1 * KB && later < 4 * KB, `${later} bytes`);
});

test("what is beside the core is small: hooks and composables without their framework, styles, and a sentence", async () => {
  const beside = async (entry: string, ...external: string[]) => (await sizes(entry, ["./client.js", ...external])).core;
  const of = { react: await beside("react", "react"), vue: await beside("vue", "vue"), topics: await beside("topics"), typing: await beside("typing") };
  assert.ok(of.react > 2 * KB && of.react < 4.7 * KB, `${of.react} bytes`);
  assert.ok(of.vue > 2 * KB && of.vue < 4.9 * KB, `${of.vue} bytes`);
  assert.ok(of.topics > 0.5 * KB && of.topics < 1.5 * KB, `${of.topics} bytes`);
  assert.ok(of.typing > 0.1 * KB && of.typing < 0.4 * KB, `${of.typing} bytes`);
});

test("it is made of nothing but itself", async () => {
  const { readFile } = await import("node:fs/promises");
  const shipped = JSON.parse(await readFile(new URL("../package.json", import.meta.url), "utf8")) as Record<string, unknown>;
  assert.equal(shipped.dependencies, undefined);
});

test("the browser's WebSocket and that of `ws` are taken as they are", async () => {
  const { WebSocket: Library } = await import("ws");
  const own: RollcallOptions = { token: () => "", WebSocket: globalThis.WebSocket };
  const library: RollcallOptions = { token: () => "", WebSocket: Library };
  assert.ok(own && library, "what counts is that it compiles");
});
