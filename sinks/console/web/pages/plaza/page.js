// @ts-check
/** The plaza: every strategy as a card; one strategy in detail. */

import { get } from "../../core/api.js";
import { fill, h, problem } from "../../core/dom.js";
import { remember } from "../../core/router.js";
import { may } from "../../core/session.js";
import { card } from "./card.js";
import { detail } from "./detail.js";
import { creating } from "./form.js";

// S2 11.6: the plaza is read again every 30 s.
const REFRESH_MS = 30_000;
const STATUSES = ["running", "paused", "error", "deprecated"];

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "plaza",
  title: "Plaza",
  async show({ root, rest, query, signal }) {
    if (rest[0] === "new") return creating(root);
    if (rest[0]) return detail(root, rest[0], query, signal);
    const chosen = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": "Status" },
      h("option", { value: "" }, "every status"), STATUSES.map((status) => h("option", { value: status }, status))));
    chosen.value = query.get("status") ?? "";
    const cards = h("div.grid");
    const read = async () => {
      try {
        const { cards: found } = await get("/plaza", { status: chosen.value }, signal);
        fill(cards, found.length ? found.map(card) : h("div.empty", null, chosen.value
          ? `No strategy is ${chosen.value}.`
          : "No strategies yet. `perpflow strategies import --defaults` writes the default ones."));
      } catch (error) {
        if (!signal.aborted) fill(cards, problem(error));
      }
    };
    chosen.addEventListener("change", () => { remember({ status: chosen.value || null }); void read(); });
    fill(root, h("div.page-head", null, h("h1", null, "Plaza"), chosen, h("span.spacer"),
      may("operator") && h("a.button", { href: "/plaza/new", "data-link": true }, "New strategy")), cards);
    await read();
    const timer = setInterval(read, REFRESH_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  },
};
