// The playground: one connection that watches the channel without being in it, and three people to switch on and off.
//
// What is shown comes from the frames alone; that somebody here has been switched on changes nothing until the server says so.

import { Rollcall, RollcallError, type Channel, type Json } from "../../sdk/src/index.js";
import { switchColours } from "./colours.js";
import { byId, write } from "./dom.js";
import { Log } from "./log.js";
import { MemberList } from "./members.js";
import { Network, type Direction } from "./network.js";
import { Person, type Stage, tokenCommand } from "./person.js";
import { changeKind, changeWords, count, reasonWords, signalWords, typingWords } from "./words.js";

const FIRST_CHANNEL = "room:lobby";
const FORGET_SIGNAL_MS = 4000;

/** A frame of the watched channel that the client has not told of yet. */
interface Pending {
  readonly text: string;
  readonly event: string;
  readonly epoch: string;
  readonly version?: number;
  readonly from?: number;
  readonly to?: number;
  readonly cause?: string;
}

const here = new URL(".", location.href);
const url = new URL("v1/ws", here).href.replace(/^http/, "ws");
const log = new Log();
const list = new MemberList("Nobody yet. Switch somebody on.");

let channelName = channelFromAddress();
let watched: Channel<Json> | undefined;
let pending: Pending | undefined;
let reached: { epoch: string; version: number } | undefined;
let refusal = "";
let signalTimer: ReturnType<typeof setTimeout> | undefined;

function channelFromAddress(): string {
  try {
    return decodeURIComponent(location.hash.slice(1)) || FIRST_CHANNEL;
  } catch {
    return location.hash.slice(1);
  }
}

/** A name in an address: only what must be is encoded, so that `room:lobby` can be read. */
function inAddress(name: string): string {
  return encodeURIComponent(wellFormed(name)).replaceAll("%3A", ":");
}

/** Half a surrogate pair cannot be encoded. */
function wellFormed(name: string): string {
  return name.replace(/\p{Surrogate}/gu, "\ufffd");
}

// Tokens: from the development route, or pasted. They live in this page's memory only.

async function token(name: string | undefined, pasted: string): Promise<string> {
  if (pasted) return pasted;
  const address = new URL("dev/token", here);
  if (name !== undefined) address.searchParams.set("user", name);
  const response = await fetch(address, { cache: "no-store", headers: { accept: "application/json" } });
  if (response.ok) {
    byId("over-rest").hidden = false;
    return ((await response.json()) as { token: string }).token;
  }
  if (response.status === 404) {
    byId("tokens").hidden = false;
    for (const person of everybody) person.wantToken();
    throw new RollcallError("unauthorized", name === undefined ? "needs a token" : "Needs a token: paste one above, then switch on.");
  }
  const problem = (await response.json().catch(() => ({}))) as { detail?: string; title?: string };
  const words = problem.detail || problem.title || `no token: status ${response.status}`;
  throw response.status < 500 && response.status !== 429 ? new RollcallError("unauthorized", words) : new Error(words);
}

// The watcher.

const watcher = new Rollcall({
  url,
  token: () => token(undefined, byId<HTMLInputElement>("watch-token").value.trim()),
  device: "page",
  present: false,
  share: false,
  WebSocket: new Network(passes).WebSocket,
  connect: false,
});
watcher.on("state", drawWatcher);

/** Every frame of the watcher's, before the client reads it. */
function passes(direction: Direction, text: string): void {
  log.frame("this page", direction, text);
  let frame: Partial<Pending> & { op?: string; channel?: string; since?: unknown; after_ms?: number };
  try {
    frame = JSON.parse(text) as typeof frame;
  } catch {
    return log.note(undefined, "a frame that is not JSON was passed over");
  }
  if (direction === "out") {
    // The client asks for the whole although it was told a change: that change did not follow what it knew.
    if (frame.op === "watch" && frame.channel === channelName && !frame.since && pending?.event === "delta") {
      log.note(undefined, `something was missed: version ${pending.from} does not follow ${reached?.version}. Watching again.`);
      pending = undefined;
    }
  } else if (frame.event === "snapshot" || frame.event === "delta") {
    if (frame.channel === channelName) pending = { ...(frame as Pending), text };
  } else if (frame.event === "reconnect") {
    log.note(undefined, `the server restarts and asks to come back after ${frame.after_ms} ms`);
  } else if (frame.event !== undefined && frame.event !== "signal" && frame.event !== "typing") {
    log.event("event", frame.event, "", text);
  }
}

