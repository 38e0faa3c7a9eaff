// @ts-check
/** Pages by address. A page change loads nothing of the shell again; everything that a page shows is in its address. */

import { byId, fill, h, problem } from "./dom.js";

/**
 * A page of the console.
 * @typedef {object} Page
 * @property {string} path first part of its address: "plaza" serves /plaza and /plaza/ID
 * @property {string} title
 * @property {string} [key] letter that goes to it after g; without it the first of its path
 * @property {string} [role] least role that sees it in the menu
 * @property {(visit: Visit) => void | Promise<void>} show fills `visit.root`
 */

/**
 * One visit of a page.
 * @typedef {object} Visit
 * @property {HTMLElement} root
 * @property {string[]} rest parts of the address after the page's
 * @property {URLSearchParams} query
 * @property {AbortSignal} signal aborted when the visit ends: give it to calls, listeners, streams
 */

/** @type {Map<string, Page>} */
const pages = new Map();
let visit = new AbortController();
let first = "";

/** @param {Page[]} all the first is shown at / */
export function start(all) {
  for (const page of all) pages.set(page.path, page);
  first = all[0].path;
  addEventListener("popstate", () => void show());
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[data-link]") : null;
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(/** @type {HTMLAnchorElement} */ (link).href);
  });
  return show();
}

/** Go to another address. @param {string} address */
export function go(address) {
  history.pushState(null, "", address);
  void show();
}

/** Change the query without leaving the page. @param {Record<string, any>} changes null removes */
export function remember(changes) {
  const address = new URL(location.href);
  for (const [name, value] of Object.entries(changes)) value === null ? address.searchParams.delete(name) : address.searchParams.set(name, String(value));
  history.replaceState(null, "", address);
}

export async function show() {
  visit.abort();
  visit = new AbortController();
  const { signal } = visit;
  const [name = "", ...rest] = location.pathname.split("/").filter(Boolean).map(decodeURIComponent);
  const page = pages.get(name || first);
  const root = byId("page");
  document.title = page ? `${page.title} · perpflow` : "perpflow";
  for (const link of document.querySelectorAll("#nav a")) {
    link.toggleAttribute("aria-current", false);
    if (page && link.getAttribute("href") === `/${page.path}`) link.setAttribute("aria-current", "page");
  }
  byId("nav").classList.remove("open");
  byId("menu").setAttribute("aria-expanded", "false");
  fill(root, h("div.skeleton", { "aria-label": "loading" }));
  if (!page) return fill(root, h("div.empty", null, `There is no page ${location.pathname}.`));
  try {
    await page.show({ root, rest, query: new URLSearchParams(location.search), signal });
  } catch (error) {
    if (!signal.aborted) fill(root, problem(error));
  }
}
