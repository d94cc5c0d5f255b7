// Finding and filling elements. Everything that strangers have written enters by `textContent` alone.

/** The element of this id, which the page has. */
export function byId<Kind extends HTMLElement = HTMLElement>(id: string): Kind {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page lacks #${id}`);
  return found as Kind;
}

/** The part of an element that the template has. */
export function part<Kind extends Element = HTMLElement>(root: ParentNode, selector: string): Kind {
  const found = root.querySelector(selector);
  if (!found) throw new Error(`the template lacks ${selector}`);
  return found as Kind;
}

/** A fresh copy of a template's only element. */
export function stamp(id: string): HTMLElement {
  return byId<HTMLTemplateElement>(id).content.firstElementChild?.cloneNode(true) as HTMLElement;
}

/** Writes what is new only: a text that is written again would be read out again. */
export function write(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** The same for a part that is hidden while it has nothing to say. */
export function writeOrHide(element: HTMLElement, text: string): void {
  write(element, text);
  element.hidden = text === "";
}

/** A moment in a `time` element. */
export function writeTime(element: HTMLTimeElement, ms: number | undefined, style: Intl.DateTimeFormatOptions, title = ""): void {
  const at = new Date(ms ?? NaN);
  element.hidden = Number.isNaN(at.getTime());
  if (element.hidden || element.dateTime === at.toISOString()) return;
  element.dateTime = at.toISOString();
  element.textContent = at.toLocaleString([], style);
  element.title = title && `${title} ${at.toLocaleString()}`;
}

/** Rows of a list by key: one is kept while its key stays, so that only what changed is drawn and read out. */
export class Rows<Entry> {
  #rows = new Map<string, HTMLElement>();
  #list: HTMLElement;
  #make: (key: string) => HTMLElement;
  #fill: (row: HTMLElement, entry: Entry) => void;

  constructor(list: HTMLElement, make: (key: string) => HTMLElement, fill: (row: HTMLElement, entry: Entry) => void) {
    this.#list = list;
    this.#make = make;
    this.#fill = fill;
  }

  get(key: string): HTMLElement | undefined {
    return this.#rows.get(key);
  }

  draw(entries: readonly (readonly [key: string, entry: Entry])[]): void {
    const focused = this.#list.contains(document.activeElement) ? (document.activeElement as HTMLElement) : null;
    const staying = new Set(entries.map(([key]) => key));
    for (const [key, row] of this.#rows) {
      if (staying.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    entries.forEach(([key, entry], place) => {
      let row = this.#rows.get(key);
      if (!row) this.#rows.set(key, (row = this.#make(key)));
      const there = this.#list.children[place] ?? null;
      if (there !== row) this.#list.insertBefore(row, there);
      this.#fill(row, entry);
    });
    // An element that is moved loses the focus, and one that is taken away leaves it nowhere.
    if (!focused || document.activeElement === focused) return;
    if (focused.isConnected) focused.focus({ preventScroll: true });
    else this.#list.closest<HTMLElement>("[tabindex]")?.focus({ preventScroll: true });
  }
}
