import { byId, part, Rows, stamp, write } from "./dom.js";
import { count } from "./words.js";

/** An instance as `/v1/stats` tells of it; servers of an earlier version say less. */
export interface Instance {
  readonly instance: string;
  readonly connections: number;
  readonly version: string;
  readonly generation?: number;
  readonly lease_ms?: number;
}

/** A bar is full at the longest lease that was seen, and at this at least, milliseconds. */
const LEAST_FULL_MS = 5000;

/** The instances with their leases: each bar runs out, and is full again when the instance has renewed. */
export class Instances {
  #full = LEAST_FULL_MS;
  #rows = new Rows<Instance>(
    byId("instances"),
    (name) => {
      const row = stamp("instance-template");
      part(row, ".instance-name").textContent = name.split(" ")[0] ?? name;
      return row;
    },
    (row, instance) => this.#fill(row, instance),
  );

  draw(instances: readonly Instance[]): void {
    this.#full = Math.max(this.#full, ...instances.map(({ lease_ms }) => lease_ms ?? 0));
    const sorted = [...instances].sort((one, other) => one.instance.localeCompare(other.instance));
    this.#rows.draw(sorted.map((one) => [`${one.instance} ${one.generation ?? ""}`, one]));
    write(byId("instances-count"), count(instances.length, "instance", "instances"));
  }

  #fill(row: HTMLElement, { connections, version, generation, lease_ms }: Instance): void {
    write(part(row, ".instance-version"), version);
    write(part(row, ".instance-generation"), generation === undefined ? "–" : String(generation));
    write(part(row, ".instance-connections"), connections.toLocaleString("en"));
    const isKnown = lease_ms !== undefined;
    write(part(row, ".lease-words"), isKnown ? `${(lease_ms / 1000).toFixed(1)} s` : "–");
    const bar = part(row, ".lease-rest");
    part(row, ".lease").hidden = !isKnown;
    if (!isKnown) return;
    bar.classList.toggle("low", lease_ms < this.#full / 3);
    // From what remains down to nothing, until the next answer says otherwise.
    bar.getAnimations().forEach((animation) => animation.cancel());
    const share = lease_ms / this.#full;
    bar.style.setProperty("transform", `scaleX(${share})`);
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    bar.animate([{ transform: `scaleX(${share})` }, { transform: "scaleX(0)" }], { duration: Math.max(1, lease_ms), fill: "forwards" });
  }
}
