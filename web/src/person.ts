import type { Status } from "../../sdk/src/index.js";
import { paintAvatar } from "./avatar.js";
import { Device, type Owner } from "./device.js";
import { part, Rows, stamp, write } from "./dom.js";
import type { Direction } from "./network.js";

/** What the page gives a person. */
export interface Stage {
  readonly url: string;
  channel(): string;
  /** A token of this user, or what was pasted. */
  token(name: string, pasted: string): Promise<string>;
  note(who: string, text: string): void;
  frame(who: string, direction: Direction, text: string): void;
}

/** The device that everybody has. */
const FIRST = "browser";

/** One of the people to try: a card, and behind it a connection for each of their devices. */
export class Person {
  #stage: Stage;
  #card = stamp("person-template");
  #devices: Device[];
  #rows: Rows<Device>;
  #mood: string | null = null;
  #clock: ReturnType<typeof setInterval> | undefined;
  #parts = {
    avatar: part(this.#card, ".avatar"),
    name: part<HTMLInputElement>(this.#card, ".name"),
    toggle: part<HTMLButtonElement>(this.#card, ".switch"),
    moods: [...this.#card.querySelectorAll<HTMLButtonElement>(".moods button")],
    moodGroup: part(this.#card, ".moods"),
    status: part<HTMLSelectElement>(this.#card, ".status"),
    talk: part<HTMLFormElement>(this.#card, ".talk"),
    words: part<HTMLInputElement>(this.#card, ".words"),
    wave: part<HTMLButtonElement>(this.#card, ".wave"),
    more: [...this.#card.querySelectorAll<HTMLButtonElement>(".more-devices button")],
    tokenRow: part(this.#card, ".token-row"),
    token: part<HTMLInputElement>(this.#card, ".token"),
    command: part(this.#card, ".token-command"),
  };

  constructor(place: HTMLElement, name: string, stage: Stage) {
    this.#stage = stage;
    this.#parts.name.value = name;
    this.#devices = [this.#device(FIRST)];
    this.#rows = new Rows(
      part(this.#card, ".devices"),
      (device) => this.#row(device),
      (row, device) => this.#fill(row, device),
    );
    this.#listen();
    this.#renamed();
    this.#draw();
    place.append(this.#card);
  }

  get name(): string {
    return this.#parts.name.value.trim();
  }

  /** The page is on another channel now; whoever is here goes there too. */
  move(): void {
    for (const device of this.#devices) device.move();
  }

  /** Shows the box in which a token can be pasted. */
  wantToken(): void {
    this.#parts.tokenRow.hidden = false;
  }

  #device(name: string): Device {
    const label = () => (name === FIRST ? this.name : `${this.name}’s ${name}`);
    const owner: Owner = {
      url: this.#stage.url,
      channel: () => this.#stage.channel(),
      mood: () => this.#mood,
      token: () => this.#stage.token(this.name, this.#parts.token.value.trim()),
      changed: () => this.#draw(),
      note: (text) => this.#stage.note(label(), text),
      passes: (_, direction, text) => this.#stage.frame(label(), direction, text),
    };
    return new Device(name, owner);
  }

  #listen(): void {
    const { name, toggle, moods, status, talk, words, wave, more } = this.#parts;
    name.addEventListener("input", () => this.#renamed());
    name.addEventListener("keydown", (event) => event.key === "Enter" && !this.#isOn() && this.#start());
    toggle.addEventListener("click", () => (this.#isOn() ? this.#leave() : this.#start()));
    for (const button of moods) {
      button.addEventListener("click", () => {
        const mood = button.dataset.mood ?? null;
        this.#mood = this.#mood === mood ? null : mood;
        this.#draw();
        void this.#open()?.showMood();
      });
    }
    status.addEventListener("change", () => void this.#open()?.chooseStatus((status.value || null) as Status | null));
    words.addEventListener("input", () => this.#open()?.type(words.value !== ""));
    talk.addEventListener("submit", (event) => {
      event.preventDefault();
      if (words.value.trim()) void this.#open()?.say({ text: words.value.trim() });
      words.value = "";
    });
    wave.addEventListener("click", () => void this.#open()?.say({ wave: true }));
    for (const button of more) {
      button.addEventListener("click", () => {
        const device = this.#device(button.dataset.device ?? "");
        this.#devices.push(device);
        device.start();
      });
    }
  }

  #isOn(): boolean {
    return this.#devices.some((device) => device.isOn);
  }

  /** The device through which the person acts: any that is connected. */
  #open(): Device | undefined {
    return this.#devices.find((device) => device.state === "open");
  }

  #start(): void {
    const [first] = this.#devices;
    if (!first) return;
    if (this.name) return first.start();
    first.note = "A name, please.";
    this.#draw();
    this.#parts.name.focus();
  }

  #leave(): void {
    for (const device of [...this.#devices]) if (device.isOn) device.leave();
  }

  #renamed(): void {
    const { avatar, command, moodGroup, toggle, status, words, wave, more } = this.#parts;
    const { name } = this;
    paintAvatar(avatar, name);
    command.textContent = tokenCommand(name || "NAME");
    moodGroup.setAttribute("aria-label", `Mood of ${name}`);
    toggle.setAttribute("aria-label", `${name}: present`);
    status.setAttribute("aria-label", `${name}: status`);
    words.setAttribute("aria-label", `${name}: say something`);
    wave.setAttribute("aria-label", `${name}: wave`);
    for (const button of more) button.setAttribute("aria-label", `${name}: add a ${button.dataset.device}`);
    this.#draw();
  }

  #row(name: string): HTMLElement {
    const row = stamp("device-template");
    const device = () => this.#devices.find((one) => one.name === name);
    row.dataset.device = name;
    part(row, ".device-name").textContent = name;
    part(row, ".drop").addEventListener("click", () => device()?.drop());
    part(row, ".back").addEventListener("click", () => device()?.comeBack());
    part(row, ".leave").addEventListener("click", () => device()?.leave());
    return row;
  }

  #draw(): void {
    // The first device stays on the card, to be switched on again; others are there while they are on.
    this.#devices = this.#devices.filter((device) => device.name === FIRST || device.isOn);
    const { name, token, toggle, moods, more, tokenRow } = this.#parts;
    const isOn = this.#isOn();
    this.#card.dataset.state = isOn ? "on" : (this.#devices[0]?.state ?? "off");
    this.#card.classList.toggle("away", isOn && !this.#open());
    name.readOnly = token.readOnly = isOn;
    toggle.setAttribute("aria-pressed", String(isOn));
    for (const button of moods) button.setAttribute("aria-pressed", String(button.dataset.mood === this.#mood));
    for (const button of more) button.hidden = this.#devices.some((device) => device.name === button.dataset.device);
    tokenRow.classList.toggle("done", this.#open() !== undefined);
    if (!isOn) {
      this.#parts.words.value = "";
      this.#parts.status.value = "";
    }
    this.#rows?.draw(this.#devices.map((device) => [device.name, device]));
    clearInterval(this.#clock);
    if (this.#devices.some((device) => device.state === "dropped")) this.#clock = setInterval(() => this.#tick(), 100);
  }

  #fill(row: HTMLElement, device: Device): void {
    const [drop, back, leave] = [part<HTMLButtonElement>(row, ".drop"), part<HTMLButtonElement>(row, ".back"), part<HTMLButtonElement>(row, ".leave")];
    const which = device.name === FIRST ? "" : ` with the ${device.name}`;
    drop.setAttribute("aria-label", `${this.name}: drop the ${device.name === FIRST ? "connection" : device.name}`);
    back.setAttribute("aria-label", `${this.name}: come back${which}`);
    leave.setAttribute("aria-label", `${this.name}: leave${which}`);
    const isDropped = device.state === "dropped";
    if (document.activeElement === drop && isDropped) setTimeout(() => back.focus());
    if (document.activeElement === back && !isDropped) setTimeout(() => drop.focus());
    row.dataset.state = device.state;
    back.hidden = !isDropped;
    drop.hidden = isDropped;
    drop.disabled = device.state !== "open";
    leave.disabled = !device.isOn;
    part(row, ".grace").hidden = !isDropped;
    this.#tickOf(row, device);
  }

  #tick(): void {
    for (const device of this.#devices) {
      const row = this.#rows.get(device.name);
      if (row) this.#tickOf(row, device);
    }
  }

  #tickOf(row: HTMLElement, device: Device): void {
    let text = device.note;
    if (device.state === "dropped") {
      const remaining = Math.max(0, device.graceEnds - performance.now());
      text = `No network: kept for ${Math.ceil(remaining / 1000)} s.`;
      part(row, ".grace-rest").style.setProperty("transform", `scaleX(${device.graceMs ? remaining / device.graceMs : 0})`);
    }
    write(part(row, ".note"), text);
  }
}

/** What prints a token for somebody that allows all that can be tried here. */
export function tokenCommand(user: string): string {
  const can = { join: ["**"], watch: ["**"], typing: ["**"], send: ["**"], status: true };
  return `rollcall token --user ${shellWord(user)} --can '${JSON.stringify(can)}'`;
}

/** The name as one word of a shell command: what is printed here is made to be copied. */
function shellWord(name: string): string {
  return /^[\w.:@/+][\w.:@/+-]*$/.test(name) ? name : `'${name.replaceAll("'", String.raw`'\''`)}'`;
}
