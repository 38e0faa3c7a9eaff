// @ts-check
/** Starts the console: session, menu, theme, keyboard, first page. */

import { pages } from "../pages/index.js";
import { post } from "./api.js";
import { byId, fill, h } from "./dom.js";
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

/** Keyboard: g and a page's first letter goes there, / goes to the page's first field. */
function keyboard() {
  let going = false;
  addEventListener("keydown", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea, [contenteditable]")) return;
    if (going) {
      const page = pages.find((one) => one.menu !== false && one.path[0] === event.key);
      if (page) go(`/${page.path}`);
    } else if (event.key === "/") {
      event.preventDefault();
      /** @type {HTMLElement | null} */ (document.querySelector("main input, main select"))?.focus();
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
