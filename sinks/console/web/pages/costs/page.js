// @ts-check
/** Execution cost: what paper expected beside what testnet and live paid, by strategy, instrument and component, each mean with its count. */

import { get } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { number, percent, short, signed } from "../../core/format.js";
import { listen } from "../../core/live.js";
import { remember } from "../../core/router.js";

const STORED_MS = 3_000;
const EXPECTED = "paper";
const MODES = ["simulated", "testnet", "live"];
// Choices of the range; the key stands in the address.
const RANGES = /** @type {Record<string, [string, number]>} */ ({ "1d": ["last day", 1], "7d": ["last 7 days", 7], "30d": ["last 30 days", 30], all: ["everything", 0] });

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "costs",
  title: "Costs",
  async show({ root, query, signal }) {
    const body = h("div");
    const select = (/** @type {string} */ label, /** @type {[string, string][]} */ options, /** @type {string} */ chosen) => {
      const made = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": label }, options.map(([value, text]) => h("option", { value }, text))));
      made.value = options.some(([value]) => value === chosen) ? chosen : options[0][0];
      made.addEventListener("change", () => { remember({ strategy: strategy.value || null, instrument: instrument.value || null, range: range.value }); void read(); });
      return made;
    };
    const { groups: all } = await get("/costs/summary", {}, signal);
    const names = (/** @type {string} */ field, /** @type {string} */ every) => /** @type {[string, string][]} */ ([["", every], ...[...new Set(all.map((/** @type {any} */ one) => one[field]))].sort().map((name) => [name, name])]);
    const strategy = select("Strategy", names("strategy_id", "every strategy"), query.get("strategy") ?? "");
    const instrument = select("Instrument", names("instrument", "every instrument"), query.get("instrument") ?? "");
    const range = select("Range", Object.entries(RANGES).map(([key, [text]]) => [key, text]), query.get("range") ?? "all");
    const file = /** @type {HTMLAnchorElement} */ (h("a.button", { download: "" }, "Trades as CSV"));
    fill(root, h("div.page-head", null, h("h1", null, "Execution cost"), strategy, instrument, range, h("span.spacer"), file), body);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let waiting;
    const read = async () => {
      const days = RANGES[range.value][1];
      const wanted = { strategy_id: strategy.value, instrument: instrument.value, start: days ? Date.now() - days * 86_400_000 : "" };
      file.href = `/api/v1/costs.csv?${new URLSearchParams(Object.entries(wanted).filter(([, value]) => value !== "").map(([name, value]) => [name, String(value)]))}`;
      try {
        const { components, groups } = await get("/costs/summary", wanted, signal);
        fill(body, groups.length ? parts(components, groups) : h("div.empty", null, "No trade of this choice has closed yet: costs are written when a trade closes."));
      } catch (error) {
        if (!signal.aborted) fill(body, problem(error));
      }
    };
    await read();
    // A closed trade brings its cost; the sink stores it within seconds.
    listen(["trades_closed:*"], { trades_closed: () => { clearTimeout(waiting); waiting = setTimeout(() => { if (!signal.aborted) void read(); }, STORED_MS); }, reset: () => void read() }, signal);
  },
};

/** @param {any} components @param {any[]} groups */
function parts(components, groups) {
  const keys = [...new Set(groups.map((one) => `${one.strategy_id}\n${one.instrument}`))];
  return keys.map((key) => {
    const own = groups.filter((one) => `${one.strategy_id}\n${one.instrument}` === key);
    const by = Object.fromEntries(own.map((one) => [one.mode, one]));
    const real = MODES.filter((mode) => mode in by);
    const cell = (/** @type {string} */ mode) => (/** @type {string} */ name) => {
      const one = by[mode]?.components[name];
      return one?.count ? `${value(one.mean, components[name].unit)} (n ${number(one.count, 0)})` : "–";
    };
    const [id, instrument] = key.split("\n");
    return h("section.card", { style: { marginTop: "12px" } },
      h("header", { style: { flexWrap: "wrap" } }, h("h2", null, h("a", { href: `/plaza/${encodeURIComponent(id)}?tab=paper`, "data-link": true }, id)), h("span.muted", null, instrument), h("span.spacer"),
        own.map((one) => h("span.badge", { title: one.fees_estimated ? `the fees of ${one.fees_estimated} are estimated` : "" }, `${one.mode}: ${number(one.trades, 0)} trades, ${short(one.sums.notional)} quote`))),
      table(/** @type {any} */ ([
        { title: "Component", cell: (/** @type {string} */ name) => h("span", { style: { display: "block", minWidth: "8em", whiteSpace: "normal" } }, components[name].meaning) },
        { title: "Expected (paper)", number: true, cell: cell(EXPECTED) },
        ...real.flatMap((mode) => [
          { title: `Realised (${mode})`, number: true, cell: cell(mode) },
          { title: `${mode} − paper`, number: true, cell: (/** @type {string} */ name) => {
            const [a, b] = [by[mode].components[name], by[EXPECTED]?.components[name]];
            return a.count && b?.count ? difference(a.mean - b.mean, components[name].unit) : "–";
          } }]),
      ]), Object.keys(components), `Execution cost of ${id} on ${instrument}`, ""),
      h("p.muted", null, own.map((one) => `${one.mode}: fees ${number(one.sums.fees)}, slippage ${number(one.sums.slippage)}, funding ${number(one.sums.funding)} quote in all`).join("; ")));
  });
}

/** @param {number} mean @param {string} unit */
function value(mean, unit) {
  return unit === "fraction" ? percent(mean) : `${number(mean, unit === "ms" ? 0 : unit === "R" ? 3 : 2)} ${unit}`;
}

/** @param {number} mean @param {string} unit */
function difference(mean, unit) {
  return unit === "fraction" ? signed(mean * 100, "% points", 1) : signed(mean, unit, unit === "ms" ? 0 : unit === "R" ? 3 : 2);
}
