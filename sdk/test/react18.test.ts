// The same components with the oldest React that the hooks are for.

import assert from "node:assert/strict";
import Module, { register } from "node:module";
import { test } from "node:test";

// It is installed beside the newest under other names, which whoever asks for React is given: modules of both kinds.
const older = (name: string) => name.replace(/^(react|react-dom)(?=$|\/)/, "$1-18");
const loader = `export const resolve = (name, context, next) => next(name.replace(/^(react|react-dom)(?=$|\\/)/, "$1-18"), context);`;
register(`data:text/javascript,${encodeURIComponent(loader)}`);
const legacy = Module as unknown as { _resolveFilename(name: string, ...rest: unknown[]): string };
const resolve = legacy._resolveFilename;
legacy._resolveFilename = (name, ...rest) => resolve.call(legacy, older(name), ...rest);

// Its tests are declared before those here are carried out.
await import("./react.test.js");

test("it is React 18", async () => {
  const { version } = await import("react");
  const { version: ofDom } = await import("react-dom");
  assert.match(`${version} ${ofDom}`, /^18\.\S+ 18\.\S+$/);
});
