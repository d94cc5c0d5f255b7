/** How often activity is told at most, milliseconds. */
const ACTIVE_MS = 30_000;
const ACTIVITIES = ["pointerdown", "pointermove", "keydown", "wheel", "touchstart", "focus"];

/** What a page tells a client. */
export interface PageListener {
  /** The user did something. */
  active(): void;
  /** The network may be another. */
  hurry(): void;
  /** The page goes; `isPause`: this user may be back in a moment, and nobody should see a leave. */
  hidden(isPause: boolean): void;
  /** A kept page is shown again. */
  shown(): void;
}

/**
 * Listens to the page, or to as much of one as there is: a worker has a network only, and Node nothing. The answer ends it. `goodbye` says
 * whether the end of the page is an end: from inside it looks like a reload.
 */
export function watchPage(listener: PageListener, goodbye: boolean): () => void {
  const scope = globalThis as typeof globalThis & { addEventListener?: unknown };
  if (typeof scope.addEventListener !== "function") return () => {};
  const ends: (() => void)[] = [];
  const end = () => ends.splice(0).forEach((one) => one());
  const on = (target: EventTarget, name: string, handler: (event: Event) => void) => {
    target.addEventListener(name, handler, { passive: true, capture: true });
    ends.push(() => target.removeEventListener(name, handler, { capture: true }));
  };
  on(scope, "online", () => listener.hurry());
  // A socket that the network has taken along does not say so: asking shows it.
  on(scope, "offline", () => listener.hurry());
  if (typeof document === "undefined") return end;
  // A new connection is activity by itself.
  let toldAt = performance.now();
  const active = () => {
    if (document.visibilityState === "hidden" || performance.now() - toldAt < ACTIVE_MS) return;
    toldAt = performance.now();
    listener.active();
  };
  for (const name of ACTIVITIES) on(scope, name, active);
  on(document, "visibilitychange", active);
  on(scope, "pagehide", (event) => listener.hidden((event as PageTransitionEvent).persisted || !goodbye));
  on(scope, "pageshow", (event) => (event as PageTransitionEvent).persisted && listener.shown());
  return end;
}
