// A channel and users, as the server of `fake.ts` plays them.

import { FakeSocket, settle, type Frame } from "./fake.js";

export const ann = { user: "ann", status: "online", state: {}, since: 1, connections: 1 };

/** The newest socket hears of the channel `room`, unless it is said otherwise. */
export async function hear(frame: object): Promise<void> {
  FakeSocket.last.hear({ channel: "room", mode: "full", epoch: "e", occupancy: { users: 1, connections: 1 }, time: 1, ...frame });
  await settle();
}

export const snapshot = (version: number, members: object[] = [ann], more: object = {}): Promise<void> =>
  hear({ event: "snapshot", level: "users", version, members, more: false, ...more });

export const delta = (from: number, to: number, more: object): Promise<void> => hear({ event: "delta", from, to, ...more });

/** Lets whoever asks into the channel, and shows these there. The answer is the join. */
export async function admit(members: object[] = [ann], channel = "room"): Promise<Frame> {
  const join = await FakeSocket.last.answer("join", { channel, epoch: "e", version: 1 });
  await FakeSocket.last.answer("watch");
  await snapshot(1, members, { channel, occupancy: { users: members.length, connections: members.length } });
  return join;
}

/** Tells how users are. */
export async function hearUsers(users: object[], more: object = {}): Promise<void> {
  FakeSocket.last.hear({ event: "users", users, time: 1, ...more });
  await settle();
}
