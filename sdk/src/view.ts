import type { Channel, Room } from "./channel.js";
import { RollcallError, toError } from "./errors.js";
import type { Line } from "./line.js";
import { mergePatch } from "./merge.js";
import type { DeltaFrame, EventFrame, Json, Leave, Level, Member, Mode, Occupancy, Reason, Signal, Since, SnapshotFrame } from "./protocol.js";
import { Roster, type Change } from "./roster.js";
import { Typist } from "./typist.js";
import { Timers } from "./waiting.js";

/** How a channel looked at one moment. It is never changed: a later moment has another one. */
export interface ChannelSnapshot<State = Json> {
  readonly channel: string;
  /** By user; at the level `connections` by connection. Empty where the channel is too large for a list: see `mode`. */
  readonly members: ReadonlyMap<string, Member<State>>;
  readonly occupancy: Occupancy;
  readonly level: Level;
  readonly mode: Mode;
  /** Who types. */
  readonly typing: readonly string[];
  /** Whether it is up to date; false before the first snapshot, and while the connection is being made again. */
  readonly isLive: boolean;
  readonly isJoined: boolean;
  readonly error: RollcallError | undefined;
}

/** How one is in a channel. */
export interface JoinOptions<State = Json> {
  /** What others see of this connection here. */
  readonly state?: State;
  /** Whether to watch as well: true unless it is said otherwise. */
  readonly watch?: boolean;
  readonly level?: Level;
  /** How long the place is kept when the connection breaks. */
  readonly graceMs?: number;
  /** A merge patch of the state for the leave that comes when one goes without a goodbye. */
  readonly onLeave?: Json;
}

const RANK: Record<Level, number> = { occupancy: 0, users: 1, connections: 2 };

/** One channel of a client, behind all the handles that were given out for it. */
export class View<State> {
  readonly roster = new Roster<State>();
  readonly typist: Typist;
  isLive = false;
  isJoined = false;
  error: RollcallError | undefined;
  #handles = new Set<Channel<State>>();
  #rooms = new Set<Room<State>>();
  #typing = new Set<string>();
  #snapshot: ChannelSnapshot<State> | undefined;
  // A copy of its own, for typing changes the snapshot more often than anybody comes or goes.
  #members: ReadonlyMap<string, Member<State>> | undefined;
  #line: Line;
  #ended: () => void;
  // Apart, for one that is tried again is no reason not to try the other.
  #joining = new Timers();
  #watching = new Timers();
  #options: JoinOptions<State> = {};
  // Whether a join that was answered holds as it is, so that where the place was kept nothing need be sent.
  #isSettled = false;
  #mustLeave = false;
  #watched: Level | undefined;
  #reached: Since | undefined;
  #rejoined: { resolve(): void; reject(error: RollcallError): void }[] = [];

