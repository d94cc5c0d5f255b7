// What the binary embeds is what the sources make: nobody changes one without the other.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { build } from "../../web/build.js";

const LIMIT = { timeout: 120_000 };
const web = fileURLToPath(new URL("../../web/", import.meta.url));

async function contents(folder) {
  const names = (await readdir(folder)).sort();
  return new Map(await Promise.all(names.map(async (name) => [name, await readFile(`${folder}/${name}`)])));
}

test("the built files are those of the sources, byte by byte", LIMIT, async () => {
  const folder = await mkdtemp(`${tmpdir()}/rollcall-page-`);
  try {
    await build(folder);
    const [fresh, kept] = [await contents(folder), await contents(`${web}dist`)];
    assert.deepEqual([...kept.keys()], [...fresh.keys()], "web/dist has other files than the sources make: run `make web`, and commit web/dist");
    for (const [name, bytes] of fresh) {
      assert.ok(bytes.equals(kept.get(name)), `web/dist/${name} is not what the sources make: run \`make web\`, and commit web/dist`);
    }
  } finally {
    await rm(folder, { recursive: true });
  }
});

test("the sources have no fault of types", LIMIT, async () => {
  await promisify(execFile)("npm", ["run", "--silent", "check"], { cwd: web }).catch(({ stdout }) => assert.fail(stdout));
});
