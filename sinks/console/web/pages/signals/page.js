// @ts-check
/** Every strategy of an instrument side by side: score by layers, gates with value and limit, last signals, and why a score came about. */

import { get, post } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { ago, number, price, time } from "../../core/format.js";
import { listen } from "../../core/live.js";
import { remember, show } from "../../core/router.js";
import { may } from "../../core/session.js";
import { why } from "./why.js";

// The evaluation grid is 15 s.
const REFRESH_MS = 15_000;

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "signals",
  title: "Signals",
  async show({ root, query, signal }) {
    const { strategies } = await get("/strategies", {}, signal);
    const names = [...new Set(strategies.map((/** @type {any} */ one) => one.instrument))].sort();
    if (!names.length) return fill(root, h("div.page-head", null, h("h1", null, "Signals")), h("div.empty", null, "No strategies yet. `perpflow strategies import --defaults` writes the default ones."));
    const instrument = names.includes(query.get("instrument")) ? /** @type {string} */ (query.get("instrument")) : /** @type {string} */ (names[0]);
    const choose = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": "Instrument" }, names.map((name) => h("option", { value: name }, String(name)))));
    choose.value = instrument;
    choose.addEventListener("change", () => { remember({ instrument: choose.value, score: null }); void show(); });
    const cards = h("div.strategies"), past = h("section.card", { style: { marginTop: "12px" } }), reason = h("div", { style: { marginTop: "12px" } });
    fill(root, h("div.page-head", null, h("h1", null, "Signals"), choose), cards, reason, past);
    const explain = async (/** @type {string} */ id) => {
      remember({ score: id });
      fill(reason, h("div.skeleton"));
      try {
        const { score, found_in: place } = await get(`/scores/${encodeURIComponent(id)}`, {}, signal);
        fill(reason, why(score, `from the ${place}`));
      } catch (error) {
        if (!signal.aborted) fill(reason, problem(error));
      }
    };
    const decide = async (/** @type {string} */ id) => {
      fill(reason, h("div.skeleton"));
      try {
        const { score } = await post("/decide", { strategy_id: id, instrument });
        fill(reason, why(score, `dry run of ${time(score.event_time_ms)}; nothing was written`));
      } catch (error) {
        if (!signal.aborted) fill(reason, problem(error));
      }
    };
    const read = async () => {
      try {
        const [{ strategies: newest }, { records }] = await Promise.all([
          get("/scores/latest", { instrument }, signal), get("/signals", { instrument, limit: 20 }, signal)]);
        fill(cards, newest.map((/** @type {any} */ one) => strategyCard(one, explain, decide)));
        fill(past, h("header", null, h("h2", null, "Last 20 signals")), table([
          { title: "Time", cell: (/** @type {any} */ row) => h("button", { onclick: () => void explain(row.signal_id) }, time(row.event_time_ms)) },
          { title: "Strategy", cell: (row) => row.strategy_name },
          { title: "Direction", cell: (row) => h("span", { class: row.direction === "LONG" ? "up" : "down" }, row.direction) },
          { title: "Score", number: true, cell: (row) => number(row.score, 1) },
          { title: "Tier", cell: (row) => row.tier },
          { title: "Price", number: true, cell: (row) => price(row.price) },
          { title: "ATR", number: true, cell: (row) => price(row.atr) },
          { title: "Regime", cell: (row) => row.regime },
        ], records, "Last 20 signals", "No signals of this instrument yet."));
      } catch (error) {
        if (!signal.aborted) fill(cards, problem(error));
      }
    };
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let waiting;
    // The scores of one instant come together: they are read once.
    const soon = () => { clearTimeout(waiting); waiting = setTimeout(() => { if (!signal.aborted) void read(); }, 300); };
    await read();
    const wanted = query.get("score");
    if (wanted) await explain(wanted);
    listen([`scores:${instrument}`, `signals:${instrument}`], { scores: () => soon(), signals: () => soon(), reset: () => soon() }, signal);
    const timer = setInterval(read, REFRESH_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  },
};

/** @param {any} one @param {(id: string) => Promise<void>} explain @param {(id: string) => Promise<void>} decide */
function strategyCard(one, explain, decide) {
  const dry = may("user") && h("button", { onclick: () => void decide(one.strategy_id), title: "A dry run at the newest instant; nothing is written" }, "Decide now");
  const { score } = one;
  const head = h("header", null, h("h2", null, h("a", { href: `/plaza/${encodeURIComponent(one.strategy_id)}`, "data-link": true }, one.display_name)), h("span.spacer"), h("span.badge", null, one.status));
  if (!score) return h("article.card", null, head, h("p.muted", null, "No evaluation yet: the worker has not passed an instant of this strategy, or its history is too short."), h("p", null, dry));
  return h("article.card", null, head,
    h("div", null, h("span.score", { class: score.direction === "LONG" ? "up" : score.direction === "SHORT" ? "down" : "" }, number(score.score, 1)),
      h("span.muted", null, ` of 100; enters from ${one.thresholds.entry_score}, flips from ${one.thresholds.flip_threshold}`)),
    h("p.muted", null, `${score.warm ? score.direction === "NONE" ? "no direction" : score.direction : "warming up"}, regime ${score.regime}, ${ago(score.event_time_ms)}`),
    layers(score), gates(score),
    h("p", { style: { display: "flex", gap: "8px" } }, h("button", { onclick: () => void explain(score.score_id) }, "Why"), dry));
}

/** @param {any} score */
export function layers(score) {
  return h("div.layers", null, score.layers.map((/** @type {any} */ layer) => h("div", null, h("span", null, layer.name),
    h("span.bar", { role: "img", "aria-label": `${layer.score} of ${layer.max}` }, h("i", { style: { width: `${layer.max > 0 ? Math.max(0, Math.min(100, (layer.score / layer.max) * 100)) : 0}%` } })),
    h("span.number", null, `${number(layer.score, 1)} / ${number(layer.max, 0)}`))));
}

/** @param {any} score */
export function gates(score) {
  return h("ul.gates", null, score.gates.map((/** @type {any} */ gate) => {
    const [tone, word] = !gate.enabled ? ["", "off"] : gate.passed ? ["good", "pass"] : ["bad", "block"];
    return h("li", null, h("span.badge", { class: tone }, word), h("span", null, gate.name), h("span.number", null, `${number(gate.value, 4)} (limit ${number(gate.limit ?? gate.threshold, 4)})`));
  }));
}
