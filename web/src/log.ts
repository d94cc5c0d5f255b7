import { byId, part, stamp } from "./dom.js";
import type { Direction } from "./network.js";
import { clip } from "./words.js";

const ENTRIES = 200;
const EXCERPT = 160;

/** What happened, newest first, and beside it every frame of this page in both directions. */
export class Log {
  #events = byId("log");
  #frames = byId("frames");

  constructor() {
    byId("clear").addEventListener("click", () => {
      this.#events.replaceChildren();
      this.#frames.replaceChildren();
    });
    const choice = byId("log-choice");
    choice.addEventListener("change", () => {
      const showsFrames = byId<HTMLInputElement>("show-frames").checked;
      this.#events.hidden = showsFrames;
      this.#frames.hidden = !showsFrames;
    });
  }

  /** An event in words, with the frame that told it. */
  event(kind: string, words: string, versions = "", raw: string | undefined = undefined): void {
    add(this.#events, "entry-template", kind, kind, words, versions, raw);
  }

  note(who: string | undefined, text: string): void {
    this.event("note", who === undefined ? text : `${clip(who)}: ${text}`);
  }

  frame(who: string, direction: Direction, text: string): void {
    const shown = masked(text);
    add(this.#frames, "frame-template", direction, direction === "out" ? "sends" : "gets", excerpt(shown), clip(who, 24), shown);
  }
}

function add(list: HTMLElement, template: string, kind: string, kindWords: string, words: string, aside: string, raw: string | undefined): void {
  const entry = stamp(template);
  entry.dataset.kind = kind;
  part(entry, ".kind").textContent = kindWords;
  part(entry, ".text").textContent = words;
  part(entry, ".versions").textContent = aside;
  const now = new Date();
  const time = part<HTMLTimeElement>(entry, "time");
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString([], { hour12: false });
  const details = part<HTMLDetailsElement>(entry, "details");
  if (raw === undefined) {
    // A note has no frame: its line is a line, not something to open.
    const line = document.createElement("p");
    line.append(...part(details, "summary").childNodes);
    details.replaceWith(line);
  } else {
    details.addEventListener("toggle", () => {
      part(details, "pre").textContent = details.open ? pretty(raw) : "";
    });
  }
  list.prepend(entry);
  while (list.childElementCount > ENTRIES) list.lastElementChild?.remove();
}

function excerpt(text: string): string {
  return text.length > EXCERPT ? `${text.slice(0, EXCERPT)}…` : text;
}

/** What lets somebody in does not belong on a screen that others see, or into a bug report. */
function masked(text: string): string {
  return text.replace(/("(?:token|resume)":")([^"]{3})[^"]*"/g, '$1$2…"');
}

function pretty(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
