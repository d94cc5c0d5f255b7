// Who types, as a sentence to put below a text field.

/** The sentence in some language. */
export interface TypingWords {
  readonly one: (name: string) => string;
  readonly two: (first: string, second: string) => string;
  /** Three or more: their number, for names would be longer than the line. */
  readonly many: (count: number) => string;
}

export interface TypingOptions {
  /** How a user is called; as the user's own name of Rollcall unless it is said otherwise. */
  readonly name?: (user: string) => string;
  /** Words of another language. */
  readonly words?: TypingWords;
  /** A user who is left out: the one who reads it. */
  readonly except?: string | null | undefined;
}

const ENGLISH: TypingWords = {
  one: (name) => `${name} is typing…`,
  two: (first, second) => `${first} and ${second} are typing…`,
  many: (count) => `${count} people are typing…`,
};

/**
 * "Ann is typing…", "Ann and Ben are typing…", "3 people are typing…", or nothing where nobody does. It is text with what strangers call
 * themselves in it: show it with `textContent` and never as markup.
 */
export function typingSentence(users: Iterable<string>, options: TypingOptions = {}): string {
  const { name = (user) => user, words = ENGLISH, except } = options;
  const [first, second, ...others] = [...new Set(users)].filter((user) => user !== except);
  if (first === undefined) return "";
  if (second === undefined) return words.one(name(first));
  return others.length === 0 ? words.two(name(first), name(second)) : words.many(others.length + 2);
}