function watch(): void {
  watched?.close();
  [pending, reached, refusal] = [undefined, undefined, ""];
  const channel = watcher.channel<Json>(channelName);
  watched = channel;
  channel.on("change", (change) => {
    const frame = pending;
    pending = undefined;
    if (!frame) return;
    if (frame.event === "delta") log.event(changeKind(change), changeWords(change), `${frame.from} → ${frame.to}`, frame.text);
    else log.event("snapshot", snapshotWords(channel, frame.cause), String(frame.version), frame.text);
    reached = { epoch: frame.epoch, version: (frame.event === "delta" ? frame.to : frame.version) ?? 0 };
    draw();
  });
  channel.on("snapshot", () => {
    draw();
    drawWatcher();
  });
  channel.on("signal", ({ user, data }) => {
    const words = signalWords(user, data);
    log.event("signal", words);
    list.wave(user);
    say(words);
  });
  channel.on("error", (error) => {
    refusal = reasonWords(error);
    log.note(undefined, `cannot watch ${channelName}: ${refusal}`);
    drawWatcher();
  });
  draw();
  drawWatcher();
}

function snapshotWords({ occupancy, mode }: Channel<Json>, cause: string | undefined): string {
  const isList = mode === "occupancy" ? ", too many for a list" : "";
  return `${count(occupancy.users, "person", "people")} here${isList}${cause ? `, because: ${cause}` : ""}`;
}

/** What was said last, for a moment. */
function say(words: string): void {
  clearTimeout(signalTimer);
  write(byId("said"), words);
  signalTimer = setTimeout(() => write(byId("said"), ""), FORGET_SIGNAL_MS);
}

function draw(): void {
  const typing = watched?.getSnapshot().typing ?? [];
  list.draw(reached && watched, reached, typing);
  write(byId("typing"), typingWords(typing));
}

function drawWatcher(): void {
  const isLive = watcher.state === "open" && Boolean(watched?.isLive);
  let [state, words] = ["connecting", "connecting…"];
  if (isLive) [state, words] = ["open", "live"];
  if (watcher.state === "waiting") [state, words] = ["waiting", "reconnecting…"];
  let reason = "";
  if (watcher.state === "ended") [state, words, reason] = ["ended", "ended", reasonWords(watcher.error)];
  if (watcher.state === "open" && refusal) [state, words, reason] = ["ended", "refused", refusal];
  byId("live").dataset.state = state;
  write(byId("live-text"), words);
  write(byId("refusal"), reason);
  byId("refusal").hidden = reason === "";
  byId("members").classList.toggle("stale", !isLive);
}

// The people.

const stage: Stage = {
  url,
  channel: () => channelName,
  token,
  note: (who, text) => log.note(who, text),
  frame: (who, direction, text) => log.frame(who, direction, text),
};
byId("token-command").textContent = tokenCommand("watcher");
const everybody = ["Ann", "Ben", "Zoe"].map((name) => new Person(byId("people"), name, stage));

// The channel.

function show(): void {
  document.title = `${channelName} · Rollcall`;
  byId<HTMLInputElement>("channel").value = channelName;
  byId<HTMLAnchorElement>("another-tab").href = `#${inAddress(channelName)}`;
  byId<HTMLAnchorElement>("over-rest").href = new URL(`v1/channels/${encodeURIComponent(wellFormed(channelName))}/members`, here).href;
}

function change(next: string): void {
  if (!next || next === channelName) return;
  channelName = next;
  history.replaceState(null, "", `#${inAddress(channelName)}`);
  show();
  watch();
  for (const person of everybody) person.move();
}

byId("channel-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change(byId<HTMLInputElement>("channel").value.trim());
});
byId("watch-token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // One that is connected, with a token that does not allow enough, would stay as it is.
  watcher.close();
  watcher.connect();
  watch();
});
addEventListener("hashchange", () => change(channelFromAddress()));
switchColours(byId("colours"));

show();
watcher.connect();
watch();
