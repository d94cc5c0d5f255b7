// A chat lobby: who is here, how, and who types, by Rollcall. What is said goes by signals: to those who are here just now, kept nowhere.

import { login } from "./session.js";

const ROOMS = ["lobby", "garden", "workshop"];
const LOG_LENGTH = 200;
const STATES = { connecting: "connecting…", waiting: "connection lost, your place is kept…", open: "connected" };

const the = (id) => document.getElementById(id);
const names = new Map(); // of those who were seen in the room, by user
let name = "";
let client;
let room;
let typingSentence; // comes with the client

// Names and messages come from strangers: all text goes through here, and none of it is ever markup.
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const channelOf = (roomName) => `chat:${roomName}`;
// `info` is what your server says of a user in the token, `state` what users say of themselves: believe the first.
const nameOf = ({ user, info, state }) => String(info?.name ?? state?.name ?? user);
const nameOfUser = (user) => names.get(user) ?? user;
const isMe = (user) => user === client.welcome?.user;

// Coming in, and going.

the("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  event.submitter.disabled = true;
  await comeIn(the("name").value);
  event.submitter.disabled = false;
});

the("leave").addEventListener("click", () => {
  client.close(); // a goodbye: the others see it at once
  sessionStorage.removeItem("name");
  location.reload();
});

async function comeIn(given) {
  the("login-fault").textContent = "";
  try {
    const { url, token } = await login(given);
    const { Rollcall, RollcallError, typingSentence: sentence } = await import(new URL("/client.js", url));
    typingSentence = sentence;
    // Whoever is not logged in any more gets no token by asking again. What else fails the client tries again by itself.
    const orEnd = (error) => Promise.reject(error.status === 401 ? new RollcallError("unauthorized", error.message) : error);
    name = given.trim();
    sessionStorage.setItem("name", name); // so that a reload does not ask again; the others do not notice one
    client = new Rollcall({ url, token: () => token().catch(orEnd), device: "web" });
  } catch (error) {
    the("login-fault").textContent = error.message;
    return;
  }
  the("door").hidden = true;
  the("chat").hidden = false;
  client.on("state", showConnection);
  client.on("error", (error) => error.isPassing || showFault(error));
  showConnection();
  listRooms();
  enter(ROOMS.includes(location.hash.slice(1)) ? location.hash.slice(1) : ROOMS[0]);
  the("text").focus();
}

// Rooms. One is in one of them, and sees of all of them how many are there.

function listRooms() {
  for (const roomName of ROOMS) {
    const count = element("span", { className: "count" });
    const link = element("a", { href: `#${roomName}` }, roomName, count);
    the("rooms").append(element("li", {}, link));
    const watched = client.channel(channelOf(roomName), { level: "occupancy" });
    const show = () => {
      const { users } = watched.occupancy;
      count.textContent = users ? ` ${users}` : "";
      count.title = `${users} here`;
    };
    watched.on("change", show);
  }
  addEventListener("hashchange", () => enter(location.hash.slice(1)));
}

function enter(roomName) {
  if (!ROOMS.includes(roomName)) return;
  room?.leave();
  const entered = (room = client.join(channelOf(roomName), { state: { name } }));
  the("room-title").textContent = roomName;
  for (const link of the("rooms").querySelectorAll("a")) {
    if (link.hash === `#${roomName}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  names.clear();
  for (const id of ["log", "members", "typing", "fault"]) the(id).replaceChildren();
  // A handle that was given back says nothing more; `entered` is for what it had under way.
  const ifHere = (show) => (...said) => entered === room && show(...said);
  room.subscribe(ifHere(showMembers));
  room.subscribe(ifHere(showTyping));
  room.on("change", ifHere(({ isFirst, joined, left }) => {
    if (isFirst) return; // the list begins, and nobody in it has just come
    for (const { user } of joined) if (!isMe(user)) note(`${nameOfUser(user)} came in`);
    for (const { user } of left) if (!isMe(user)) note(`${nameOfUser(user)} left`);
  }));
  room.on("signal", ifHere(showMessage));
  room.on("left", ifHere(() => showFault(new Error("You were put out of this room."))));
  room.on("error", ifHere(showFault));
}

// Who is here.

function showMembers() {
  const { members, occupancy, isLive } = room.getSnapshot();
  the("here").textContent = `Here: ${occupancy.users}`;
  the("members").classList.toggle("stale", !isLive);
  for (const member of members.values()) names.set(member.user, nameOf(member));
  the("members").replaceChildren(...[...members.values()].map(({ user, status }) => {
    const shown = nameOfUser(user);
    return element(
      "li",
      { title: user },
      element("span", { className: "face", ariaHidden: "true", style: `--hue: ${hueOf(user)}` }, [...shown][0] ?? "?"),
      element("span", { className: "who" }, shown, isMe(user) ? " (you)" : ""),
      element("span", { className: `how ${status}` }, status),
    );
  }));
}

const hueOf = (user) => [...user].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) % 360, 7);

the("status").addEventListener("change", ({ target }) => {
  client.setStatus(target.value || null).catch(showFault);
});

// Who types. `room.typing()` may be called for every key: it says what has to be said, and ends by itself.

the("text").addEventListener("input", ({ target }) => room.typing(target.value !== ""));

function showTyping() {
  const sentence = typingSentence(room.getSnapshot().typing, { name: nameOfUser, except: client.welcome?.user });
  // A live region speaks when it is touched: only a new sentence is one.
  if (the("typing").textContent !== sentence) the("typing").textContent = sentence;
}

// What is said. Signals reach whoever watches just now, once at most. A chat that must not lose a message, or shows what was said
// before, keeps its messages in a server of its own, and takes Rollcall for who is there.

the("composer").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = the("text").value.trim();
  if (!text) return;
  the("text").value = "";
  the("fault").textContent = "";
  try {
    await room.send({ text }, { echo: true });
  } catch (error) {
    the("text").value ||= text; // nothing that was written is lost
    showFault(error);
  }
});

function showMessage({ user, data, time }) {
  if (typeof data?.text !== "string") return;
  const at = new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  const head = element("p", { className: "head" }, element("b", {}, nameOfUser(user)), " ", element("time", {}, at));
  log(element("div", { className: isMe(user) ? "mine" : "" }, head, element("p", {}, data.text.slice(0, 300))));
}

const note = (text) => log(element("div", { className: "note" }, text));

function log(line) {
  const list = the("log");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(line);
  while (list.children.length > LOG_LENGTH) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

// How the connection is.

function showConnection() {
  const { state, error } = client;
  the("connection").dataset.state = state;
  the("connection").textContent = STATES[state] ?? `not connected: ${error?.message ?? "closed"}`;
  if (room) showMembers();
}

function showFault(error) {
  the("fault").textContent = error.message;
}

// Only now is there somebody to take what is entered.
the("login").querySelector("button").disabled = false;
const before = sessionStorage.getItem("name");
if (before) await comeIn(before);
