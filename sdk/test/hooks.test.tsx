// The hooks and composables against a real server: what others see of a component that comes, changes and goes.

import "./dom.js";

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import { Rollcall, type RollcallOptions, type Room } from "@rollcall/client";
import * as react from "@rollcall/client/react";
import * as vue from "@rollcall/client/vue";
import { act, cleanup, render } from "@testing-library/react";
import { enableAutoUnmount, mount } from "@vue/test-utils";
import { StrictMode } from "react";
import { defineComponent, h, nextTick, ref } from "vue";

import { eventually, startProxy, startServer, token, type Running } from "./server.js";

const LIMIT = { timeout: 60_000 };
let server: Running;
let names = 0;
const open: Rollcall[] = [];

before(async () => (server = await startServer({ PRESENCE__GRACE_MS: "5000" })), LIMIT);
afterEach(() => cleanup());
enableAutoUnmount(afterEach);
after(async () => {
  for (const client of open) client.close();
  await server.stop();
}, LIMIT);

const fresh = () => `room:${process.pid}-${++names}`;

function connect(user: string | null, options: Partial<RollcallOptions> = {}): Rollcall {
  const client = new Rollcall({ url: server.address, token: () => token(user), share: false, ...options });
  open.push(client);
  return client;
}

/** Somebody who watches a channel, and what that one is told. */
async function onlooker(channel: string) {
  const watched = connect(null).channel<{ name?: string }>(channel);
  const told: string[] = [];
  watched.on("join", ({ user }) => told.push(`join ${user}`));
  watched.on("update", ({ user, state }) => told.push(`update ${user} ${state.name}`));
  watched.on("leave", ({ user, reason }) => told.push(`leave ${user} ${reason}`));
  await watched.ready;
  /** Nothing that was under way is left: somebody else comes and goes, and is seen last. */
  const settled = async () => {
    const last = connect(`last-${++names}`).join(channel);
    await last.ready;
    await last.leave();
    await eventually("the last one is seen", () => told.slice(-2).map((line) => line.includes("last-")), [true, true]);
    return told.filter((line) => !line.includes("last-"));
  };
  return { watched, told, settled };
}

/** As `eventually`, and between the questions React carries out what came. */
const eventuallyShown: typeof eventually = (what, ask, expected) => {
  const shown = async () => {
    await act(() => pause(20));
    return ask();
  };
  return eventually(what, shown, expected);
};

function People({ channel, name }: { channel: string; name: string }) {
  const { onlineUsers, isLoading } = react.usePresence<{ name: string }>(channel, { state: { name } });
  return <p>{isLoading ? "loading" : onlineUsers.map(({ state }) => state.name).join()}</p>;
}

test("React: in StrictMode, with renders, a remount and a change of state, others see one join, one update and one leave", LIMIT, async () => {
  const channel = fresh();
  const { told, settled } = await onlooker(channel);
  const client = connect("ann");
  const app = (key: number, name: string) => (
    <StrictMode>
      <react.RollcallProvider client={client}>
        <People key={key} channel={channel} name={name} />
      </react.RollcallProvider>
    </StrictMode>
  );
  const { container, rerender, unmount } = render(app(1, "Ann"));
  await eventuallyShown("ann is shown", () => container.textContent, "Ann");
  rerender(app(1, "Ann"));
  rerender(app(2, "Ann"));
  assert.equal(container.textContent, "Ann");
  rerender(app(2, "Anne"));
  await eventuallyShown("anne is shown", () => container.textContent, "Anne");
  assert.deepEqual(await act(settled), ["join ann", "update ann Anne"]);
  unmount();
  await eventually("ann has left", () => told.at(-1), "leave ann left");
  client.close();
});

