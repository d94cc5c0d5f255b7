// The same components with the oldest React that the hooks are for.

import assert from "node:assert/strict";
import { test } from "node:test";

import { alias } from "./alias.js";

alias({ react: "react-18", "react-dom": "react-dom-18" });

// Its tests are declared before those here are carried out.
await import("./react.test.js");

test("it is React 18", async () => {
  const { version } = await import("react");
  const { version: ofDom } = await import("react-dom");
  assert.match(`${version} ${ofDom}`, /^18\.\S+ 18\.\S+$/);
});
