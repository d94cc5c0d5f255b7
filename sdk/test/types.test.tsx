// What compiles and what does not: `tsc` is the test, and what stands here is never carried out.

import assert from "node:assert/strict";
import { test } from "node:test";

import type { Member, Rollcall, RollcallError, Status, UserView } from "@rollcall/client";
import * as react from "@rollcall/client/react";
import { typingSentence } from "@rollcall/client/typing";
import * as vue from "@rollcall/client/vue";
import type { ComputedRef } from "vue";

interface Mood {
  mood?: "glad" | "calm";
}

/** Compiles where both are the same type. */
function same<Left, Right>(..._: (<T>() => T extends Left ? 1 : 2) extends <T>() => T extends Right ? 1 : 2 ? [] : [never]): void {}

function Hooks({ client }: { client: Rollcall }) {
  const presence = react.usePresence<Mood>("room", { state: { mood: "glad" }, level: "connections" });
  same<typeof presence.onlineUsers, readonly Member<Mood>[]>();
  same<typeof presence.error, RollcallError | undefined>();
  void presence.update({ mood: null });
  // @ts-expect-error such a mood there is not
  void presence.update({ mood: "sad" });
  // @ts-expect-error nor such a field
  void presence.update({ mod: "glad" });
  // @ts-expect-error what is shown is not to be changed
  presence.onlineUsers.push(presence.onlineUsers[0]!);
  // @ts-expect-error a state is what it was said to be
  react.usePresence<Mood>("room", { state: { mood: 1 } });
  // @ts-expect-error whoever counts only uses useOccupancy
  react.usePresence("room", { level: "occupancy" });
  // @ts-expect-error a channel has a name
  react.usePresence(7);
  react.usePresence(null);
  same<ReturnType<typeof react.useMembers<Mood>>["members"], readonly Member<Mood>[]>();
  // @ts-expect-error whoever only watches has no state
  react.useMembers("room", { state: {} });
  same<ReturnType<typeof react.useOccupancy>["users"], number>();
  react.useTyping<Mood>("room", { name: (user, member) => member?.state.mood ?? user });
  // @ts-expect-error a name is text
  react.useTyping("room", { name: () => 1 });
  const one = react.useUserStatus("ben");
  same<typeof one.status, Status | undefined>();
  const many = react.useUserStatus(["ben", "zoe"]);
  same<typeof many.users, ReadonlyMap<string, UserView>>();
  // @ts-expect-error of several each has a status of its own
  void many.status;
  return (
    <>
      <react.RollcallProvider client={client} />
      <react.RollcallProvider token={() => "token"} url="http://there">text</react.RollcallProvider>
      {/* @ts-expect-error a client needs tokens */}
      <react.RollcallProvider url="http://there" />
      {/* @ts-expect-error one or the other */}
      <react.RollcallProvider client={client} token={() => "token"} url="http://there" />
    </>
  );
}

function composables() {
  const presence = vue.usePresence<Mood>(() => "room", { state: { mood: "glad" } });
  same<typeof presence.onlineUsers, ComputedRef<readonly Member<Mood>[]>>();
  void presence.update({ mood: null });
  // @ts-expect-error such a mood there is not
  void presence.update({ mood: "sad" });
  // @ts-expect-error a state is what it was said to be
  vue.usePresence<Mood>("room", { state: { mood: 1 } });
  // @ts-expect-error what is shown is not to be set
  presence.userCount.value = 1;
  const one = vue.useUserStatus(() => "ben");
  same<typeof one.status, ComputedRef<Status | undefined>>();
  const many = vue.useUserStatus(() => ["ben", "zoe"]);
  same<typeof many.users, ComputedRef<ReadonlyMap<string, UserView>>>();
  // @ts-expect-error a client needs tokens
  vue.createRollcall({ url: "http://there" });
  // @ts-expect-error a sentence is made of users
  typingSentence(7);
}

test("the types hold", () => {
  assert.ok([Hooks, composables], "what counts is that it compiles");
});
