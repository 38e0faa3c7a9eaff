// @ts-check
/** The plaza: every strategy as a card; one strategy in detail. */

import { act, confirmed } from "../../core/act.js";
import { get, post } from "../../core/api.js";
import { fill, h, problem, toast } from "../../core/dom.js";
import { bind } from "../../core/keys.js";
import { listen } from "../../core/live.js";
import { go, remember } from "../../core/router.js";
import { may } from "../../core/session.js";
import { card } from "./card.js";
import { comparing } from "./compare.js";
import { detail } from "./detail.js";
import { creating } from "./form.js";

// S2 11.6: the plaza is read again every 30 s.
const REFRESH_MS = 30_000;
const STORED_MS = 2_000;
const STATUSES = ["running", "paused", "error", "deprecated"];

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "plaza",
  title: "Plaza",
  async show({ root, rest, query, signal }) {
    if (rest[0] === "new") return creating(root);
    if (rest[0] === "compare") return comparing(root, query, signal);
    if (rest[0]) return detail(root, rest[0], query, signal);
    const chosen = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": "Status" },
      h("option", { value: "" }, "every status"), STATUSES.map((status) => h("option", { value: status }, status))));
    chosen.value = query.get("status") ?? "";
    const cards = h("div.grid");
    /** @type {any[]} */
    let shown = [];
    const switchAll = (/** @type {boolean} */ on) => {
      const button = /** @type {HTMLButtonElement} */ (h("button", { class: on ? "" : "danger" }, on ? "Resume all" : "Pause all"));
      button.addEventListener("click", async () => {
        const some = shown.filter((one) => one.configured_status === (on ? "paused" : "running"));
        if (!some.length) return toast(on ? "No strategy in view is paused" : "No strategy in view runs");
        const note = await confirmed(on ? "Resume all" : "Pause all", `${on ? "These strategies give signals again" : "These strategies give no signals until they are resumed"}: ${some.map((one) => one.display_name).join(", ")}.`, on ? "" : `pause ${some.length}`);
        if (note === null) return;
        const strategies = Object.fromEntries(some.map((one) => [one.strategy_id, one.revision]));
        if (await act(button, () => post("/paper/switches", { on, strategies, note: note || null }), `${some.length} strategies are ${on ? "resumed" : "paused"}: the records are written`)) await read();
      });
      return button;
    };
    const read = async () => {
      try {
        const { cards: found } = await get("/plaza", { status: chosen.value }, signal);
        shown = found;
        fill(cards, found.length ? found.map(card) : h("div.empty", null, chosen.value
          ? `No strategy is ${chosen.value}.`
          : "No strategies yet. `perpflow strategies import --defaults` writes the default ones."));
      } catch (error) {
        if (!signal.aborted) fill(cards, problem(error));
      }
    };
    chosen.addEventListener("change", () => { remember({ status: chosen.value || null }); void read(); });
    fill(root, h("div.page-head", null, h("h1", null, "Plaza"), chosen, h("span.spacer"),
      may("operator") && [switchAll(false), switchAll(true)], h("a.button", { href: "/plaza/compare", "data-link": true }, "Compare"),
      may("operator") && h("a.button", { href: "/plaza/new", "data-link": true }, "New strategy")), cards);
    bind("c", "Compare two strategies", () => go("/plaza/compare"), signal);
    if (may("operator")) bind("n", "New strategy", () => go("/plaza/new"), signal);
    await read();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let waiting;
    // The sink stores a revision within seconds after it was written.
    const soon = () => { clearTimeout(waiting); waiting = setTimeout(() => { if (!signal.aborted) void read(); }, STORED_MS); };
    listen(["strategies:*", "trades_closed:*"], { strategies: soon, trades_closed: soon, reset: soon }, signal);
    const timer = setInterval(read, REFRESH_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  },
};
