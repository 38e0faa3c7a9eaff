// @ts-check
/** Two strategies side by side: the fields in which they differ, and what their closed trades came to, with counts and intervals. */

import { get } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { number, percent, signed } from "../../core/format.js";
import { remember } from "../../core/router.js";

const MODES = ["paper", "testnet", "live", "simulated"];

/** @param {HTMLElement} root @param {URLSearchParams} query @param {AbortSignal} signal */
export async function comparing(root, query, signal) {
  const { strategies } = await get("/strategies", {}, signal);
  const ids = strategies.map((/** @type {any} */ one) => one.strategy_id);
  const head = h("div.page-head", null, h("a", { href: "/plaza", "data-link": true }, "Plaza"), h("h1", null, "Compare"));
  if (ids.length < 2) return fill(root, head, h("div.empty", null, "A comparison needs two strategies."));
  const select = (/** @type {string} */ label, /** @type {string[]} */ options, /** @type {string} */ chosen) => {
    const made = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": label }, options.map((value) => h("option", { value }, value))));
    made.value = options.includes(chosen) ? chosen : options[0];
    made.addEventListener("change", () => void read());
    return made;
  };
  const a = select("First strategy", ids, query.get("a") ?? ids[0]), b = select("Second strategy", ids, query.get("b") ?? ids[1]), mode = select("Account", MODES, query.get("mode") ?? "");
  const body = h("div");
  head.append(a, "with", b, mode);
  fill(root, head, body);
  const read = async () => {
    remember({ a: a.value, b: b.value, mode: mode.value });
    try {
      fill(body, parts(await get("/compare", { a: a.value, b: b.value, mode: mode.value }, signal)));
    } catch (error) {
      if (!signal.aborted) fill(body, problem(error));
    }
  };
  await read();
}

/** @param {any} found answer of GET /compare */
function parts(found) {
  const { all, groups } = found.trades;
  const interval = (/** @type {any} */ one) => (one ? `${signed(one.low, "", 3)}to ${signed(one.high, "R", 3)}` : "–");
  const figures = /** @type {[string, (side: any) => string][]} */ ([
    ["Closed trades", (side) => number(side.trades, 0)],
    ["Win rate (95 %)", (side) => (side.win_rate === null ? "–" : `${percent(side.win_rate)} (${percent(side.win_rate_low, 0)} to ${percent(side.win_rate_high, 0)}, n ${side.trades})`)],
    ["Mean R (95 %)", (side) => (side.mean_r === null ? "–" : `${signed(side.mean_r, "R", 3)} (${interval(side.interval)}, n ${side.trades})`)],
    ["Net result", (side) => (side.trades ? signed(side.net_r, "R") : "–")],
    ["Net result, money", (side) => (side.trades ? signed(side.net_pnl, "quote") : "–")],
    ["Profit factor", (side) => (side.profit_factor === null ? "–" : `${number(side.profit_factor)} (n ${side.trades})`)],
    ["Max drawdown", (side) => (side.trades ? `${number(side.drawdown_r)} R, ${number(side.drawdown_pnl)} quote` : "–")],
    ["Configurations in the trades", (side) => number(side.configurations.length, 0)],
  ]);
  const verdict = all.verdict === "too few trades" ? `Too few trades for a verdict: each side needs ${all.least}.`
    : all.verdict === "neither" ? "No significant difference in mean R." : `${all.verdict === "A" ? found.a.display_name : found.b.display_name} is better in mean R.`;
  const shown = (/** @type {any} */ value) => (Array.isArray(value) ? value.join(", ") || "–" : value === null || value === "" ? "–" : String(value));
  const part = (/** @type {string} */ title, /** @type {any[]} */ ...content) => h("section.card", { style: { marginTop: "12px" } }, h("header", null, h("h2", null, title)), content);
  return [
    part(`Closed trades, ${found.mode}`, h("p", null, verdict, all.difference === null ? "" : ` Mean R of the first less that of the second: ${signed(all.difference, "R", 3)} (${interval(all.interval)}).`), table([
      { title: "", cell: (/** @type {[string, (side: any) => string]} */ row) => row[0] },
      { title: found.a.display_name, number: true, cell: (row) => row[1](all.a) }, { title: found.b.display_name, number: true, cell: (row) => row[1](all.b) },
    ], figures, "Closed trades of both", "")),
    part(`Fields that differ (revisions ${found.a.revision} and ${found.b.revision})`, table([
      { title: "Field", cell: (/** @type {[string, any[]]} */ row) => row[0] },
      { title: found.a.display_name, number: true, cell: (row) => shown(row[1][0]) }, { title: found.b.display_name, number: true, cell: (row) => shown(row[1][1]) },
    ], /** @type {[string, any[]][]} */ (Object.entries(found.fields)), "Fields that differ", "They have the same settings.")),
    ...Object.entries(groups).filter(([, pairs]) => /** @type {any[]} */ (pairs).length).map(([name, pairs]) => part(`By ${name}`, table([
      { title: name, cell: (/** @type {any} */ row) => row.name },
      { title: "Trades", number: true, cell: (row) => `${row.a.trades} / ${row.b.trades}` },
      { title: "Win rate", number: true, cell: (row) => `${percent(row.a.win_rate)} / ${percent(row.b.win_rate)}` },
      { title: "Mean R", number: true, cell: (row) => `${signed(row.a.mean_r, "", 3)} / ${signed(row.b.mean_r, "R", 3)}` },
      { title: "Verdict", cell: (row) => row.verdict },
    ], /** @type {any[]} */ (pairs), `By ${name}`, ""))),
  ];
}
