/** What this side reads in a token. It is not checked here: the server does that. */
export interface Claims {
  readonly sub?: string;
  /** Unix seconds. */
  readonly exp?: number;
}

/** The claims of a JWT, or none for what cannot be read as one. */
export function claimsOf(token: string): Claims {
  try {
    const part = token.split(".")[1] ?? "";
    const bytes = atob(part.replace(/-/g, "+").replace(/_/g, "/"));
    const claims: unknown = JSON.parse(new TextDecoder().decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0))));
    if (typeof claims !== "object" || claims === null) return {};
    const { sub, exp } = claims as Record<string, unknown>;
    return { ...(typeof sub === "string" && { sub }), ...(typeof exp === "number" && { exp }) };
  } catch {
    return {};
  }
}
