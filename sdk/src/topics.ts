// The topic style on top of the client: whoever subscribes to a topic is present in it, and messages are signals.

import type { Room } from "./channel.js";
import type { Rollcall } from "./client.js";
import { guard } from "./emitter.js";
import type { Change } from "./roster.js";

/** Somebody came to a topic or went. */
export interface Presence {
  readonly clientId: string;
  readonly topic: string;
  readonly status: "online" | "offline";
  /** When, unix milliseconds. */
  readonly timestamp: number;
  /** Who is there after it. */
  readonly subscribers: readonly string[];
}

/** What somebody published. */
export interface Message<Payload = unknown> {
  readonly topic: string;
  readonly senderId: string;
  readonly payload: Payload;
  /** Unix milliseconds. */
  readonly sentAt: number;
}

export type PresenceHandler = (presence: Presence) => void;
export type MessageHandler<Payload = unknown> = (message: Message<Payload>) => void;

interface Topic {
  readonly room: Room;
  readonly presence: Set<PresenceHandler>;
  readonly messages: Set<MessageHandler>;
}

/** Topics of one client. A topic is joined with its first handler and left with its last. */
export class Topics {
  #client: Rollcall;
  #topics = new Map<string, Topic>();

  constructor(client: Rollcall) {
    this.#client = client;
  }

  /** Tells `handler` of everybody who is there, oneself too, and then of each who comes and goes. Resolves when one is there. */
  async onPresence(topic: string, handler: PresenceHandler): Promise<void> {
    const entry = this.#open(topic);
    if (entry.presence.has(handler)) return entry.room.ready;
    const isKnown = entry.room.isLive;
    entry.presence.add(handler);
    await this.#ready(topic, entry, () => entry.presence.delete(handler));
    // Who waits for the first list is told with it.
    if (isKnown && entry.presence.has(handler)) this.#list(topic, entry, [handler]);
  }

  /** Tells `handler` no more. */
  offPresence(topic: string, handler: PresenceHandler): void {
    this.#topics.get(topic)?.presence.delete(handler);
    this.#close(topic);
  }

  /** Tells no handler of the topic's presence any more. */
  clearPresenceHandlers(topic: string): void {
    this.#topics.get(topic)?.presence.clear();
    this.#close(topic);
  }

  /** Tells `handler` of what others publish. Resolves when one is there. */
  async subscribe<Payload = unknown>(topic: string, handler: MessageHandler<Payload>): Promise<void> {
    const entry = this.#open(topic);
    entry.messages.add(handler as MessageHandler);
    await this.#ready(topic, entry, () => entry.messages.delete(handler as MessageHandler));
  }

  /** Tells `handler` no more; without one, nobody who subscribed to the topic. */
  unsubscribe<Payload = unknown>(topic: string, handler?: MessageHandler<Payload>): void {
    const entry = this.#topics.get(topic);
    if (handler) entry?.messages.delete(handler as MessageHandler);
    else entry?.messages.clear();
    this.#close(topic);
  }

  /** Says something to everybody who is subscribed just now. It is not kept, and arrives at most once. */
  async publish(topic: string, payload: unknown): Promise<void> {
    await this.#client.send(topic, payload);
  }

  #open(topic: string): Topic {
    const known = this.#topics.get(topic);
    if (known) return known;
    const entry: Topic = { room: this.#client.join(topic), presence: new Set(), messages: new Set() };
    this.#topics.set(topic, entry);
    entry.room.on("change", (change) => {
      if (change.isFirst) this.#list(topic, entry, [...entry.presence]);
      else this.#changed(topic, entry, change);
    });
    entry.room.on("signal", ({ user, data, time }) => {
      const message = { topic, senderId: user, payload: data, sentAt: time };
      for (const handler of [...entry.messages]) guard(() => handler(message));
    });
    return entry;
  }

  async #ready(topic: string, entry: Topic, takeBack: () => void): Promise<void> {
    try {
      await entry.room.ready;
    } catch (error) {
      // Whoever took the handler off before does not wait for an answer.
      takeBack();
      if (this.#topics.get(topic) !== entry) return;
      this.#close(topic);
      throw error;
    }
  }

  #close(topic: string): void {
    const entry = this.#topics.get(topic);
    if (!entry || entry.presence.size + entry.messages.size > 0) return;
    this.#topics.delete(topic);
    void entry.room.leave();
  }

  #list(topic: string, entry: Topic, handlers: readonly PresenceHandler[]): void {
    const subscribers = [...entry.room.members.keys()];
    for (const { user, since } of entry.room.members.values()) {
      this.#tell(handlers, { clientId: user, topic, status: "online", timestamp: since, subscribers });
    }
  }

  #changed(topic: string, entry: Topic, { joined, left }: Change<unknown>): void {
    const subscribers = [...entry.room.members.keys()];
    const handlers = [...entry.presence];
    for (const { user } of left) this.#tell(handlers, { clientId: user, topic, status: "offline", timestamp: Date.now(), subscribers });
    for (const { user, since } of joined) this.#tell(handlers, { clientId: user, topic, status: "online", timestamp: since, subscribers });
  }

  #tell(handlers: readonly PresenceHandler[], presence: Presence): void {
    for (const handler of handlers) guard(() => handler(presence));
  }
}
