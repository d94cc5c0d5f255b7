/** A letter on a calm colour that is always the same for the same name. */
export function paintAvatar(element: HTMLElement, name: string): void {
  let hash = 0;
  for (const character of name) hash = (hash * 31 + (character.codePointAt(0) ?? 0)) % 100_003;
  element.textContent = ([...name][0] ?? "?").toUpperCase();
  element.style.setProperty("--hue", String(Math.round(hash * 137.5) % 360));
}
