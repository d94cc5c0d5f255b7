import { Rollcall, RollcallError, type Json, type Room, type Status } from "../../sdk/src/index.js";
import { Network, type Direction } from "./network.js";
import { reasonWords } from "./words.js";

/**
 * `dropped`: on purpose, until it is brought back or its grace ends; `waiting`: the client comes back by itself; `ended`: refused for
 * good, the note says why.
 */
export type DeviceState = "off" | "connecting" | "open" | "waiting" | "dropped" | "ended";

/** What a device needs of the person who has it. */
export interface Owner {
  readonly url: string;
  channel(): string;
  mood(): string | null;
  token(): Promise<string>;
  /** The device is in another state, or its note is another. */
  changed(): void;
  /** Something for the log. */
  note(text: string): void;
  passes(device: string, direction: Direction, text: string): void;
}

const ABSENT = "Not here.";
const DEPARTED = "Left. Whoever watches saw it at once.";
const TIMED_OUT = "The grace ran out: left, with the reason timeout.";

/** One of the things that a person has: a client of its own, with a network that can be cut. */
export class Device {
  state: DeviceState = "off";
  note = ABSENT;
  graceMs = 15_000;
  graceEnds = 0;
  #owner: Owner;
  #network: Network;
  #client: Rollcall | undefined;
  #room: Room<Json> | undefined;
  #graceTimer: ReturnType<typeof setTimeout> | undefined;
  #isJoined = false;
  #isLeaving = false;

  /** `name` is what watchers of connections see, such as `phone`. */
  constructor(
    readonly name: string,
    owner: Owner,
  ) {
    this.#owner = owner;
    this.#network = new Network((direction, text) => owner.passes(name, direction, text));
  }

  get isOn(): boolean {
    return this.state !== "off" && this.state !== "ended";
  }

  /** Connects and joins. */
  start(): void {
    if (this.#client) return this.comeBack();
    this.#isJoined = this.#isLeaving = false;
    this.#network.mend();
    const client = new Rollcall({
      url: this.#owner.url,
      token: () => this.#owner.token(),
      device: this.name,
      share: false,
      // The page's people cannot come back after a reload: it says goodbye for them.
      goodbye: true,
      WebSocket: this.#network.WebSocket,
      connect: false,
    });
    this.#client = client;
    client.on("state", () => client === this.#client && this.#turned(client));
    this.#join();
    client.connect();
  }

  /** Says goodbye: whoever watches sees the leave at once. A device in its grace comes back to say so. */
  leave(): void {
    if (this.state === "open" || !this.#isJoined) return this.#end("off", this.#isJoined ? DEPARTED : ABSENT);
    this.#isLeaving = true;
    this.#reconnect();
  }

  /** Cuts the network, as a tunnel would, until `comeBack` or the end of the grace. */
  drop(): void {
    if (this.state !== "open") return;
    this.#network.cut();
    this.graceEnds = performance.now() + this.graceMs;
    this.#graceTimer = setTimeout(() => this.#end("off", TIMED_OUT), this.graceMs);
    this.#turn("dropped");
    this.#owner.note(`dropped without a goodbye; place kept for ${Math.round(this.graceMs / 1000)} s`);
  }

  comeBack(): void {
    if (this.state === "dropped") this.#reconnect();
  }

  /** The page is on another channel now. */
  move(): void {
    if (!this.#client) return;
    this.#room?.leave().catch(() => {});
    this.#join();
  }

  async showMood(): Promise<void> {
    await this.#do(() => this.#room?.update({ mood: this.#owner.mood() }));
  }

  async chooseStatus(status: Status | null): Promise<void> {
    await this.#do(() => this.#client?.setStatus(status));
  }

  async say(data: unknown): Promise<void> {
    await this.#do(() => this.#room?.send(data));
  }

  /** For every key that is pressed; `false` when there is nothing more to send. */
  type(isTyping: boolean): void {
    if (this.state === "open") this.#room?.typing(isTyping);
  }

  #join(): void {
    const mood = this.#owner.mood();
    const room = this.#client?.join<Json>(this.#owner.channel(), { state: mood === null ? {} : { mood }, watch: false });
    if (!room) return;
    this.#room = room;
    room.ready.then(
      () => {
        if (room !== this.#room) return;
        this.#isJoined = true;
        this.#say("Here.");
      },
      () => {},
    );
    room.on("error", (error) => room === this.#room && this.#refused(error));
    room.on("left", (reason) => {
      if (room !== this.#room) return;
      this.#owner.note(`taken out of the channel (${reason})`);
      this.#end("off", `Taken out of the channel (${reason}).`);
    });
  }

  #turned(client: Rollcall): void {
    if (client.state === "ended") {
      const why = reasonWords(client.error);
      this.#owner.note(`does not come back: ${why}`);
      return this.#end("ended", why);
    }
    if (client.state === "open") return this.#opened(client);
    if (this.state === "dropped" || client.state === "off") return;
    if (client.state === "waiting") this.note = `Connection lost (${reasonWords(client.error)}). Trying again…`;
    else if (this.state !== "waiting") this.note = "Connecting…";
    this.#turn(client.state);
  }

  #opened(client: Rollcall): void {
    // What the client does with its new connection comes first.
    if (this.#isLeaving) return queueMicrotask(() => this.#end("off", DEPARTED));
    const isBack = this.#isJoined;
    const { resumed, grace_ms } = client.welcome ?? { resumed: false, grace_ms: this.graceMs };
    this.graceMs = grace_ms;
    clearTimeout(this.#graceTimer);
    this.note = isBack ? (resumed ? "Back by resume. Nobody noticed." : "Here again.") : "Joining…";
    if (isBack && resumed) this.#owner.note("came back by resume: nothing to announce");
    this.#turn("open");
  }

  #reconnect(): void {
    clearTimeout(this.#graceTimer);
    this.#network.mend();
    this.#client?.connect();
    this.#turn("connecting");
  }

  #end(state: "off" | "ended", note: string): void {
    clearTimeout(this.#graceTimer);
    const client = this.#client;
    this.#client = this.#room = undefined;
    client?.close();
    this.note = note;
    this.#turn(state);
  }

  async #do(call: () => Promise<void> | undefined): Promise<void> {
    const client = this.#client;
    try {
      await call();
    } catch (error) {
      if (client && client === this.#client) this.#refused(error as RollcallError);
    }
  }

  #refused(error: RollcallError): void {
    this.#owner.note(`refused: ${reasonWords(error)}`);
    this.#say(`Refused: ${reasonWords(error)}`);
  }

  #say(note: string): void {
    this.note = note;
    this.#owner.changed();
  }

  #turn(state: DeviceState): void {
    this.state = state;
    this.#owner.changed();
  }
}
