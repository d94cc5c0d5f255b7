// One of the people to try: a card, and behind it a connection of its own.

import { Link } from "./link.js";
import { paintAvatar } from "./view.js";

const ABSENT = "Not here.";
const DEPARTED = "Left. Whoever watches saw it at once.";
const TIMED_OUT = "The grace ran out: left, with the reason timeout.";

/** A card in `place`. `page` gives it: url, channel(), token(name, pasted), note(name, text). */
export class Person {
  #page;
  #link;
  #parts;
  #mood = null;
  #sentMood = null;
  #joined = false;
  #putOut = null;
  #note = ABSENT;
  #clock = 0;

  constructor(place, name, page) {
    this.#page = page;
    const card = document.getElementById("person-template").content.firstElementChild.cloneNode(true);
    const part = (selector) => card.querySelector(selector);
    this.#parts = {
      card,
      avatar: part(".avatar"),
      name: part(".name"),
      toggle: part(".switch"),
      moods: [...card.querySelectorAll(".moods button")],
      moodGroup: part(".moods"),
      back: part(".back"),
      drop: part(".drop"),
      leave: part(".leave"),
      note: part(".note-text"),
      grace: part(".grace"),
      graceRest: part(".grace-rest"),
      tokenRow: part(".token-row"),
      token: part(".token"),
      command: part(".token-command"),
    };
    this.#parts.name.value = name;
    this.#link = new Link({
      url: page.url,
      token: () => page.token(this.name, this.#parts.token.value.trim()),
      hello: { device: "web" },
      resumes: true,
      onState: () => this.#changed(),
      onWelcome: (welcome) => this.#welcome(welcome),
      onEvent: (frame) => this.#event(frame),
      onNote: (text) => page.note(this.name, text),
    });
    this.#listen();
    this.#renamed();
    this.#draw();
    place.append(card);
  }

  get name() {
    return this.#parts.name.value.trim();
  }

  /** The page goes away and cannot resume: goodbye is the honest thing to say. */
  leave() {
    if (this.#link.state !== "off") this.#link.leave();
  }

  /** The page is on another channel now; whoever is here goes there too. */
  async move(from, to) {
    if (this.#link.state !== "open") return;
    this.#link.ask({ op: "leave", channel: from }).catch(() => {});
    await this.#join(to);
  }

  /** Shows the box in which a token can be pasted. */
  wantToken() {
    this.#parts.tokenRow.hidden = false;
  }

  #listen() {
    const { name, toggle, moods, back, drop, leave } = this.#parts;
    name.addEventListener("input", () => this.#renamed());
    name.addEventListener("keydown", (event) => event.key === "Enter" && !this.#isOn() && this.#start());
    toggle.addEventListener("click", () => (this.#isOn() ? this.#link.leave() : this.#start()));
    back.addEventListener("click", () => this.#start());
    leave.addEventListener("click", () => this.#link.leave());
    drop.addEventListener("click", () => {
      this.#link.drop();
      const seconds = Math.round(this.#link.graceMs / 1000);
      this.#page.note(this.name, `dropped without a goodbye; place kept for ${seconds} s`);
    });
    for (const button of moods) {
      button.addEventListener("click", () => {
        this.#mood = this.#mood === button.dataset.mood ? null : button.dataset.mood;
        this.#draw();
        this.#update();
      });
    }
  }

  #isOn() {
    return this.#link.state !== "off" && this.#link.state !== "ended";
  }

  #start() {
    if (!this.name) {
      this.#note = "A name, please.";
      this.#draw();
      this.#parts.name.focus();
      return;
    }
    this.#link.start();
  }

  async #welcome(welcome) {
    const channel = this.#page.channel();
    const still = (welcome.channels ?? []).map((entry) => entry.channel ?? entry);
    if (welcome.resumed) this.#page.note(this.name, "came back by resume: nothing to announce");
    for (const other of still) {
      if (other !== channel) this.#link.ask({ op: "leave", channel: other }).catch(() => {});
    }
    if (still.includes(channel)) {
      this.#note = welcome.resumed ? "Back by resume. Nobody noticed." : "Here.";
      this.#draw();
      if (this.#sentMood !== this.#mood) this.#update();
    } else {
      await this.#join(channel);
    }
  }

  /** Its own connection hears little: that somebody else took it out of the channel. */
  #event(frame) {
    if (frame.event !== "left" || frame.channel !== this.#page.channel()) return;
    this.#putOut = `Taken out of the channel (${frame.reason}).`;
    this.#page.note(this.name, `taken out of the channel (${frame.reason})`);
    this.#link.leave();
  }

  async #join(channel) {
    const mood = this.#mood;
    try {
      await this.#link.ask({ op: "join", channel, state: mood === null ? {} : { mood } });
      this.#sentMood = mood;
      this.#joined = true;
      this.#note = "Here.";
      if (this.#mood !== mood) this.#update();
    } catch (refusal) {
      this.#refused(refusal, () => this.#join(this.#page.channel()));
    }
    this.#draw();
  }

  async #update() {
    if (this.#link.state !== "open") return;
    const mood = this.#mood;
    try {
      await this.#link.ask({ op: "update", channel: this.#page.channel(), state: { mood } });
      this.#sentMood = mood;
      this.#note = "Here.";
    } catch (refusal) {
      this.#refused(refusal);
    }
    this.#draw();
  }

  #refused(refusal, again) {
    if (this.#link.state !== "open") return;
    this.#note = `Refused: ${refusal.message}`;
    this.#page.note(this.name, `refused: ${refusal.message}`);
    if (again && refusal.retryAfterMs) {
      setTimeout(() => this.#link.state === "open" && again(), refusal.retryAfterMs * (1 + Math.random()));
    }
  }

  #changed() {
    const { state, reason } = this.#link;
    if (state === "connecting") this.#note = "Connecting…";
    if (state === "open") this.#note = "Joining…";
    if (state === "ended") {
      this.#note = reason;
      this.#page.note(this.name, `does not come back: ${reason}`);
    }
    if (state === "off") {
      const parted = this.#joined ? DEPARTED : ABSENT;
      this.#note = this.#putOut ?? (reason === "timeout" ? TIMED_OUT : parted);
      this.#putOut = null;
    }
    if (state === "off" || state === "ended") {
      this.#sentMood = null;
      this.#joined = false;
    }
    this.#draw();
  }

  #renamed() {
    paintAvatar(this.#parts.avatar, this.name);
    this.#parts.command.textContent = `rollcall token --user ${shellWord(this.name || "NAME")}`;
    this.#parts.moodGroup.setAttribute("aria-label", `Mood of ${this.name}`);
    for (const [button, word] of [["toggle", "present"], ["drop", "drop the connection"], ["leave", "leave"], ["back", "come back"]]) {
      this.#parts[button].setAttribute("aria-label", `${this.name}: ${word}`);
    }
  }

  #draw() {
    const { state } = this.#link;
    const { card, name, toggle, moods, back, drop, leave, grace, tokenRow, token } = this.#parts;
    card.dataset.state = state;
    name.readOnly = this.#isOn();
    token.readOnly = this.#isOn();
    toggle.setAttribute("aria-pressed", String(this.#isOn()));
    for (const button of moods) {
      button.setAttribute("aria-pressed", String(button.dataset.mood === this.#mood));
    }
    const away = state === "dropped";
    if (document.activeElement === drop && away) setTimeout(() => back.focus());
    if (document.activeElement === back && !away) setTimeout(() => drop.focus());
    back.hidden = !away;
    drop.hidden = away;
    drop.disabled = state !== "open";
    leave.disabled = !this.#isOn();
    grace.hidden = !away;
    tokenRow.classList.toggle("done", state === "open");
    clearInterval(this.#clock);
    this.#tick();
    if (state === "dropped" || state === "waiting") this.#clock = setInterval(() => this.#tick(), 100);
  }

  #tick() {
    const { state, reason, retryAt, graceEnds, graceMs } = this.#link;
    const now = performance.now();
    let text = this.#note;
    if (state === "dropped") {
      const left = Math.max(0, graceEnds - now);
      text = `No socket. The place is kept for ${Math.ceil(left / 1000)} s.`;
      this.#parts.graceRest.style.setProperty("transform", `scaleX(${graceMs ? left / graceMs : 0})`);
    } else if (state === "waiting") {
      text = `Connection lost (${reason}). Trying again in ${(Math.max(0, retryAt - now) / 1000).toFixed(1)} s.`;
    }
    if (this.#parts.note.textContent !== text) this.#parts.note.textContent = text;
  }
}

/** The name as one word of a shell command: what is printed here is made to be copied. */
function shellWord(name) {
  return /^[\w.:@/+][\w.:@/+-]*$/.test(name) ? name : `'${name.replaceAll("'", String.raw`'\''`)}'`;
}
