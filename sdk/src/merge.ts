/** A merge patch applied (RFC 7396): fields are replaced, null takes one away. Nothing that was there before is changed. */
export function mergePatch(target: unknown, patch: unknown): unknown {
  if (!isObject(patch)) return patch;
  // Entries instead of assignments: a field called `__proto__` is a field like any other.
  const merged = new Map(isObject(target) ? Object.entries(target) : []);
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) merged.delete(name);
    else merged.set(name, mergePatch(merged.get(name), value));
  }
  return Object.fromEntries(merged);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The merge patch that turns one into the other, or undefined where nothing differs. A field that is null counts as none. */
export function patchBetween(before: object, after: object): Record<string, unknown> | undefined {
  const known = new Map<string, unknown>(Object.entries(before));
  const patch = new Map<string, unknown>();
  for (const [name, value] of Object.entries(after)) {
    const old = known.get(name);
    known.delete(name);
    if (value === undefined || value === null) {
      if (old !== undefined && old !== null) patch.set(name, null);
    } else if (isObject(old) && isObject(value)) {
      const inner = patchBetween(old, value);
      if (inner) patch.set(name, inner);
    } else if (JSON.stringify(old) !== JSON.stringify(value)) patch.set(name, value);
  }
  for (const [name, old] of known) if (old !== undefined && old !== null) patch.set(name, null);
  return patch.size > 0 ? Object.fromEntries(patch) : undefined;
}
