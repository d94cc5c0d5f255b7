// A page without a browser, as far as React and Vue want one. To be imported before them.

import { Window } from "happy-dom";

const window = new Window({ url: "http://there/" });
const names = ["document", "location", "navigator", "Node", "Element", "HTMLElement", "SVGElement", "Event", "MutationObserver"] as const;
const page = Object.fromEntries(names.map((name) => [name, window[name]]));
// React asks whether updates are to be waited for; tests wait for all.
const all = { window, ...page, IS_REACT_ACT_ENVIRONMENT: true };
// A newer Node has a navigator of its own, which cannot be assigned to.
for (const [name, value] of Object.entries(all)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
