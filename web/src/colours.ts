// Light or dark: as the system has it, unless the reader has chosen here.

export type Theme = "light" | "dark";

const NAME = "rollcall-colours";
const dark = matchMedia("(prefers-color-scheme: dark)");

/** What the reader has chosen on an earlier page. */
export function storedTheme(): Theme | undefined {
  try {
    const stored = localStorage.getItem(NAME);
    return stored === "light" || stored === "dark" ? stored : undefined;
  } catch {
    // A browser that keeps nothing for pages.
    return undefined;
  }
}

/** Makes a button switch the colours. `changed` is called when they are others, by whichever way. */
export function switchColours(button: HTMLElement, changed: () => void = () => {}): void {
  const root = document.documentElement;
  const current = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const draw = () => {
    button.setAttribute("aria-label", current() === "dark" ? "Switch to light colours" : "Switch to dark colours");
    changed();
  };
  button.addEventListener("click", () => {
    const next = current() === "dark" ? "light" : "dark";
    root.dataset.theme = next;
    try {
      localStorage.setItem(NAME, next);
    } catch {
      // Then it holds for this page.
    }
    draw();
  });
  dark.addEventListener("change", draw);
  draw();
}
