// The code in the manuals, as a reader would take it from there.

import { readFileSync } from "node:fs";

import { ROOT } from "./program.js";

/** The blocks of a manual: in which language, under which headline, as which file, and the code itself. */
export function blocksOf(path) {
  const blocks = [];
  let headline = "";
  let block;
  for (const [place, line] of readFileSync(`${ROOT}${path}`, "utf8").split("\n").entries()) {
    const fence = /^```(\w*) ?(\S*)$/.exec(line);
    if (block && line === "```") block = undefined;
    else if (!block && fence) blocks.push((block = { language: fence[1], file: fence[2], headline, place: `${path}:${place + 1}`, code: "" }));
    else if (block) block.code += `${line}\n`;
    else if (/^#+ /.test(line)) headline = line.replace(/^#+ /, "");
  }
  return blocks;
}

/** Code with other addresses in it than those that the manual has. */
export const moved = (code, addresses) => Object.entries(addresses).reduce((text, [from, to]) => text.replaceAll(from, to), code);
