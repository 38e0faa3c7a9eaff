// @ts-check
/** Why a score came about: what `perpflow explain` prints, as a card. */

import { h } from "../../core/dom.js";
import { number, price, time } from "../../core/format.js";
import { gates, layers } from "./page.js";

/** @param {any} score record of the topic scores @param {string} place where it comes from */
export function why(score, place) {
  const row = (/** @type {string} */ name, /** @type {any} */ value) => [h("dt", null, name), h("dd", null, value)];
  return h("section.card", { "aria-label": "Why" },
    h("header", null, h("h2", null, `Why: ${score.strategy_name} at ${time(score.event_time_ms)}`), h("span.spacer"), h("span.badge", null, place)),
    h("div.columns", null,
      h("div", null, layers(score), h("ul.gates", null, score.layers.flatMap((/** @type {any} */ layer) => Object.entries(layer.parts ?? {}).map(([name, points]) =>
        h("li", null, h("span.muted", null, layer.name), h("span", null, name), h("span.number", null, number(/** @type {number} */ (points), 2)))))), gates(score)),
      h("dl.facts", null, row("Score", `${number(score.score, 1)} of 100`), row("Verdict", score.verdict ?? (score.signalled ? "signal" : "no signal")),
        row("Blocked by", score.gate_block ?? "–"), row("Direction", score.direction), row("Tier", score.tier ?? "–"), row("Regime", score.regime),
        row("Price", price(score.price)), row("ATR", price(score.atr)), row("Warm", score.warm ? "yes" : "no"), row("Cooldown", score.cooldown ? "yes" : "no"),
        row("Revision", `${score.config_revision} (${score.config_hash})`), row("Missing inputs", score.missing_inputs.join(", ") || "none"),
        row("Stale inputs", score.stale_inputs.join(", ") || "none"), row("Late trades so far", number(score.late_trades, 0)))));
}
