/** The bound of the first wait, milliseconds: quicker than the others, as the grace of a broken connection runs. */
const FIRST_MS = 500;
/** The bound that doubles with each further attempt, milliseconds. */
const SECOND_MS = 1000;
/** What the bound grows to, milliseconds. */
const LONGEST_MS = 30_000;

/**
 * How long to wait before this attempt, counted from 0: any length up to its bound ("full jitter"), so that clients which lost a
 * server together do not come back together.
 */
export function fullJitter(attempt: number, random: () => number = Math.random): number {
  return random() * (attempt === 0 ? FIRST_MS : Math.min(LONGEST_MS, SECOND_MS * 2 ** (attempt - 1)));
}

/** Timers that end together with what they belong to. */
export class Timers {
  #running = new Set<ReturnType<typeof setTimeout>>();

  /** Calls `then` after `ms`, unless all are stopped before. The answer stops this one. */
  after(ms: number, then: () => void): () => void {
    const timer = setTimeout(() => {
      this.#running.delete(timer);
      then();
    }, ms);
    this.#running.add(timer);
    return () => {
      clearTimeout(timer);
      this.#running.delete(timer);
    };
  }

  stop(): void {
    for (const timer of this.#running) clearTimeout(timer);
    this.#running.clear();
  }
}
