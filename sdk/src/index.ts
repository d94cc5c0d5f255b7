// Who is here: presence for browsers, workers and Node.

export { Rollcall, type ClientEvents, type RollcallOptions } from "./client.js";
export { Channel, Room, type ChannelEvents } from "./channel.js";
export { RollcallError, type Code } from "./errors.js";
export type { Unsubscribe } from "./emitter.js";
export type { State as ConnectionState, TokenSource } from "./link.js";
export { Watch, type UserChange, type WatchEvents, type WatchSnapshot } from "./people.js";
export type { Json, Leave, Level, Member, Mode, Occupancy, Reason, Signal, Status, UserView, Welcome } from "./protocol.js";
export type { Change } from "./roster.js";
export type { ChannelSnapshot, JoinOptions } from "./view.js";