test("React: two people see each other, one types and goes on to another room, and a break is not seen", LIMIT, async () => {
  const [first, second] = [fresh(), fresh()];
  const proxy = await startProxy(server.address);
  try {
    const { settled } = await onlooker(first);
    let start!: () => void;
    function Page({ channel, name }: { channel: string; name: string }) {
      const typing = react.useTyping(channel);
      const { state } = react.useConnectionState();
      if (name === "Ben") ({ start } = typing);
      return <section>{typing.sentence}<b>{state}</b><People channel={channel} name={name} /></section>;
    }
    const app = (client: Rollcall, channel: string, name: string) => <react.RollcallProvider client={client}><Page channel={channel} name={name} /></react.RollcallProvider>;
    const [annClient, benClient] = [connect("ann"), connect("<img/src=x/onerror=alert(1)>", { url: proxy.address })];
    const ann = render(app(annClient, first, "Ann"));
    await eventuallyShown("ann is there", () => ann.container.textContent, "openAnn");
    const ben = render(app(benClient, first, "Ben"));
    await eventuallyShown("each sees the other", () => [ann, ben].map(({ container }) => container.textContent), ["openAnn,Ben", "openAnn,Ben"]);
    act(() => start());
    await eventuallyShown("he types", () => ann.container.textContent, "<img/src=x/onerror=alert(1)> is typing…openAnn,Ben");
    proxy.refuses = true;
    act(() => proxy.cut());
    await eventuallyShown("he types no more", () => ann.container.textContent, "openAnn,Ben");
    await eventuallyShown("the break is shown to him", () => ben.container.querySelector("b")?.textContent !== "open", true);
    proxy.refuses = false;
    await eventuallyShown("he is back", () => ben.container.textContent, "openAnn,Ben");
    assert.deepEqual(await act(settled), ["join ann", "join <img/src=x/onerror=alert(1)>"]);
    ben.rerender(app(benClient, second, "Ben"));
    await eventuallyShown("he has gone on", () => [ann, ben].map(({ container }) => container.textContent), ["openAnn", "openBen"]);
    assert.equal(ann.container.querySelector("img"), null);
    cleanup();
    for (const client of [annClient, benClient]) client.close();
  } finally {
    await proxy.stop();
  }
});

test("React: how somebody is, is shown as it changes, and a refusal says what is missing", LIMIT, async () => {
  const user = `user-${process.pid}`;
  const watcher = connect("watcher", { token: () => token("watcher", { can: { users: [user] } }) });
  function Friend({ name }: { name: string }) {
    const { status, isOnline, isLoading, error, view } = react.useUserStatus(name);
    return <p>{error?.code ?? (isLoading ? "…" : `${status} ${isOnline} ${view?.text ?? ""}`)}</p>;
  }
  const { container } = render(<react.RollcallProvider client={watcher}><Friend name={user} /><Friend name="stranger" /></react.RollcallProvider>);
  await eventuallyShown("he is not there", () => container.textContent, "offline false forbidden");
  const there = connect(user);
  await act(() => there.setStatus("busy", { text: "in a call" }));
  await eventuallyShown("he is busy", () => container.textContent, "busy true in a callforbidden");
  act(() => there.close());
  await eventuallyShown("he has gone", () => container.textContent?.startsWith("offline false"), true);
});

test("Vue: with a remount, a change of state and of the channel, others see one join, one update and one leave", LIMIT, async () => {
  const channel = fresh();
  const { watched, told, settled } = await onlooker(channel);
  const client = connect("__proto__");
  const [key, name, where] = [ref(1), ref("Ann"), ref(channel)];
  const Page = defineComponent(() => {
    const { onlineUsers } = vue.usePresence<{ name: string }>(where, () => ({ state: { name: name.value } }));
    return () => onlineUsers.value.map(({ user, state }) => `${user} ${state.name}`).join();
  });
  const page = mount({ render: () => h("div", [h(Page, { key: key.value })]) }, { global: { plugins: [vue.createRollcall(client)] } });
  await eventually("ann is shown", () => page.text(), "__proto__ Ann");
  key.value = 2;
  await nextTick();
  assert.equal(page.text(), "__proto__ Ann");
  name.value = "Anne";
  await eventually("anne is seen", () => watched.members.get("__proto__")?.state.name, "Anne");
  assert.deepEqual(await settled(), ["join __proto__", "update __proto__ Anne"]);
  const other = fresh();
  where.value = other;
  await eventually("ann has left", () => told.at(-1), "leave __proto__ left");
  await eventually("and is in the other", () => page.text(), "__proto__ Anne");
  const room: Room = connect("zoe").join(other);
  await room.ready;
  page.unmount();
  await eventually("ann has gone", () => [...room.members.keys()], ["zoe"]);
});