  constructor(
    readonly name: string,
    line: Line,
    ended: () => void,
  ) {
    this.#line = line;
    this.#ended = ended;
    this.typist = new Typist(line, { channel: name }, (error) => this.#complain(toError(error)));
  }

  get state(): State {
    return (this.#options.state ?? {}) as State;
  }

  get snapshot(): ChannelSnapshot<State> {
    return (this.#snapshot ??= Object.freeze({
      channel: this.name,
      members: (this.#members ??= new Map(this.roster.members)),
      occupancy: this.roster.occupancy,
      level: this.roster.level,
      mode: this.roster.mode,
      typing: [...this.#typing],
      isLive: this.isLive,
      isJoined: this.isJoined,
      error: this.error,
    }));
  }

  /** Another handle is given out. */
  add(handle: Channel<State>, level: Level | undefined): void {
    for (const { level: other } of level === undefined ? [] : this.#handles) {
      if (other !== undefined && other !== level && Math.min(RANK[other], RANK[level as Level]) > 0) {
        throw new RollcallError("conflict", `\`${this.name}\` is watched at the level ${other} already: use one level`);
      }
    }
    this.#handles.add(handle);
  }

  /** Begins to watch, or to watch more, where a handle that was added wants it. After a join: one finds oneself in the list then. */
  watch(): void {
    const wanted = this.#level();
    if (this.#line.state === "open" && wanted !== this.#watched && wanted !== undefined) void this.#watch();
  }

  /** Somebody joins, or joins anew with another state. */
  join(room: Room<State>, options: JoinOptions<State>): void {
    this.#rooms.add(room);
    this.#mustLeave = false;
    // Another handle without a state of its own leaves what is there.
    if (this.#rooms.size === 1 || options.state !== undefined) this.#options = options;
    else if (this.#isSettled) return;
    this.#isSettled = false;
    if (this.#line.state === "open") void this.#join();
  }

  /** A handle is given back. */
  async drop(handle: Channel<State>): Promise<void> {
    const leaves = this.#remove(handle);
    this.#touch();
    if (leaves) await this.#leave();
    this.#endIfIdle();
  }

  /** Changes the own state by a merge patch. Without a connection it is sent with the next. */
  async update(patch: Json): Promise<void> {
    if (this.#line.state === "open") {
      try {
        await this.#line.ask({ op: "update", channel: this.name, state: patch });
        this.#merge(patch);
        return;
      } catch (error) {
        if (!toError(error).isPassing) throw error;
        // Whether it was carried out is not known. What it should come to is known, and a join says so as a whole.
        if (this.#line.state === "open") this.#joining.after(toError(error).retryAfterMs ?? 1000, () => void this.#join());
      }
    }
    this.#merge(patch);
    this.#isSettled = false;
    return new Promise((resolve, reject) => this.#rejoined.push({ resolve, reject }));
  }

  /** A connection begins or goes on. Where the place was kept as it should be, nothing is joined. */
  opened(kept: readonly string[]): void {
    this.#fade();
    if (this.#rooms.size > 0) void this.#join(this.#isSettled && kept.includes(this.name));
    else if (this.#mustLeave) void this.#leave().then(() => this.#endIfIdle());
    if (this.#level() !== undefined) void this.#watch();
  }

  /** There is no connection. What is shown stays, and is marked as not live. With an error nobody should wait for one. */
  closed(error?: RollcallError): void {
    this.#fade();
    if (error) {
      this.error = error;
      this.#each((handle) => handle.refuse(error));
      this.#giveUp(error);
    }
    this.#touch();
  }

  /** The client ended: every handle does. */
  end(error: RollcallError): void {
    this.#stop();
    this.typist.forget();
    this.error = error;
    this.isLive = this.isJoined = false;
    this.#giveUp(error);
    this.#touch();
    for (const handle of [...this.#handles]) handle.fail(error);
  }

  heard(frame: EventFrame): void {
    if (frame.event === "snapshot" || frame.event === "delta") this.#tell(frame as unknown as SnapshotFrame | DeltaFrame);
    else if (frame.event === "typing") this.#heardTyping(frame.user as string, Boolean(frame.typing));
    else if (frame.event === "left") this.#takenOut(frame.reason as Reason);
    else if (frame.event === "signal") {
      const { user, data, time } = frame as unknown as Signal;
      this.#each((handle) => handle.emitter.emit("signal", { user, data, time }));
    }
  }

  /** Whether the user is shown here. */
  has(user: string): boolean {
    const { members, level } = this.roster;
    return level === "connections" ? [...members.values()].some((member) => member.user === user) : members.has(user);
  }

  #level(): Level | undefined {
    let most: Level | undefined;
    for (const { level } of this.#handles) if (level && (!most || RANK[level] > RANK[most])) most = level;
    return most;
  }

  async #watch(isAnew = false): Promise<void> {
    const level = this.#level();
    this.#watching.stop();
    if (level === undefined) return;
    const since = isAnew || this.roster.level !== level ? undefined : this.roster.since;
    if (!since) this.roster.expect();
    this.#watched = level;
    try {
      await this.#line.ask({ op: "watch", channel: this.name, level, ...(since && { since }) });
      // Nothing comes where nothing happened: the answer says that what is shown is up to date.
      if (since && this.roster.since && this.#line.state === "open" && this.#watched) this.#goLive();
    } catch (error) {
      this.#watched = undefined;
      const again = () => void this.#watch();
      this.#refused(toError(error), this.#watching, again, (handle) => handle.level !== undefined);
    }
  }

  async #join(isKept = false): Promise<void> {
    this.#joining.stop();
    const { state, graceMs, onLeave } = this.#options;
    this.#isSettled = true;
    try {
      const join = {
        op: "join",
        channel: this.name,
        ...(state !== undefined && { state }),
        ...(graceMs !== undefined && { grace_ms: graceMs }),
        ...(onLeave !== undefined && { on_leave: onLeave }),
      };
      const ok = await (isKept ? this.#line.hold(this.name) : this.#line.ask(join));
      if (this.#rooms.size === 0) return;
      this.isJoined = true;
      const reached = ok as Partial<Since>;
      this.#reached = reached.epoch === undefined ? undefined : (reached as Since);
      if (this.#isSettled) for (const { resolve } of this.#rejoined.splice(0)) resolve();
      this.#touch();
      this.#settle();
    } catch (error) {
      this.#isSettled = false;
      const why = toError(error);
      if (!why.isPassing) this.#giveUp(why);
      const again = () => void this.#join();
      this.#refused(why, this.#joining, again, (handle) => this.#rooms.has(handle as Room<State>));
    }
  }

  async #leave(): Promise<void> {
    try {
      await this.#line.ask({ op: "leave", channel: this.name });
    } catch (error) {
      // Said again with the next connection, unless somebody has joined by then. Whoever is not there has left.
      if (toError(error).isPassing) return;
    }
    this.#mustLeave = false;
  }

  /** What fails for a while is tried again, with this connection or the next; the rest ends those whom it concerns. */
  #refused(error: RollcallError, timers: Timers, again: () => void, concerns: (handle: Channel<State>) => boolean): void {
    if (error.isPassing) {
      if (this.#line.state === "open") timers.after(error.retryAfterMs ?? 1000, again);
      return;
    }
    this.error = error;
    this.#touch();
    for (const handle of [...this.#handles]) {
      if (!concerns(handle)) continue;
      // Of a room that may not be watched the place is given back too: nobody has a handle for it any more.
      const isIn = this.isJoined;
      if (this.#remove(handle)) this.#mustLeave = isIn;
      if (this.#mustLeave) void this.#leave().then(() => this.#endIfIdle());
      handle.fail(error);
    }
    this.#endIfIdle();
  }

  /** Takes a handle off, and ends the watch with the last that watches. The answer is whether it was the last that is in the channel. */
  #remove(handle: Channel<State>): boolean {
    this.#handles.delete(handle);
    const isLast = this.#rooms.delete(handle as Room<State>) && this.#rooms.size === 0;
    if (isLast) {
      this.typist.type(false);
      this.isJoined = this.#isSettled = false;
      this.#mustLeave = true;
      this.#giveUp(new RollcallError("closed", `\`${this.name}\` was left before`));
    }
    if (this.#watched !== undefined && this.#level() === undefined) {
      this.#watched = undefined;
      this.isLive = false;
      this.#line.ask({ op: "unwatch", channel: this.name }).catch(() => {});
    }
    return isLast;
  }

  #tell(frame: SnapshotFrame | DeltaFrame): void {
    if (this.#watched === undefined) return;
    // What was said in passing may have been lost with the changes that a snapshot stands for.
    if (frame.event === "snapshot") this.#typing.clear();
    const taken = this.roster.take(frame);
    if (taken === "gap") return void this.#watch(true);
    if (taken === "more" || taken === "known") return;
    for (const { user } of taken.left) this.#typing.delete(user);
    this.#members = undefined;
    this.isLive = true;
    this.error = undefined;
    this.#touch();
    this.#settle();
    this.#announce(taken);
  }

  #announce(change: Change<State>): void {
    this.#each(({ emitter }) => {
      for (const leave of change.left) emitter.emit("leave", leave as Leave<State>);
      for (const { member, before } of change.updated) emitter.emit("update", member, before);
      for (const member of change.joined) emitter.emit("join", member);
      emitter.emit("change", change);
    });
  }

  #heardTyping(user: string, typing: boolean): void {
    if (typing) this.#typing.add(user);
    else this.#typing.delete(user);
    this.#touch();
    this.#each((handle) => handle.emitter.emit("typing", { user, typing }));
  }

  #takenOut(reason: Reason): void {
    const rooms = [...this.#rooms];
    this.#rooms.clear();
    this.isJoined = this.#isSettled = false;
    this.typist.forget();
    const error = new RollcallError("kicked", `the server took this user out of \`${this.name}\``);
    this.#giveUp(error);
    this.#touch();
    for (const room of rooms) {
      room.refuse(error);
      room.emitter.emit("left", reason);
    }
  }

  /** Updates that wait for a join will not be sent. */
  #giveUp(error: RollcallError): void {
    for (const { reject } of this.#rejoined.splice(0)) reject(error);
  }

  #goLive(): void {
    this.isLive = true;
    this.error = undefined;
    this.#touch();
    this.#settle();
  }

  #stop(): void {
    this.#joining.stop();
    this.#watching.stop();
  }

  #fade(): void {
    this.#stop();
    this.typist.forget();
    this.isLive = false;
    this.#watched = undefined;
    this.#typing.clear();
  }

  #settle(): void {
    for (const handle of [...this.#handles]) {
      const isRoom = this.#rooms.has(handle as Room<State>);
      if (isRoom && !this.isJoined) continue;
      // One finds oneself in what is shown first.
      if (handle.level !== undefined && (!this.isLive || (isRoom && this.#reached && !this.roster.hasReached(this.#reached)))) continue;
      handle.begin();
    }
  }

  #merge(patch: Json): void {
    this.#options = { ...this.#options, state: mergePatch(this.#options.state ?? {}, patch) as State };
  }

  #complain(error: RollcallError): void {
    if (!error.isPassing) this.#each((handle) => handle.emitter.emit("error", error));
  }

  #touch(): void {
    this.#snapshot = undefined;
    this.#each((handle) => handle.emitter.emit("snapshot"));
  }

  #each(tell: (handle: Channel<State>) => void): void {
    for (const handle of [...this.#handles]) if (this.#handles.has(handle)) tell(handle);
  }

  #endIfIdle(): void {
    if (this.#handles.size === 0 && !this.#mustLeave) {
      this.#stop();
      this.#ended();
    }
  }
}
