// The client as one file, for pages that have no bundler: what `@rollcall/client` gives, with its two other styles and the sentence of who types.

export * from "../../sdk/src/index.js";
export * from "../../sdk/src/logins.js";
export * from "../../sdk/src/topics.js";
export * from "../../sdk/src/typing.js";
