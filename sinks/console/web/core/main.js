// @ts-check
/** Starts the console: session, menu, theme, keyboard, first page. */

import { pages } from "../pages/index.js";
import { post } from "./api.js";
import { byId, fill, h } from "./dom.js";
import { help, pressed } from "./keys.js";
import { go, show, start } from "./router.js";
import { load, may, session } from "./session.js";

function menu() {
  const nav = byId("nav");
  fill(nav, pages.filter((page) => page.menu !== false && may(page.role ?? "viewer")).map((page) => h("a", { href: `/${page.path}`, "data-link": true }, page.title)));
  const { name, anonymous } = session();
  fill(byId("account"), name && !anonymous
    ? h("span", { style: { display: "flex", gap: "8px", alignItems: "center" } }, h("a", { href: "/account", "data-link": true }, name), h("button", { onclick: async () => { await post("/auth/logout"); location.assign("/login"); }, "aria-label": `Log out ${name}` }, "Log out"))
    : anonymous ? h("span.badge", { title: "No users are configured: everything can be read, nothing changed." }, "read-only") : h("a.button", { href: "/login", "data-link": true }, "Log in"));
}

function theme() {
  byId("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "light" ? "dark" : "light";
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("perpflow.theme", next); } catch { /* storage may be off */ }
    dispatchEvent(new CustomEvent("perpflow:theme"));
  });
}

/** The pages that g and a letter go to. */
const reachable = () => pages.filter((page) => page.menu !== false && may(page.role ?? "viewer"));
/** @param {import("./router.js").Page} page */
const letter = (page) => page.key ?? page.path[0];

function showHelp() {
  const here = pages.find((page) => page.path === (location.pathname.split("/")[1] || pages[0].path));
  help([...reachable().map((page) => /** @type {[string, string]} */ ([`g ${letter(page)}`, page.title])), ["/", "First field of the page"], ["?", "This list"]], here?.title ?? "This page");
}

/** Keyboard: g and a page's letter goes there, / goes to the page's first field, ? lists all keys; the rest are the page's own. */
function keyboard() {
  let going = false;
  byId("help").addEventListener("click", showHelp);
  addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea, [contenteditable]") || document.querySelector("dialog[open]")) return;
    if (going) {
      const page = reachable().find((one) => letter(one) === event.key);
      if (page) go(`/${page.path}`);
    } else if (event.key === "/") {
      event.preventDefault();
      /** @type {HTMLElement | null} */ (document.querySelector("main input, main select"))?.focus();
    } else if (event.key === "?") {
      showHelp();
    } else if (pressed(event.key)) {
      event.preventDefault();
    }
    going = event.key === "g" && !going;
  });
}

byId("menu").addEventListener("click", () => {
  const open = byId("nav").classList.toggle("open");
  byId("menu").setAttribute("aria-expanded", String(open));
});
addEventListener("perpflow:signed-out", () => { if (!["/login", "/register"].includes(location.pathname)) go(`/login?then=${encodeURIComponent(location.pathname + location.search)}`); });
addEventListener("perpflow:signed-in", async () => { await load(); menu(); void show(); });

theme();
keyboard();
await load();
menu();
await start(pages);
