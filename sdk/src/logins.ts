// The login style on top of the client: who comes online and goes offline, wherever they are.

import type { Rollcall } from "./client.js";
import { guard } from "./emitter.js";
import type { UserChange, Watch } from "./people.js";

/** Called when a user has come online (`true`) or gone offline (`false`). */
export type LoginHandler = (user: string, isOnline: boolean) => void;

/** Logins and logouts, of everybody or of single users. */
export class Logins {
  #client: Rollcall;
  #everybody = new Set<LoginHandler>();
  #single = new Map<string, Set<LoginHandler>>();
  #all: Watch | undefined;
  #some: Watch | undefined;
  // Names that were subscribed to just now, which are asked for together.
  #adding: string[] = [];
  #added: Promise<void> | undefined;

  constructor(client: Rollcall) {
    this.#client = client;
  }

  /**
   * Tells `handler` of everybody's logins and logouts, which the token must allow, or of one user's. Those before are not told. Resolves
   * when the server has heard of it, and rejects where it refuses.
   */
  subscribe(handler: LoginHandler): Promise<void>;
  subscribe(user: string, handler: LoginHandler): Promise<void>;
  async subscribe(user: string | LoginHandler, handler?: LoginHandler): Promise<void> {
    if (typeof user === "function") {
      this.#everybody.add(user);
      await this.#watchAll();
    } else if (typeof handler === "function" && user !== "") {
      const handlers = this.#single.get(user) ?? new Set();
      this.#single.set(user, handlers.add(handler));
      await this.#watchSome(user);
    } else {
      throw new TypeError("subscribe takes a handler, or the name of a user and a handler");
    }
  }

  /** Takes off a handler of everybody's logins; or one of a user's; or, without anything, all that there are. */
  unsubscribe(): void;
  unsubscribe(handler: LoginHandler): void;
  unsubscribe(user: string, handler: LoginHandler): void;
  unsubscribe(user?: string | LoginHandler, handler?: LoginHandler): void {
    if (typeof user === "function") {
      this.#everybody.delete(user);
    } else if (user !== undefined && typeof handler === "function") {
      const handlers = this.#single.get(user);
      if (handlers?.delete(handler) && handlers.size === 0) this.#forget(user);
    } else if (user === undefined) {
      this.#everybody.clear();
      for (const name of [...this.#single.keys()]) this.#forget(name);
    } else {
      throw new TypeError("unsubscribe takes nothing, a handler, or the name of a user and a handler");
    }
    if (this.#everybody.size === 0) this.#all = void this.#all?.close();
    if (this.#single.size === 0) this.#some = void this.#some?.close();
  }

  /** Who is online, of everybody; or, of the users that are named, who is. */
  getAll(): Promise<string[]>;
  getAll(users: readonly string[]): Promise<Record<string, boolean>>;
  async getAll(users?: readonly string[]): Promise<string[] | Record<string, boolean>> {
    if (users) {
      const views = await this.#client.users.get(users);
      return Object.fromEntries(users.map((user) => [user, isOnline(views.get(user))]));
    }
    const watch = this.#all ?? this.#client.watch("everybody");
    try {
      await watch.ready;
      return [...watch.users.keys()];
    } finally {
      if (watch !== this.#all) watch.close();
    }
  }

  async #watchAll(): Promise<void> {
    if (this.#all) return unlessClosed(this.#all.ready);
    const watch = (this.#all = this.#client.watch("everybody"));
    // What comes before it is ready is the list of those who are online already.
    let isListed = false;
    void watch.ready.then(() => (isListed = true)).catch(() => {});
    watch.on("change", (changes) => {
      if (isListed) for (const change of changes) this.#tell(change, this.#everybody);
    });
    try {
      await unlessClosed(watch.ready);
    } catch (error) {
      if (this.#all === watch) this.#all = void watch.close();
      throw error;
    }
  }

  #watchSome(user: string): Promise<void> {
    this.#adding.push(user);
    this.#added ??= Promise.resolve().then(() => {
      const users = this.#adding.splice(0).filter((name) => this.#single.has(name));
      this.#added = undefined;
      if (this.#some) return this.#some.add(users);
      this.#some = this.#client.watch([]);
      this.#some.on("change", (changes) => {
        // Of one who was not known before it is only learnt how they are.
        for (const change of changes) if (change.before) this.#tell(change, this.#single.get(change.user) ?? new Set());
      });
      return this.#some.add(users);
    });
    return this.#added;
  }

  #forget(user: string): void {
    this.#single.delete(user);
    this.#some?.remove([user]);
  }

  #tell({ user, view, before }: UserChange, handlers: ReadonlySet<LoginHandler>): void {
    if (isOnline(view) === isOnline(before)) return;
    for (const handler of [...handlers]) guard(() => handler(user, isOnline(view)));
  }
}

/** That a watch was closed is no failure of who asked for its end. */
async function unlessClosed(ready: Promise<void>): Promise<void> {
  try {
    await ready;
  } catch (error) {
    if ((error as { code?: string }).code !== "closed") throw error;
  }
}

function isOnline(view: { readonly status: string } | undefined): boolean {
  return view !== undefined && view.status !== "offline";
}
