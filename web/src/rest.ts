/** What REST refused, in its own words. `status` 0: there was no answer at all. */
export class Problem extends Error {
  override readonly name = "Problem";

  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** No answer takes longer: the server itself gives up after 5 s. */
const ANSWER_MS = 10_000;

/** REST, as an app server asks it, with a key that lives in this page's memory only. */
export class Rest {
  /** Empty in development mode, which asks for none. */
  key = "";
  #base: URL;

  constructor(base: URL) {
    this.#base = base;
  }

  get<Answer>(path: string, query: Readonly<Record<string, string | number | boolean>> = {}): Promise<Answer> {
    const words = Object.entries(query).map(([name, value]) => [name, String(value)]);
    return this.#ask("GET", words.length ? `${path}?${new URLSearchParams(words)}` : path);
  }

  post<Answer>(path: string, body: unknown = {}): Promise<Answer> {
    return this.#ask("POST", path, body);
  }

  delete<Answer>(path: string): Promise<Answer> {
    return this.#ask("DELETE", path);
  }

  async #ask<Answer>(method: string, path: string, body?: unknown): Promise<Answer> {
    const { key } = this;
    let response: Response;
    try {
      response = await fetch(new URL(path, this.#base), {
        method,
        cache: "no-store",
        credentials: "omit",
        referrerPolicy: "no-referrer",
        headers: {
          accept: "application/json",
          ...(key && { authorization: `Bearer ${key}` }),
          ...(body !== undefined && { "content-type": "application/json" }),
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      if (response.ok) return (await response.json()) as Answer;
    } catch {
      throw new Problem(0, "the server does not answer");
    }
    const { detail, title } = (await response.json().catch(() => ({}))) as { detail?: string; title?: string };
    throw new Problem(response.status, detail ?? title ?? `the server answered with status ${response.status}`);
  }
}

/** A name as one part of a path. */
export function segment(name: string): string {
  return encodeURIComponent(name.replace(/\p{Surrogate}/gu, "\ufffd"));
}
