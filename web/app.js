// The page: one connection that watches the channel without being in it, and three people to switch on and off.
//
// What is shown comes from snapshot and delta frames alone; that somebody here has been switched on changes nothing
// until the server says so.

import { Link, NoToken, fullJitter } from "./link.js";
import { Person } from "./person.js";
import { Roster } from "./roster.js";
import { Log, MemberList } from "./view.js";

const FIRST_CHANNEL = "room:lobby";

const byId = (id) => document.getElementById(id);
const here = new URL(".", location.href);
const socketUrl = new URL("v1/ws", here);
socketUrl.protocol = here.protocol === "https:" ? "wss:" : "ws:";

const log = new Log();
const list = new MemberList();
let channel = channelFromAddress();
let roster = new Roster();
let gaps = 0;
let asking = 0; // which watch is the latest: answers to earlier ones are passed over
let refusal = "";
let clock = 0;

function channelFromAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1)) || FIRST_CHANNEL;
  } catch {
    return location.hash.slice(1);
  }
}

/** A name in an address: only what must be is encoded, so that `room:lobby` can be read. */
function inAddress(name) {
  return encodeURIComponent(name.toWellFormed?.() ?? name).replaceAll("%3A", ":");
}

// Tokens: from the development route, or pasted. They live in this page's memory only.

async function token(name, pasted) {
  if (pasted) return pasted;
  const url = new URL("dev/token", here);
  if (name !== null) url.searchParams.set("user", name);
  const response = await fetch(url, { cache: "no-store", headers: { accept: "application/json" } });
  if (response.ok) {
    byId("over-rest").hidden = false;
    return (await response.json()).token;
  }
  if (response.status === 404) {
    byId("tokens").hidden = false;
    for (const person of everybody) person.wantToken();
    throw new NoToken(name === null ? "needs a token" : "Needs a token: paste one above, then switch on.");
  }
  const problem = await response.json().catch(() => ({}));
  const words = problem.detail || problem.title || `no token: status ${response.status}`;
  throw response.status < 500 && response.status !== 429 ? new NoToken(words) : new Error(words);
}

// The watcher.

const watcher = new Link({
  url: socketUrl,
  token: () => token(null, byId("watch-token").value.trim()),
  hello: { present: false, device: "page" },
  resumes: false,
  onState: drawWatcher,
  onWelcome: () => watch(roster.since),
  onEvent: take,
  onNote: (text) => log.note(null, text),
});

async function watch(since) {
  const turn = ++asking;
  const name = channel;
  if (!since) roster.expectSnapshot();
  refusal = "";
  try {
    await watcher.ask({ op: "watch", channel: name, level: "users", ...(since && { since }) });
  } catch (error) {
    if (turn !== asking || watcher.state !== "open") return;
    refusal = error.message;
    log.note(null, `cannot watch ${name}: ${error.message}`);
    if (error.retryAfterMs) setTimeout(() => turn === asking && watch(since), error.retryAfterMs * (1 + Math.random()));
  }
  drawWatcher();
}

function take(frame, text) {
  if (frame.event !== "snapshot" && frame.event !== "delta") return log.frame(frame, text);
  if (frame.channel !== channel) return;
  const before = new Map((frame.update ?? []).map(({ user }) => [user, roster.members.get(user)]));
  const meaning = roster.take(frame);
  if (meaning === "waiting" || meaning === "known") return;
  log.frame(frame, text, before);
  if (meaning === "gap") {
    log.note(null, `something was missed: version ${frame.from} does not follow ${roster.version}. Watching again.`);
    roster.expectSnapshot();
    // The first time at once; should it go on, ever more slowly.
    const turn = ++asking;
    const wait = gaps === 0 ? 0 : fullJitter(gaps);
    gaps += 1;
    setTimeout(() => turn === asking && watch(), wait);
    return;
  }
  if (meaning === "delta") gaps = 0;
  list.draw(roster);
}

function drawWatcher() {
  clearInterval(clock);
  let state = watcher.state;
  let words = "live";
  if (state === "connecting") words = "connecting…";
  if (state === "ended") words = watcher.reason;
  if (state === "open" && refusal) [state, words] = ["ended", refusal];
  if (state === "waiting") {
    words = `reconnecting in ${(Math.max(0, watcher.retryAt - performance.now()) / 1000).toFixed(0)} s`;
    clock = setInterval(drawWatcher, 500);
  }
  byId("live").dataset.state = state;
  if (byId("live-text").textContent !== words) byId("live-text").textContent = words;
  byId("members").classList.toggle("stale", state !== "open");
}

// The people.

const page = { url: socketUrl, channel: () => channel, token, note: (who, text) => log.note(who, text) };
const everybody = ["Ann", "Ben", "Zoe"].map((name) => new Person(byId("people"), name, page));

// The channel.

function show() {
  document.title = `${channel} · Rollcall`;
  byId("channel").value = channel;
  byId("another-tab").href = `#${inAddress(channel)}`;
  byId("over-rest").href = new URL(`v1/channels/${encodeURIComponent(channel.toWellFormed?.() ?? channel)}/members`, here);
  list.draw(roster);
}

function change(next) {
  if (!next || next === channel) return;
  const last = channel;
  channel = next;
  roster = new Roster();
  gaps = 0;
  history.replaceState(null, "", `#${inAddress(channel)}`);
  show();
  if (watcher.state === "open") {
    watcher.ask({ op: "unwatch", channel: last }).catch(() => {});
    watch();
  }
  for (const person of everybody) person.move(last, channel);
}

byId("channel-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change(byId("channel").value.trim());
});
byId("watch-token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  watcher.start();
});
byId("clear").addEventListener("click", () => log.clear());
addEventListener("hashchange", () => change(channelFromAddress()));
addEventListener("online", () => watcher.hurry());
addEventListener("pagehide", () => {
  for (const person of everybody) person.leave();
  watcher.leave();
});
// Taken out of the browser's back-forward cache: everybody has said goodbye, only the watcher comes back.
addEventListener("pageshow", (event) => event.persisted && watcher.start());

show();
watcher.start();
