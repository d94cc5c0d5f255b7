import type { Json, Member, Mode, Occupancy } from "../../sdk/src/index.js";
import { paintAvatar } from "./avatar.js";
import { byId, part, Rows, stamp, writeOrHide, writeTime } from "./dom.js";
import { clip, count, stateWords } from "./words.js";

const ROWS = 200;
const WAVE_MS = 2500;

/** What of a channel is drawn. */
export interface Picture {
  readonly members: ReadonlyMap<string, Member<Json>>;
  readonly occupancy: Occupancy;
  readonly mode: Mode;
}

/** The member list of a channel: one row for each user. */
export class MemberList {
  #rows: Rows<Member<Json>>;
  #empty: string;

  /** `empty` is said where nobody is there, and `prepare` may add to a row of a user. */
  constructor(empty: string, prepare: (row: HTMLElement, user: string) => void = () => {}) {
    this.#empty = empty;
    const make = (user: string) => {
      const row = stamp("member-template");
      paintAvatar(part(row, ".avatar"), user);
      part(row, ".who-name").textContent = user;
      prepare(row, user);
      return row;
    };
    this.#rows = new Rows(byId("members"), make, fill);
  }

  /** Without a picture nothing is known. `typing` are the users who type. */
  draw(picture: Picture | undefined, version: { readonly epoch: string; readonly version: number } | undefined, typing: readonly string[] = []): void {
    const { users, connections } = picture?.occupancy ?? { users: 0, connections: 0 };
    const members = picture?.members ?? new Map<string, Member<Json>>();
    this.#rows.draw([...members].slice(0, ROWS));
    for (const user of members.keys()) this.#rows.get(user)?.classList.toggle("types", typing.includes(user));
    byId("users").textContent = picture ? users.toLocaleString("en") : "–";
    byId("users-word").textContent = users === 1 ? "person" : "people";
    byId("connections").textContent = picture ? connections.toLocaleString("en") : "–";
    byId("connections-word").textContent = connections === 1 ? "connection" : "connections";
    byId("empty").hidden = members.size > 0;
    byId("empty").textContent = this.#emptyWords(picture);
    writeOrHide(byId("more"), members.size > ROWS ? `and ${count(members.size - ROWS, "other", "others")}` : "");
    byId("version").textContent = version ? `version ${version.version} of epoch ${clip(version.epoch, 24)}` : "no version yet";
  }

  /** Somebody waves: the row says so for a moment. */
  wave(user: string): void {
    const row = this.#rows.get(user);
    if (!row) return;
    row.classList.remove("waves");
    // Begins anew where the last one has not ended.
    void row.offsetWidth;
    row.classList.add("waves");
    setTimeout(() => row.classList.remove("waves"), WAVE_MS);
  }

  #emptyWords(picture: Picture | undefined): string {
    if (!picture) return "Nothing is known yet.";
    return picture.mode === "occupancy" ? "Too many for a list. The server counts them here and lists them in pages." : this.#empty;
  }
}

function fill(row: HTMLElement, member: Member<Json>): void {
  const status = member.status === "online" ? "" : member.status;
  row.dataset.status = member.status;
  writeOrHide(part(row, ".who-state"), [status, stateWords(member.state)].filter(Boolean).join(" · "));
  writeOrHide(part(row, ".devices-count"), member.connections > 1 ? `${member.connections} connections` : "");
  writeTime(part<HTMLTimeElement>(row, "time"), member.since, { hour: "2-digit", minute: "2-digit" }, "here since");
}
