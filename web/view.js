// How members and events are drawn. Everything that strangers have written enters by textContent alone.

const ROWS = 200;
const ENTRIES = 200;
const NAMED = 4;

const byId = (id) => document.getElementById(id);
const stamp = (id) => byId(id).content.firstElementChild.cloneNode(true);

/** A letter on a calm colour that is always the same for the same name. */
export function paintAvatar(element, name) {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + character.codePointAt(0)) % 100_003;
  element.textContent = ([...name][0] ?? "?").toUpperCase();
  element.style.setProperty("--hue", String(Math.round(hash * 137.5) % 360));
}

/** `1 person`, `2 people`. */
export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

function clip(text, length) {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

/** A state in a few words: the mood that this page sets, else the JSON that somebody else has set. */
function stateWords(state) {
  if (state === null || typeof state !== "object" || Object.keys(state).length === 0) return "";
  return clip(typeof state.mood === "string" ? state.mood : JSON.stringify(state), 60);
}

/** The member list: one row per user, kept while the user stays, so that only what changed is read out. */
export class MemberList {
  #rows = new Map();
  #list = byId("members");

  draw(roster) {
    const shown = [...roster.members.values()].slice(0, ROWS);
    const staying = new Set(shown.map((member) => member.user));
    for (const [user, row] of this.#rows) {
      if (staying.has(user)) continue;
      row.remove();
      this.#rows.delete(user);
    }
    shown.forEach((member, place) => {
      const row = this.#rows.get(member.user) ?? this.#add(member.user);
      if (this.#list.children[place] !== row) this.#list.insertBefore(row, this.#list.children[place] ?? null);
      this.#fill(row, member);
    });
    const { users, connections } = roster.occupancy;
    const known = roster.epoch !== null;
    byId("users").textContent = known ? users : "–";
    byId("users-word").textContent = users === 1 ? "person" : "people";
    byId("connections").textContent = known ? connections : "–";
    byId("connections-word").textContent = connections === 1 ? "connection" : "connections";
    byId("empty").hidden = roster.members.size > 0;
    byId("empty").textContent = emptyWords(known, roster.isTooLarge);
    byId("more").hidden = roster.members.size <= ROWS;
    byId("more").textContent = `and ${roster.members.size - ROWS} more`;
    byId("version").textContent =
      known ? `version ${roster.version} of epoch ${clip(String(roster.epoch), 24)}` : "no version yet";
  }

  #add(user) {
    const row = stamp("member-template");
    paintAvatar(row.querySelector(".avatar"), user);
    row.querySelector(".who-name").textContent = user;
    this.#rows.set(user, row);
    return row;
  }

  #fill(row, member) {
    const set = (selector, text) => {
      const element = row.querySelector(selector);
      if (element.textContent !== text) element.textContent = text;
      element.hidden = text === "";
    };
    const status = member.status && member.status !== "online" ? member.status : "";
    set(".who-state", [status, stateWords(member.state)].filter(Boolean).join(" · "));
    set(".devices", member.connections > 1 ? `${member.connections} connections` : "");
    const time = row.querySelector("time");
    const since = new Date(member.since ?? NaN);
    time.hidden = Number.isNaN(since.getTime());
    if (!time.hidden && time.dateTime !== since.toISOString()) {
      time.dateTime = since.toISOString();
      time.textContent = since.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
      time.title = `here since ${since.toLocaleString()}`;
    }
  }
}

function emptyWords(known, isTooLarge) {
  if (!known) return "Nothing is known yet.";
  return isTooLarge ? "Too many for a list. The server counts them here and lists them in pages." : "Nobody yet. Switch somebody on.";
}

function people(list, words) {
  const named = list.slice(0, NAMED).map(words);
  if (list.length > NAMED) named.push(`${list.length - NAMED} more`);
  return named.join(", ");
}

/** A delta in words. `before` are the members that it found. */
function deltaWords(frame, before) {
  const parts = [];
  const { join = [], update = [], leave = [] } = frame;
  if (join.length) parts.push(`${people(join, ({ user }) => clip(user, 40))} joined`);
  if (leave.length) parts.push(`${people(leave, ({ user, reason }) => `${clip(user, 40)} left (${reason})`)}`);
  if (update.length) parts.push(people(update, (member) => updateWords(member, before.get(member.user))));
  return parts.join(" · ") || "occupancy changed";
}

function updateWords(member, before) {
  const name = clip(member.user, 40);
  if (before && before.connections !== member.connections) {
    return `${name} is on ${count(member.connections, "connection", "connections")}`;
  }
  if (before && before.status !== member.status) return `${name} is ${member.status}`;
  return `${name} is now ${stateWords(member.state) || "without a mood"}`;
}

/** The last events, newest first. */
export class Log {
  #list = byId("log");

  frame(frame, text, before) {
    if (frame.event === "snapshot") {
      const pages = frame.more ? ", more to come" : "";
      const cause = frame.cause ? `, because: ${frame.cause}` : "";
      const list = frame.mode === "occupancy" ? ", too many for a list" : "";
      const here = `${count(frame.occupancy?.users ?? 0, "person", "people")} here${list}${cause}${pages}`;
      this.#add("snapshot", here, `${frame.version}`, text);
    } else if (frame.event === "delta") {
      const kinds = ["join", "leave", "update"].filter((kind) => frame[kind]?.length);
      this.#add(kinds.length === 1 ? kinds[0] : "delta", deltaWords(frame, before), `${frame.from} → ${frame.to}`, text);
    } else {
      this.#add("event", String(frame.event), "", text);
    }
  }

  note(who, text) {
    this.#add("note", who ? `${clip(who, 40)}: ${text}` : text, "", null);
  }

  clear() {
    this.#list.replaceChildren();
  }

  #add(kind, words, versions, raw) {
    const entry = stamp("entry-template");
    entry.dataset.kind = kind;
    entry.querySelector(".kind").textContent = kind;
    entry.querySelector(".text").textContent = words;
    entry.querySelector(".versions").textContent = versions;
    const now = new Date();
    const time = entry.querySelector("time");
    time.dateTime = now.toISOString();
    time.textContent = now.toLocaleTimeString([], { hour12: false });
    const details = entry.querySelector("details");
    if (raw === null) {
      // A note has no frame: its line is a line, not something to open.
      const line = document.createElement("p");
      line.append(...details.querySelector("summary").childNodes);
      details.replaceWith(line);
    } else {
      details.addEventListener("toggle", () => {
        details.querySelector("pre").textContent = details.open ? pretty(raw) : "";
      });
    }
    this.#list.prepend(entry);
    while (this.#list.childElementCount > ENTRIES) this.#list.lastElementChild.remove();
  }
}

function pretty(raw) {
  return JSON.stringify(JSON.parse(raw), null, 2);
}
