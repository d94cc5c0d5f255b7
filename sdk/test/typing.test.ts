// The sentence of who types.

import assert from "node:assert/strict";
import { test } from "node:test";

import { typingSentence } from "@rollcall/client/typing";

test("one and two are named, more are counted, and nobody is nothing", () => {
  assert.equal(typingSentence([]), "");
  assert.equal(typingSentence(["Ann"]), "Ann is typing…");
  assert.equal(typingSentence(["Ann", "Ben"]), "Ann and Ben are typing…");
  assert.equal(typingSentence(["Ann", "Ben", "Kim"]), "3 people are typing…");
  assert.equal(typingSentence(new Set(["a", "b", "c", "d"])), "4 people are typing…");
});

test("whoever reads it is left out, and nobody is counted twice", () => {
  assert.equal(typingSentence(["ann", "ben"], { except: "ann" }), "ben is typing…");
  assert.equal(typingSentence(["ann"], { except: "ann" }), "");
  assert.equal(typingSentence(["ben", "ben"], { except: null }), "ben is typing…");
});

test("users have the names that an app gives them, and the words may be of another language", () => {
  const names = new Map([["u1", "Ann"], ["u2", "Ben"]]);
  const name = (user: string) => names.get(user) ?? "Jemand";
  const words = {
    one: (who: string) => `${who} schreibt …`,
    two: (first: string, second: string) => `${first} und ${second} schreiben …`,
    many: (count: number) => `${count} Personen schreiben …`,
  };
  assert.equal(typingSentence(["u1"], { name, words }), "Ann schreibt …");
  assert.equal(typingSentence(["u1", "u3"], { name, words }), "Ann und Jemand schreiben …");
  assert.equal(typingSentence(["u1", "u2", "u3"], { name, words }), "3 Personen schreiben …");
});

test("a name is text, whatever it looks like", () => {
  assert.equal(typingSentence(["<b>", "__proto__"]), "<b> and __proto__ are typing…");
  assert.equal(typingSentence(["$&", "constructor"]), "$& and constructor are typing…");
});
