import type { DeltaFrame, Leave, Level, Member, Mode, Occupancy, Since, SnapshotFrame } from "./protocol.js";

/** What one frame changed. */
export interface Change<State> {
  readonly joined: readonly Member<State>[];
  readonly updated: readonly { readonly member: Member<State>; readonly before: Member<State> }[];
  readonly left: readonly Leave<State>[];
  /** The list begins anew: it was not known before, so that nobody in it has just come. */
  readonly isFirst: boolean;
}

/** `more`: nothing can be shown yet; `known`: nothing new; `gap`: something was missed, the channel has to be watched again. */
export type Taken<State> = Change<State> | "more" | "known" | "gap";

interface Pages<State> {
  readonly at: string;
  readonly members: Map<string, Member<State>>;
}

/** A watched channel as its frames tell it. Entries are kept by user, at the level `connections` by connection. */
export class Roster<State> {
  members = new Map<string, Member<State>>();
  occupancy: Occupancy = { users: 0, connections: 0 };
  level: Level = "users";
  mode: Mode = "full";
  #at: Since | undefined;
  #pages: Pages<State> | undefined;
  // Between asking for the whole and having its last page, deltas belong to nothing that could be shown.
  #isWaiting = true;

  /** From where a watch may go on; undefined when there is nothing to go on from. */
  get since(): Since | undefined {
    return this.#isWaiting || this.#pages ? undefined : this.#at;
  }

  /** The whole has been asked for: until it is complete the old picture stays, and deltas are passed over. */
  expect(): void {
    this.#isWaiting = true;
    this.#pages = undefined;
  }

  /** Whether what is shown is at this version or after it. Another epoch has been reached by coming from this one. */
  hasReached({ epoch, version }: Since): boolean {
    const at = this.since;
    return at !== undefined && (at.epoch !== epoch || at.version >= version);
  }

  take(frame: SnapshotFrame | DeltaFrame): Taken<State> {
    return frame.event === "snapshot" ? this.#snapshot(frame) : this.#delta(frame);
  }

  #snapshot(frame: SnapshotFrame): Taken<State> {
    const mode = frame.mode ?? "full";
    const at = `${frame.epoch} ${frame.version} ${mode}`;
    // A page of another version begins anew: what was there of the version before will not be completed.
    if (this.#pages?.at !== at) this.#pages = { at, members: new Map() };
    const { members } = this.#pages;
    for (const member of (frame.members ?? []) as readonly Member<State>[]) members.set(key(member), member);
    if (frame.more) return "more";
    const before = this.members;
    const isFirst = this.#at === undefined || this.mode === "occupancy" || mode === "occupancy" || this.level !== frame.level;
    this.members = members;
    this.level = frame.level;
    this.#pages = undefined;
    this.#isWaiting = false;
    this.#reach(frame, mode, frame.version);
    return isFirst ? { joined: [], updated: [], left: [], isFirst } : difference(before, members);
  }

  #delta(frame: DeltaFrame): Taken<State> {
    if (this.#isWaiting || this.#pages) return "more";
    const at = this.#at;
    const mode = frame.mode ?? this.mode;
    if (frame.epoch === at?.epoch && frame.to <= at.version) return "known";
    if ((frame.from_epoch ?? frame.epoch) !== at?.epoch || frame.from !== at.version) return "gap";
    // A list ends and begins with a snapshot only.
    if ((mode === "occupancy") !== (this.mode === "occupancy")) return "gap";
    const joined = (frame.join ?? []) as readonly Member<State>[];
    const left = (frame.leave ?? []) as readonly Leave<State>[];
    const updated = ((frame.update ?? []) as readonly Member<State>[]).map((member) => ({
      member,
      before: this.members.get(key(member)) ?? member,
    }));
    for (const leave of left) this.members.delete(key(leave));
    for (const { member } of updated) this.members.set(key(member), member);
    for (const member of joined) this.members.set(key(member), member);
    this.#reach(frame, mode, frame.to);
    return { joined, updated, left, isFirst: false };
  }

  #reach(frame: SnapshotFrame | DeltaFrame, mode: Mode, version: number): void {
    this.mode = mode;
    this.#at = { epoch: frame.epoch, version, mode };
    this.occupancy = frame.occupancy;
  }
}

function key(entry: { user: string; connection?: string }): string {
  return entry.connection ?? entry.user;
}

/** What happened between two pictures. Nobody said why somebody went, which the protocol calls `timeout`. */
function difference<State>(before: Map<string, Member<State>>, after: Map<string, Member<State>>): Change<State> {
  const joined: Member<State>[] = [];
  const updated: { member: Member<State>; before: Member<State> }[] = [];
  const left: Leave<State>[] = [];
  for (const [name, member] of after) {
    const known = before.get(name);
    if (!known) joined.push(member);
    else if (JSON.stringify(known) !== JSON.stringify(member)) updated.push({ member, before: known });
  }
  for (const [name, { user, state, connection, device }] of before) {
    if (after.has(name)) continue;
    left.push({ user, reason: "timeout", state, ...(connection && { connection }), ...(device && { device }) });
  }
  return { joined, updated, left, isFirst: false };
}
