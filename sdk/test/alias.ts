// Packages that are installed beside the newest, so that the same tests run with older ones.

import Module, { register } from "node:module";

/** Whoever asks for one of these packages is given the other one from here on: modules of both kinds. */
export function alias(names: Record<string, string>): void {
  const pattern = new RegExp(`^(?:${Object.keys(names).join("|")})(?=$|/)`);
  const loader = `const names = ${JSON.stringify(names)};
    export const resolve = (name, context, next) => next(name.replace(${pattern}, (found) => names[found]), context);`;
  register(`data:text/javascript,${encodeURIComponent(loader)}`);
  const legacy = Module as unknown as { _resolveFilename(name: string, ...rest: unknown[]): string };
  const resolve = legacy._resolveFilename;
  legacy._resolveFilename = (name, ...rest) => resolve.call(legacy, name.replace(pattern, (found) => names[found] ?? found), ...rest);
}
