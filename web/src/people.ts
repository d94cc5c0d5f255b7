import { paintAvatar } from "./avatar.js";
import { byId, part, Rows, stamp, write, writeOrHide, writeTime } from "./dom.js";
import type { Kick } from "./kick.js";
import { Problem, segment, type Rest } from "./rest.js";
import { stateWords } from "./words.js";

interface Found {
  readonly user: string;
  readonly status: string;
  readonly text?: string;
  readonly since?: number;
  readonly last_seen?: number;
  readonly last_active?: number;
  readonly state?: unknown;
}

interface User extends Found {
  readonly connections: readonly { readonly connection: string; readonly device?: string; readonly since: number; readonly channels: readonly string[] }[];
  readonly channels: readonly string[];
  readonly stale: boolean;
}

const LISTED = 20;
const TYPED_MS = 250;
const MOMENT: Intl.DateTimeFormatOptions = { dateStyle: "medium", timeStyle: "short" };

/** Finding somebody, and looking at one: how, since when, on which devices and where. */
export class PeopleView {
  #rest: Rest;
  #user = "";
  #turn = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #found: Rows<Found>;
  #devices: Rows<User["connections"][number]>;
  #channels: Rows<string>;

  constructor(rest: Rest, kick: Kick, showChannel: (channel: string) => void) {
    this.#rest = rest;
    this.#found = new Rows(byId("found"), (user) => this.#row(user), fillFound);
    this.#devices = new Rows(byId("user-devices"), () => stamp("user-device-template"), fillDevice);
    const makeChannel = (channel: string) => {
      const row = stamp("user-channel-template");
      const open = part(row, ".open");
      open.textContent = channel;
      open.addEventListener("click", () => showChannel(channel));
      const out = part(row, ".kick");
      out.setAttribute("aria-label", `Kick out of ${channel}…`);
      out.addEventListener("click", () => kick.ask(this.#user, channel));
      return row;
    };
    this.#channels = new Rows(byId("user-channels"), makeChannel, () => {});
    byId("user-kick").addEventListener("click", () => kick.ask(this.#user));
    byId("user-close").addEventListener("click", () => this.close());
    const later = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => void this.search(), TYPED_MS);
    };
    byId("prefix").addEventListener("input", later);
    byId("offline-too").addEventListener("change", () => void this.search());
    byId("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(this.#timer);
      void this.search();
    });
  }

  /** Who has a name that begins so. */
  async search(): Promise<void> {
    const turn = ++this.#turn;
    const prefix = byId<HTMLInputElement>("prefix").value.trim();
    const offline = byId<HTMLInputElement>("offline-too").checked;
    try {
      const query = { limit: LISTED, ...(prefix && { prefix }), ...(offline && { offline }) };
      const { users, next } = await this.#rest.get<{ users: readonly Found[]; next: string | null }>("v1/users", query);
      if (turn !== this.#turn) return;
      this.#found.draw(users.map((one) => [one.user, one]));
      const none = prefix ? "Nobody with such a name is known." : "Nobody is known yet.";
      write(byId("found-note"), users.length === 0 ? none : next === null ? "" : `The first ${LISTED} by name: type more of it.`);
    } catch (error) {
      if (turn === this.#turn) write(byId("found-note"), (error as Problem).message);
    }
  }

  show(user: string): void {
    const isAnother = user !== this.#user;
    this.#user = user;
    byId("user").hidden = false;
    byId("user-none").hidden = true;
    if (isAnother) {
      write(byId("user-title"), user);
      paintAvatar(byId("user-avatar"), user);
      byId("user-facts").hidden = true;
      write(byId("user-note"), "Asking…");
    }
    byId("user-title").focus();
    void this.ask();
  }

  close(): void {
    this.#user = "";
    byId("user").hidden = true;
    byId("user-none").hidden = false;
  }

  /** Asks again about whom is looked at. */
  async ask(): Promise<void> {
    const user = this.#user;
    if (!user) return;
    try {
      const found = await this.#rest.get<User>(`v1/users/${segment(user)}`);
      if (user !== this.#user) return;
      this.#draw(found);
    } catch (error) {
      if (user === this.#user) write(byId("user-note"), (error as Problem).message);
    }
  }

  #draw(user: User): void {
    const { status, text, since, last_seen, last_active, state, connections, channels, stale } = user;
    byId("user-facts").hidden = false;
    byId("user").dataset.status = status;
    write(byId("user-status"), text ? `${status}: ${text}` : status);
    const row = (name: string, ms: number | undefined) => {
      byId(`${name}-row`).hidden = ms === undefined;
      writeTime(byId<HTMLTimeElement>(name), ms, MOMENT);
    };
    row("user-since", since);
    row("user-last-seen", last_seen);
    row("user-last-active", last_active);
    byId("user-state-row").hidden = state === undefined;
    write(byId("user-state"), state === undefined ? "" : JSON.stringify(state, null, 2));
    this.#devices.draw(connections.map((one) => [one.connection, one]));
    this.#channels.draw(channels.map((one) => [one, one]));
    byId("user-devices-row").hidden = connections.length === 0;
    byId("user-channels-row").hidden = channels.length === 0;
    write(byId("user-note"), stale ? "As it was known last: the store of presence is away or settles." : "");
  }

  #row(user: string): HTMLElement {
    const row = stamp("found-template");
    paintAvatar(part(row, ".avatar"), user);
    part(row, ".who-name").textContent = user;
    part(row, "button").addEventListener("click", () => this.show(user));
    return row;
  }
}

function fillFound(row: HTMLElement, { status, text, state, last_seen }: Found): void {
  row.dataset.status = status;
  writeOrHide(part(row, ".who-state"), [status, text ?? "", stateWords(state)].filter(Boolean).join(" · "));
  writeTime(part<HTMLTimeElement>(row, "time"), status === "offline" ? last_seen : undefined, { dateStyle: "short", timeStyle: "short" }, "last seen");
}

function fillDevice(row: HTMLElement, { connection, device, since, channels }: User["connections"][number]): void {
  write(part(row, ".device-name"), device ?? "unnamed");
  write(part(row, ".connection"), connection);
  write(part(row, ".where"), channels.join(", "));
  writeTime(part<HTMLTimeElement>(row, "time"), since, MOMENT, "since");
}
