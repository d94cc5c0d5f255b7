// A channel as its frames tell it. No DOM and no socket, so that it can be read, and tested, by itself.
//
// Maps hold what strangers have named: a user called `__proto__` is a key like any other.

/** One watched channel: fed with snapshot and delta frames, it says after each what that frame meant. */
export class Roster {
  members = new Map();
  occupancy = { users: 0, connections: 0 };
  epoch = null;
  version = null;
  mode = "full";
  #pages = null;
  // Between asking for a snapshot and having its last page, deltas belong to nothing that could be shown.
  #waiting = true;

  /** The point from which a watch may go on, or undefined when there is none. */
  get since() {
    if (this.epoch === null || this.#waiting) return undefined;
    return { epoch: this.epoch, version: this.version, mode: this.mode };
  }

  /** Whether the channel is too large for a list: how many are there is known, and nobody's name. */
  get isTooLarge() {
    return this.mode === "occupancy";
  }

  /** A new snapshot has been asked for; until it is complete the old picture stays and deltas are passed over. */
  expectSnapshot() {
    this.#waiting = true;
    this.#pages = null;
  }

  /**
   * Takes one frame. Answers `snapshot`, `delta`, `page` (more of the snapshot to come), `known` (nothing new in it),
   * `waiting` (a snapshot is awaited), or `gap`: something was missed and the channel has to be watched again.
   */
  take(frame) {
    return frame.event === "snapshot" ? this.#snapshot(frame) : this.#delta(frame);
  }

  #snapshot(frame) {
    const { epoch, version, mode } = frame;
    if (this.#pages?.epoch !== epoch || this.#pages.version !== version || this.#pages.mode !== mode) {
      this.#pages = { epoch, version, mode, members: new Map() };
    }
    for (const member of frame.members ?? []) this.#pages.members.set(member.user, member);
    if (frame.more) return "page";
    this.members = this.#pages.members;
    this.#pages = null;
    this.#waiting = false;
    this.#reached(frame, frame.version);
    return "snapshot";
  }

  #delta(frame) {
    if (this.#waiting || this.#pages) return "waiting";
    // A list ends and begins with a snapshot.
    if ((frame.mode === "occupancy") !== this.isTooLarge) return "gap";
    if (frame.epoch === this.epoch && frame.to <= this.version) return "known";
    if ((frame.from_epoch ?? frame.epoch) !== this.epoch || frame.from !== this.version) return "gap";
    for (const { user } of frame.leave ?? []) this.members.delete(user);
    for (const member of frame.update ?? []) this.members.set(member.user, member);
    for (const member of frame.join ?? []) this.members.set(member.user, member);
    this.#reached(frame, frame.to);
    return "delta";
  }

  #reached(frame, version) {
    this.epoch = frame.epoch;
    this.version = version;
    this.mode = frame.mode ?? this.mode;
    this.occupancy = frame.occupancy ?? this.occupancy;
  }
}
