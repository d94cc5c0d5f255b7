/** How fast a counter grows. It may fall, when the store was emptied: then it begins anew, and there is no rate to tell. */
export class Rate {
  #count: number | undefined;
  #at = 0;

  /** The rate per second since the last call, or null where nothing can be said. `at` in milliseconds of a clock that does not jump. */
  take(count: number | undefined, at: number): number | null {
    const [before, since] = [this.#count, this.#at];
    [this.#count, this.#at] = [count, at];
    if (count === undefined || before === undefined || count < before || at <= since) return null;
    return ((count - before) * 1000) / (at - since);
  }

  /** Nobody looked for a while: what came meanwhile is not told as if it came now. */
  forget(): void {
    this.#count = undefined;
  }
}
