// The dashboard: what an app server may ask over REST, seen by people. It asks sparingly, and not at all while nobody looks.

import { Channels } from "./channels.js";
import { Chart, round } from "./chart.js";
import { switchColours } from "./colours.js";
import { byId, part, write } from "./dom.js";
import { Instances, type Instance } from "./instances.js";
import { Kick } from "./kick.js";
import { PeopleView } from "./people.js";
import { Rate } from "./rate.js";
import { Problem, Rest } from "./rest.js";
import { RoomView } from "./room.js";

/** How often is asked, milliseconds. */
const EVERY_MS = 2000;
/** Whom a search has found is asked for again at every so many of these times. */
const SEARCH_EVERY = 5;

interface Stats {
  readonly users: number;
  readonly connections: number;
  readonly channels: number;
  readonly joins?: number;
  readonly leaves?: number;
  readonly instances: readonly Instance[];
}

const rest = new Rest(new URL(".", location.href));
const instances = new Instances();
const channels = new Channels(rest, (channel) => room.show(channel));
const kick = new Kick(rest, (words) => {
  write(byId("done"), words);
  void people.ask();
});
const people = new PeopleView(rest, kick, (channel) => room.show(channel));
const room = new RoomView(rest, { kick, showUser: (user) => people.show(user) }, (channel) => channels.mark(channel));

const [joins, leaves] = [new Rate(), new Rate()];
const charts = {
  connections: new Chart(byId("tile-connections"), ["Connections"], ""),
  users: new Chart(byId("tile-users"), ["Users"], ""),
  channels: new Chart(byId("tile-channels"), ["Channels"], ""),
  moves: new Chart(byId("tile-moves"), ["Joins", "Leaves"], " a second"),
};

let timer: ReturnType<typeof setTimeout> | undefined;
// Whoever has another key, or comes back to the page, begins a turn of their own.
let turn = 0;
let isFirst = true;
let answers = 0;

async function ask(): Promise<void> {
  const mine = ++turn;
  clearTimeout(timer);
  try {
    const stats = await rest.get<Stats>("v1/stats");
    if (mine !== turn) return;
    draw(stats);
    // One after the other: none of it is urgent.
    const isStale = await channels.ask();
    if (mine !== turn) return;
    await people.ask();
    if (mine !== turn) return;
    if (isFirst) begin();
    else if (++answers % SEARCH_EVERY === 0) await people.search();
    if (mine !== turn) return;
    if (isStale) say("waiting", "stale", "The store of presence is away or settles: lists show what was known last.");
    else say("open", "live", "");
  } catch (error) {
    if (mine !== turn) return;
    failed(error as Problem);
    // Another key has to come first.
    const { status } = error as Problem;
    if (status === 401 || status === 403) return;
  }
  if (document.visibilityState === "visible") timer = setTimeout(() => void ask(), EVERY_MS);
}

/** The first answer came: the rest of the page has something to ask too. */
function begin(): void {
  isFirst = false;
  byId("key-section").hidden = true;
  void people.search();
  room.resume();
}

function draw(stats: Stats): void {
  const at = performance.now();
  const [inRate, outRate] = [joins.take(stats.joins, at), leaves.take(stats.leaves, at)];
  const number = (tile: string, value: number) => write(part(byId(tile), ".number"), value.toLocaleString("en"));
  number("tile-connections", stats.connections);
  number("tile-users", stats.users);
  number("tile-channels", stats.channels);
  write(byId("joins-rate"), round(inRate));
  write(byId("leaves-rate"), round(outRate));
  charts.connections.push([stats.connections]);
  charts.users.push([stats.users]);
  charts.channels.push([stats.channels]);
  charts.moves.push([inRate, outRate]);
  instances.draw(stats.instances);
}

/** Charts pause, and go on when there is an answer again. */
function pause(): void {
  joins.forget();
  leaves.forget();
  for (const chart of Object.values(charts)) chart.push([null, null]);
}

function failed(problem: Problem): void {
  pause();
  if (problem.status === 401) {
    const isTyped = rest.key !== "";
    rest.key = "";
    isFirst = true;
    room.pause();
    byId("key-section").hidden = false;
    write(byId("key-problem"), isTyped ? `Not accepted: ${problem.message}.` : "");
    say("ended", "needs a key", "");
    byId("key").focus();
  } else if (problem.status === 403) {
    byId("key-section").hidden = false;
    write(byId("key-problem"), `The key may not: ${problem.message}.`);
    say("ended", "not allowed", "");
  } else {
    say("waiting", problem.status === 0 ? "no answer" : "unavailable", `No numbers just now: ${problem.message}. Trying again; the charts pause meanwhile.`);
  }
}

function say(state: string, words: string, notice: string): void {
  byId("live").dataset.state = state;
  write(byId("live-text"), words);
  write(byId("notice"), notice);
  byId("numbers").classList.toggle("stale", state !== "open");
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId<HTMLInputElement>("key");
  rest.key = field.value.trim();
  // It is in memory now, and need not stand on the page.
  field.value = "";
  void ask();
});
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible") {
    room.resume();
    void ask();
  } else {
    turn += 1;
    clearTimeout(timer);
    room.pause();
    pause();
  }
});
addEventListener("online", () => document.visibilityState === "visible" && void ask());
switchColours(byId("colours"), () => Object.values(charts).forEach((chart) => chart.redraw()));

void ask();
