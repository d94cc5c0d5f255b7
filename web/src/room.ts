import { Roster, type Change } from "../../sdk/src/roster.js";
import type { DeltaFrame, EventFrame, Json, Leave, SnapshotFrame } from "../../sdk/src/protocol.js";
import { fullJitter } from "../../sdk/src/waiting.js";
import { byId, part, stamp, write } from "./dom.js";
import type { Kick } from "./kick.js";
import { MemberList } from "./members.js";
import { Problem, type Rest } from "./rest.js";
import { changeKind, changeWords, clip, typingWords } from "./words.js";

const CHANGES = 50;
/** From this code on a stream does not come back by itself. */
const FINAL = 4500;
/** A stream that lasted so long starts the waits from the beginning, milliseconds. */
const SETTLED_MS = 5000;

/** What the dashboard does with whom it shows. */
export interface Actions {
  readonly kick: Kick;
  showUser(user: string): void;
}

/** One channel, looked into: its members as they come and go, by a stream of events. */
export class RoomView {
  #rest: Rest;
  #list: MemberList;
  #changed: (channel: string) => void;
  #channel = "";
  #roster = new Roster<Json>();
  #typing = new Set<string>();
  #source: EventSource | undefined;
  #lastId = "";
  #attempt = 0;
  #openedAt = Infinity;
  #timer: ReturnType<typeof setTimeout> | undefined;
  // What an earlier stream began late has no say any more.
  #turn = 0;

  /** `changed` is told which channel is looked into. */
  constructor(rest: Rest, actions: Actions, changed: (channel: string) => void) {
    this.#rest = rest;
    this.#changed = changed;
    this.#list = new MemberList("Nobody is here just now.", (row, user) => {
      const name = part(row, ".who-name");
      name.addEventListener("click", () => actions.showUser(user));
      const button = part(row, ".kick");
      button.setAttribute("aria-label", `Kick ${user}…`);
      button.addEventListener("click", () => actions.kick.ask(user, this.#channel));
    });
    byId("room-close").addEventListener("click", () => this.close());
  }

  show(channel: string): void {
    if (channel === this.#channel) {
      this.resume();
      return this.#focus();
    }
    this.#stop();
    this.#channel = channel;
    this.#roster = new Roster();
    this.#lastId = "";
    this.#attempt = 0;
    byId("changes").replaceChildren();
    write(byId("room-title"), channel);
    byId("room").hidden = false;
    byId("room-none").hidden = true;
    this.#draw();
    this.#changed(channel);
    void this.#open();
    this.#focus();
  }

  close(): void {
    this.#stop();
    this.#channel = "";
    byId("room").hidden = true;
    byId("room-none").hidden = false;
    this.#changed("");
  }

  /** The page is not seen: nobody needs the stream. */
  pause(): void {
    if (this.#channel) this.#stop();
  }

  /** It is seen again, or the key is another one. */
  resume(): void {
    if (this.#channel && !this.#source) void this.#open();
  }

  #focus(): void {
    byId("room-title").focus();
  }

  async #open(): Promise<void> {
    this.#stop();
    const turn = this.#turn;
    this.#say("waiting", "connecting…");
    try {
      // An EventSource sends no header, and what stands in an address is kept in logs: so it brings a ticket that is used once.
      const { ticket } = await this.#rest.post<{ ticket: string }>("v1/tickets");
      if (turn !== this.#turn) return;
      const query = new URLSearchParams({ channel: this.#channel, ticket });
      if (this.#roster.since && this.#lastId) query.set("last_event_id", this.#lastId);
      else this.#roster.expect();
      const source = new EventSource(`v1/events?${query}`);
      this.#source = source;
      source.onopen = () => turn === this.#turn && this.#opened();
      source.onmessage = ({ data, lastEventId }) => turn === this.#turn && this.#hear(JSON.parse(String(data)) as EventFrame, lastEventId);
      // The browser would come back with the same address, whose ticket is used up.
      source.onerror = () => turn === this.#turn && this.#again("the stream broke");
    } catch (error) {
      if (turn !== this.#turn) return;
      const { status, message } = error as Problem;
      if (status === 401 || status === 403 || status === 400) this.#say("ended", message);
      else this.#again(message);
    }
  }

  #opened(): void {
    this.#openedAt = performance.now();
    // Where nothing happened meanwhile nothing comes.
    if (this.#roster.since) this.#say("open", "live");
  }

  #hear(frame: EventFrame, id: string): void {
    if (id) this.#lastId = id;
    if (frame.event === "snapshot" || frame.event === "delta") return this.#take(frame as unknown as SnapshotFrame | DeltaFrame);
    if (frame.event === "typing") {
      if (frame.typing) this.#typing.add(String(frame.user));
      else this.#typing.delete(String(frame.user));
      this.#draw();
    } else if (frame.event === "reconnect") {
      this.#again("the instance restarts", Number(frame.after_ms));
    } else if (frame.event === "closed" && Number(frame.code) >= FINAL) {
      this.#stop();
      this.#say("ended", String(frame.message));
    }
  }

  #take(frame: SnapshotFrame | DeltaFrame): void {
    const taken = this.#roster.take(frame);
    if (taken === "more" || taken === "known") return;
    if (taken === "gap") {
      this.#lastId = "";
      this.#roster.expect();
      return this.#again("something was missed");
    }
    if (frame.event === "snapshot") this.#typing.clear();
    for (const { user } of taken.left as readonly Leave[]) this.#typing.delete(user);
    this.#say("open", "live");
    this.#draw();
    this.#log(taken);
  }

  #draw(): void {
    const { since } = this.#roster;
    this.#list.draw(since && this.#roster, since, [...this.#typing]);
    write(byId("typing"), typingWords([...this.#typing]));
  }

  #log(change: Change<Json>): void {
    if (change.isFirst || !(change.joined.length || change.left.length || change.updated.length)) return;
    const entry = stamp("change-template");
    entry.dataset.kind = changeKind(change);
    part(entry, ".text").textContent = changeWords(change);
    const now = new Date();
    const time = part<HTMLTimeElement>(entry, "time");
    time.dateTime = now.toISOString();
    time.textContent = now.toLocaleTimeString([], { hour12: false });
    byId("changes").prepend(entry);
    while (byId("changes").childElementCount > CHANGES) byId("changes").lastElementChild?.remove();
  }

  #again(why: string, afterMs = this.#wait()): void {
    this.#stop();
    const turn = this.#turn;
    this.#say("waiting", `${clip(why, 80)}: trying again…`);
    this.#timer = setTimeout(() => turn === this.#turn && void this.#open(), afterMs);
  }

  /** One that opens and breaks each time is asked for more and more rarely too. */
  #wait(): number {
    if (performance.now() - this.#openedAt > SETTLED_MS) this.#attempt = 0;
    return fullJitter(this.#attempt++);
  }

  #stop(): void {
    this.#turn += 1;
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = undefined;
    this.#openedAt = Infinity;
    if (this.#typing.size > 0) {
      // Nobody would say that it ended.
      this.#typing.clear();
      this.#draw();
    }
    this.#say("waiting", "paused");
  }

  #say(state: string, words: string): void {
    byId("room-live").dataset.state = state;
    write(byId("room-live-text"), words);
    byId("members").classList.toggle("stale", state !== "open");
  }
}

