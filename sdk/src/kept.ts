// A handle that components share. Components come and go more often than people do: a framework may mount one twice to try it, and a change
// of the route replaces one by another that wants the same. So handles belong to no component. Those that want the same share one, and it is
// kept for a moment after the last has gone.

import type { Rollcall } from "./client.js";
import type { Unsubscribe } from "./emitter.js";
import { toError, type RollcallError } from "./errors.js";
import type { JoinOptions } from "./view.js";
import { Timers } from "./waiting.js";

/**
 * For how long what nobody uses any more is kept, milliseconds: a route that is loaded meanwhile still finds it, and who has really gone
 * is not shown for much longer.
 */
export const LINGER_MS = 500;

/** What is shown of every handle, and what can be said of it before there is one. */
export interface Shown {
  /** Whether it is up to date. */
  readonly isLive: boolean;
  /** Nothing is known yet, and nothing stands against it. */
  readonly isLoading: boolean;
  readonly error: RollcallError | undefined;
}

interface Handle {
  readonly ready: Promise<void>;
  on(event: "error", handler: (error: RollcallError) => void): Unsubscribe;
  subscribe(changed: () => void): Unsubscribe;
  getSnapshot(): Omit<Shown, "isLoading">;
}

/** One component's part in it. */
export interface Hold {
  options: JoinOptions<unknown>;
  /** Called for every change; undefined when the component has gone. */
  changed: (() => void) | undefined;
}

/** Opens a handle with its first hold, and gives it back a moment after the last. */
export abstract class Kept<Look extends Shown, Of extends Handle> {
  protected handle: Of | undefined;
  /** Those who use it, oldest first; who has gone stays for a moment, without `changed`. */
  protected readonly holds = new Set<Hold>();
  /** What was refused without ending anything, such as an update that is too large. */
  protected complaint: RollcallError | undefined;
  #failure: RollcallError | undefined;
  #isKnown = false;
  #isDue = false;
  #look: Look | undefined;
  #timers = new Timers();
  #stops: Unsubscribe[] = [];
  #endState: Unsubscribe;

  constructor(
    protected readonly client: Rollcall,
    private readonly ended: () => void,
  ) {
    this.#endState = client.on("state", (state) => {
      // Whoever logs out and in again has the same components.
      if (this.#failure?.code === "closed" && state !== "off") this.#begin();
      this.touch();
    });
  }

  protected abstract open(): Of;
  protected abstract close(handle: Of): void;
  protected abstract lookOf(snapshot: ReturnType<Of["getSnapshot"]>, rest: Pick<Shown, "isLoading" | "error">): Look;
  /** Whether it begins with what all say who use it. */
  protected get dependsOnAll(): boolean {
    return false;
  }
  /** Somebody wants it otherwise, or does not want it any more. */
  protected rearrange(): void {}
  /** Something failed that the handle does not stand for. */
  protected heardAside(_: RollcallError): void {}

  /** The same object until something changes. */
  get look(): Look | undefined {
    if (!this.handle && !this.#failure) return undefined;
    return (this.#look ??= this.#lookNow());
  }

  get isIdle(): boolean {
    return [...this.holds].every(({ changed }) => !changed);
  }

  /** Uses it until the answer is called. */
  hold(hold: Hold): Unsubscribe {
    // What the server refused before is asked again for whoever comes new. Who was taken out does not come back for another part of the page.
    const isAnew = !this.handle || (this.#failure && (this.#failure.code !== "kicked" || this.isIdle));
    this.holds.add(hold);
    if (!isAnew) this.rearranged();
    else if (this.dependsOnAll) this.#beginSoon();
    else this.#begin();
    return () => {
      if (!hold.changed) return;
      hold.changed = undefined;
      this.#timers.after(LINGER_MS, () => {
        this.holds.delete(hold);
        if (this.holds.size === 0) this.end();
        else this.rearranged();
      });
    };
  }

  /** A hold has other options. */
  rearranged(): void {
    if (this.handle && !this.#failure) this.rearrange();
  }

  /** Somebody else who has wanted it otherwise has gone. */
  retry(): void {
    if (this.#failure?.code === "conflict" && !this.isIdle) this.#begin();
  }

  /** Begins at once what is about to begin. */
  hurry(): void {
    if (!this.#isDue) return;
    this.#isDue = false;
    if (!this.isIdle) this.#begin();
  }

  /** At once. */
  end(): void {
    this.#isDue = false;
    this.#timers.stop();
    this.#endState();
    this.#drop();
    this.ended();
  }

  protected fail(error: RollcallError): void {
    this.#failure = error;
    this.touch();
  }

  protected touch(): void {
    this.#look = undefined;
    for (const { changed } of [...this.holds]) changed?.();
  }

  /** When all who are mounted together have said what they want: the effects of a child come before those of its parent. */
  #beginSoon(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => this.hurry());
  }

  #begin(): void {
    this.#isDue = false;
    // The new one first, so that where both are good nothing ends in between.
    const before = this.handle;
    const stops = this.#stops.splice(0);
    this.#failure = this.complaint = undefined;
    this.#isKnown = false;
    try {
      const handle = (this.handle = this.open());
      this.#stops = [handle.subscribe(() => this.touch()), handle.on("error", (error) => this.#heardError(handle, error))];
      const known = () => {
        if (this.handle !== handle) return;
        this.#isKnown = true;
        this.touch();
      };
      // A client that gave up may be told to connect again, and then what is shown is known without another promise.
      const refused = () => this.handle === handle && this.#stops.push(handle.subscribe(() => handle.getSnapshot().isLive && !this.#isKnown && known()));
      handle.ready.then(known, refused);
    } catch (error) {
      this.handle = undefined;
      this.#failure = toError(error);
    }
    stops.forEach((stop) => stop());
    if (before) this.close(before);
    this.touch();
  }

  #heardError(handle: Of, error: RollcallError): void {
    if (handle.getSnapshot().error === error) return this.fail(error);
    this.heardAside(error);
    this.touch();
  }

  #drop(): void {
    this.#stops.splice(0).forEach((stop) => stop());
    if (this.handle) this.close(this.handle);
    this.handle = undefined;
  }

  #lookNow(): Look {
    const snapshot = this.handle?.getSnapshot() as ReturnType<Of["getSnapshot"]>;
    const gaveUp = this.client.state === "ended" ? this.client.error : undefined;
    // The snapshot's may be that of another handle: what ends this one has been told to it.
    const error = this.#failure ?? gaveUp ?? this.complaint;
    return Object.freeze(this.lookOf(snapshot, { isLoading: !this.#isKnown && !error, error }));
  }
}
