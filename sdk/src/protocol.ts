// The frames of the native protocol, as docs/protocol.md of Rollcall writes them. Fields that are not known here may come: ignore them.

/** How somebody is there. Treat one that you do not know as `online`. `invisible` is only ever seen of oneself. */
export type Status = "online" | "idle" | "away" | "busy" | "offline" | "invisible";

/** What a channel's watcher is told about: its users, each of their connections, or only how many there are. */
export type Level = "users" | "connections" | "occupancy";

/** How a channel is told at its size: every change, net changes at longer intervals, or the counts alone. */
export type Mode = "full" | "net" | "occupancy";

/** Why somebody is not there any more. */
export type Reason = "left" | "timeout" | "expired" | "kicked" | "instance_lost";

/** A JSON object. */
export type Json = Record<string, unknown>;

/** How many are in a channel. */
export interface Occupancy {
  readonly users: number;
  readonly connections: number;
}

/** A user in a channel; at the level `connections` one connection of a user. */
export interface Member<State = Json> {
  readonly user: string;
  readonly status: Status;
  readonly state: State;
  /** What the user's token says to others. */
  readonly info?: Json;
  /** Unix milliseconds. */
  readonly since: number;
  /** How many devices of the user are here. */
  readonly connections: number;
  readonly connection?: string;
  readonly device?: string;
}

/** Somebody who is not there any more, with the last state. */
export interface Leave<State = Json> {
  readonly user: string;
  readonly reason: Reason;
  readonly state: State;
  readonly connection?: string;
  readonly device?: string;
}

/** How a user is there, or when last. */
export interface UserView {
  readonly status: Status;
  readonly text?: string;
  readonly since?: number;
  readonly last_active?: number;
  readonly last_seen?: number;
  /** What an app shows of the user, whether online or not. */
  readonly state?: Json;
}

/** A point in a channel's history. */
export interface Since {
  readonly epoch: string;
  readonly version: number;
  readonly mode?: Mode;
}

/** The whole of a channel, or a page of it. */
export interface SnapshotFrame {
  readonly event: "snapshot";
  readonly channel: string;
  readonly level: Level;
  readonly mode?: Mode;
  readonly epoch: string;
  readonly version: number;
  readonly members?: readonly Member[];
  readonly occupancy: Occupancy;
  readonly more: boolean;
  readonly cause?: string;
  readonly time: number;
}

/** What changed in a channel from one version to another. */
export interface DeltaFrame {
  readonly event: "delta";
  readonly channel: string;
  readonly mode?: Mode;
  readonly epoch: string;
  readonly from_epoch?: string;
  readonly from: number;
  readonly to: number;
  readonly join?: readonly Member[];
  readonly update?: readonly Member[];
  readonly leave?: readonly Leave[];
  readonly occupancy: Occupancy;
  readonly time: number;
  /** Such a delta belongs to a watched pattern and not to a watch of the channel. */
  readonly pattern?: string;
}

/** What somebody said in passing, to everybody who watches just now. */
export interface Signal {
  readonly user: string;
  readonly data: unknown;
  readonly time: number;
}

/** What the server answers to `hello`. */
export interface Welcome {
  readonly connection: string;
  readonly user: string | null;
  readonly resumed: boolean;
  readonly channels: readonly string[];
  readonly resume?: string;
  readonly ping_ms: number;
  readonly grace_ms: number;
  readonly server_time: number;
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
}

/** An operation without its `id`. */
export type Operation = { readonly op: string } & Readonly<Record<string, unknown>>;

/** A frame that tells of something; `event` says of what. */
// Loose on purpose: frames come from outside, and each reader looks at the fields that it needs.
export type EventFrame = { readonly event: string; readonly channel?: string } & Readonly<Record<string, unknown>>;
