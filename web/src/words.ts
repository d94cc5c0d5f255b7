// How things are said: counts, names, states, changes.

import type { Change } from "../../sdk/src/roster.js";
import type { Json, Member, RollcallError } from "../../sdk/src/index.js";
import { typingSentence } from "../../sdk/src/typing.js";

const NAMED = 4;
const NAME_LENGTH = 40;

/** `1 person`, `2 people`. */
export function count(number: number, one: string, many: string): string {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function clip(text: string, length = NAME_LENGTH): string {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : text;
}

/** A state in a few words: the mood that the playground sets, else the JSON that somebody else has set. */
export function stateWords(state: unknown): string {
  if (state === null || typeof state !== "object" || Object.keys(state).length === 0) return "";
  const { mood } = state as Json;
  return clip(typeof mood === "string" ? mood : JSON.stringify(state), 60);
}

/** A change of a channel in words. */
export function changeWords({ joined, updated, left }: Change<Json>): string {
  const parts: string[] = [];
  if (joined.length) parts.push(`${list(joined, ({ user }) => clip(user))} joined`);
  if (left.length) parts.push(list(left, ({ user, reason }) => `${clip(user)} left (${reason})`));
  if (updated.length) parts.push(list(updated, ({ member, before }) => updateWords(member, before)));
  return parts.join(" · ") || "occupancy changed";
}

/** What sort of change it is, where it is one only. */
export function changeKind({ joined, updated, left }: Change<Json>): "join" | "leave" | "update" | "delta" {
  const kinds = [joined.length && "join", left.length && "leave", updated.length && "update"].filter(Boolean) as ("join" | "leave" | "update")[];
  return kinds.length === 1 && kinds[0] ? kinds[0] : "delta";
}

function updateWords(member: Member, before: Member): string {
  const name = clip(member.user);
  if (before.connections !== member.connections) return `${name} is on ${count(member.connections, "connection", "connections")}`;
  if (before.status !== member.status) return `${name} is ${member.status}`;
  return `${name} is now ${stateWords(member.state) || "without a mood"}`;
}

function list<Entry>(entries: readonly Entry[], words: (entry: Entry) => string): string {
  const named = entries.slice(0, NAMED).map(words);
  if (entries.length > NAMED) named.push(`${entries.length - NAMED} more`);
  return named.join(", ");
}

/** Who types, for one line. */
export function typingWords(users: Iterable<string>): string {
  return typingSentence(users, { name: (user) => clip(user, 24) });
}

/** What somebody said in passing. */
export function signalWords(user: string, data: unknown): string {
  const { wave, text } = (typeof data === "object" && data !== null ? data : {}) as Json;
  if (wave === true) return `${clip(user)} waves`;
  return typeof text === "string" ? `${clip(user)} says: ${clip(text, 200)}` : `${clip(user)} sends ${clip(JSON.stringify(data) ?? "", 100)}`;
}

/** An error for somebody who looks at a page: what a programmer should do about it is left out. */
export function reasonWords(error: RollcallError | undefined): string {
  return (error?.message ?? "").replace(/: [^:]*`connect`[^:]*$/, "");
}
