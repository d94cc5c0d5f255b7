// The same components with the oldest Vue that the composables are for.

import assert from "node:assert/strict";
import { test } from "node:test";

import { alias } from "./alias.js";

alias({ vue: "vue34" });

// Its tests are declared before those here are carried out.
await import("./vue.test.js");

test("it is Vue 3.4", async () => {
  const { version } = await import("vue");
  assert.match(version, /^3\.4\./);
});
