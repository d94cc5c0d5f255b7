/** Takes a handler off again. Calling it twice does nothing more. */
export type Unsubscribe = () => void;

interface Entry {
  readonly call: (...args: unknown[]) => void;
}

/** Handlers by event. One that throws stops no other: its error is reported as the environment reports uncaught ones. */
export class Emitter<Events extends Record<string, unknown[]>> {
  #handlers = new Map<keyof Events, Set<Entry>>();

  /** Calls `handler` for each such event from now on, until the answered function is called. */
  on<Name extends keyof Events>(event: Name, handler: (...args: Events[Name]) => void): Unsubscribe {
    // A wrapper of its own, so that the same function may be there twice and each is taken off by itself.
    const entry = { call: handler as Entry["call"] };
    const handlers = this.#handlers.get(event) ?? new Set();
    this.#handlers.set(event, handlers.add(entry));
    return () => void handlers.delete(entry);
  }

  /** Tells all handlers that were there when it happened. */
  emit<Name extends keyof Events>(event: Name, ...args: Events[Name]): void {
    for (const { call } of [...(this.#handlers.get(event) ?? [])]) guard(() => call(...args));
  }

  /** Takes all handlers off. */
  clear(): void {
    this.#handlers.clear();
  }
}

/** Calls what somebody else wrote. */
export function guard(call: () => void): void {
  try {
    call();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}
