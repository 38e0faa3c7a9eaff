// @ts-check
/** Keyboard: every page binds its keys here, and "?" lists all that hold now. */

import { fill, h } from "./dom.js";

/** @typedef {{key: string, text: string, action: () => void}} Binding */

/** @type {Map<string, Binding>} */
const bindings = new Map();

/**
 * Bind a key until a visit ends.
 * @param {string} key as KeyboardEvent.key
 * @param {string} text what it does
 * @param {() => void} action
 * @param {AbortSignal} signal
 */
export function bind(key, text, action, signal) {
  const binding = { key, text, action };
  bindings.set(key, binding);
  signal.addEventListener("abort", () => { if (bindings.get(key) === binding) bindings.delete(key); });
}

/** Whether a key of the page was pressed, and done. @param {string} key */
export function pressed(key) {
  const found = bindings.get(key);
  found?.action();
  return Boolean(found);
}

/** Show all keys. @param {[string, string][]} everywhere those that hold on every page @param {string} title of the page */
export function help(everywhere, title) {
  const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-label": "Keyboard shortcuts" }));
  const list = (/** @type {[string, string][]} */ keys) => h("dl.facts.keys", null, keys.flatMap(([key, text]) => [h("dt", null, h("kbd", null, key)), h("dd", null, text)]));
  const own = /** @type {[string, string][]} */ ([...bindings.values()].map((one) => [one.key, one.text]));
  fill(dialog, h("h2", null, "Keyboard shortcuts"), h("h3", null, "Everywhere"), list(everywhere), h("h3", null, title), own.length ? list(own) : h("p.muted", null, "This page has no keys of its own."),
    h("footer", null, h("button", { onclick: () => dialog.close() }, "Close")));
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
