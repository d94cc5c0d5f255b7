/** The codes of the server, and those of this side: `offline`, `closed`, `full` and `no_socket`. */
export type Code =
  | "bad_request"
  | "unknown_op"
  | "unauthorized"
  | "token_expired"
  | "forbidden"
  | "not_found"
  | "conflict"
  | "too_large"
  | "limit"
  | "rate_limited"
  | "unavailable"
  | "internal"
  | "replaced"
  | "kicked"
  | "banned"
  | "offline"
  | "closed"
  | "full"
  | "no_socket";

/** What to do, for those codes whose messages do not say it by themselves. */
const ADVICE: Partial<Record<Code, string>> = {
  forbidden: "give the token what it lacks in `can`, or do without",
  limit: "give something up first",
  rate_limited: "wait `retryAfterMs`",
  unavailable: "try again; it may or may not have been carried out",
  internal: "report it to whoever runs the server",
  unauthorized: "check what your `token` function returns, then call `connect`",
  kicked: "ask your own server whether to come back, then call `connect`",
  banned: "call `connect` when the ban has ended",
  offline: "it was not sent; try again when the state is `open`",
  closed: "make or join a new one",
  full: "it was not sent; wait for answers before asking for more",
};

/** Everything that this library refuses or that the server refused. `code` is for programs, `message` for people. */
export class RollcallError extends Error {
  override readonly name = "RollcallError";

  constructor(
    readonly code: Code,
    message: string,
    /** After how long it may be tried again. */
    readonly retryAfterMs?: number,
  ) {
    const advice = ADVICE[code];
    super(advice && !message.includes(advice) ? `${message}: ${advice}` : message);
  }

  /** Whether the same may succeed a little later. */
  get isPassing(): boolean {
    return this.code === "unavailable" || this.code === "rate_limited" || this.code === "offline";
  }
}

/** An error of any origin as one of ours. */
export function toError(error: unknown, code: Code = "internal"): RollcallError {
  return error instanceof RollcallError ? error : new RollcallError(code, error instanceof Error ? error.message : String(error));
}
