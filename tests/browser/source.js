// The client in one file, as a page gets it.

import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const SDK = fileURLToPath(new URL("../../sdk/", import.meta.url));
const { build } = createRequire(`${SDK}package.json`)("esbuild");
let source;

export async function clientSource() {
  source ??= build({ entryPoints: [`${SDK}src/index.ts`], bundle: true, minify: true, write: false, format: "esm", target: "es2022", logLevel: "silent" });
  return (await source).outputFiles[0].text;
}
