import { byId, part, Rows, stamp, write } from "./dom.js";
import type { Problem, Rest } from "./rest.js";

interface Row {
  readonly channel: string;
  readonly occupancy: { readonly users: number; readonly connections: number };
}

interface Answer {
  readonly channels: readonly Row[];
  readonly stale: boolean;
  readonly complete?: boolean;
}

const LISTED = 50;

/** The channels in which most people are. */
export class Channels {
  #rest: Rest;
  #rows: Rows<Row>;
  #most = 1;
  #chosen = "";

  /** `choose` is called with a channel that somebody wants to look into. */
  constructor(rest: Rest, choose: (channel: string) => void) {
    this.#rest = rest;
    this.#rows = new Rows(
      byId("channels"),
      (channel) => {
        const row = stamp("channel-template");
        const button = part(row, "button");
        button.textContent = channel;
        button.addEventListener("click", () => choose(channel));
        return row;
      },
      (row, entry) => this.#fill(row, entry),
    );
    byId("channel-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId<HTMLInputElement>("channel").value.trim();
      if (name) choose(name);
    });
  }

  /** Which one is looked into. */
  mark(channel: string): void {
    this.#chosen = channel;
    for (const row of byId("channels").children) mark(row as HTMLElement, channel);
  }

  /** Whether the answer is only what was known last. */
  async ask(): Promise<boolean> {
    let answer: Answer;
    try {
      answer = await this.#rest.get<Answer>("v1/channels", { order: "users", limit: LISTED });
    } catch (error) {
      if ((error as Problem).status !== 400) throw error;
      // A server of an earlier version knows no order but that of names. All else goes on.
      write(byId("channels-note"), (error as Problem).message);
      return false;
    }
    const { channels, complete, stale } = answer;
    this.#most = Math.max(1, ...channels.map(({ occupancy }) => occupancy.users));
    this.#rows.draw(channels.map((row) => [row.channel, row]));
    byId("channels-empty").hidden = channels.length > 0;
    const bound = complete === false ? "The largest of the 10,000 that were looked at: there are more." : "";
    write(byId("channels-note"), bound || (channels.length === LISTED ? `The ${LISTED} largest.` : ""));
    return stale;
  }

  #fill(row: HTMLElement, { occupancy }: Row): void {
    write(part(row, ".channel-users"), occupancy.users.toLocaleString("en"));
    write(part(row, ".channel-connections"), occupancy.connections.toLocaleString("en"));
    part(row, ".share").style.setProperty("transform", `scaleX(${occupancy.users / this.#most})`);
    mark(row, this.#chosen);
  }
}

function mark(row: HTMLElement, chosen: string): void {
  const button = part(row, "button");
  button.setAttribute("aria-pressed", String(button.textContent === chosen));
}
