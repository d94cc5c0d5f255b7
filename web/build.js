// Builds what the binary embeds: the two pages, their scripts with the client inside, and the client as one file for pages elsewhere.
// What comes out depends on the sources and on the locked packages alone, so that a test can build again and compare.

import { cp, mkdir, readFile } from "node:fs/promises";
import { fileURLToPath, pathToFileURL } from "node:url";

import esbuild from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));

/** Copied as they are. */
const PLAIN = ["index.html", "dashboard.html", "logo.svg"];

/** Builds into `folder`. */
export async function build(folder) {
  await mkdir(folder, { recursive: true });
  // Its own files do not carry it in a form that a bundler keeps.
  const licence = await readFile(here("node_modules/uplot/LICENSE"), "utf8");
  const common = {
    absWorkingDir: here("."),
    outdir: folder,
    bundle: true,
    minify: true,
    charset: "utf8",
    target: "es2022",
    legalComments: "eof",
    logLevel: "warning",
  };
  await Promise.all([
    esbuild.build({ ...common, entryPoints: ["src/playground.ts", "src/client.ts"], format: "esm" }),
    esbuild.build({ ...common, entryPoints: ["src/dashboard.ts"], format: "esm", banner: { js: `/*! uPlot\n\n${licence}*/` } }),
    // Before the page is painted, which a module would be too late for.
    esbuild.build({ ...common, entryPoints: ["src/theme.ts"], format: "iife" }),
    // Colours are written for both schemes at once; that stays as it is.
    esbuild.build({ ...common, entryPoints: ["src/style.css", "src/dashboard.css"], target: "esnext" }),
    ...PLAIN.map((name) => cp(here(`src/${name}`), `${folder}/${name}`)),
  ]);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) await build(here("dist"));
