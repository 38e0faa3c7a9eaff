// @ts-check
/** Order sizes: taker buys beside taker sells in each class of size. */

import { h } from "../../core/dom.js";
import { number, short } from "../../core/format.js";

/** @param {{classes: {from_notional: number, buys: number, buy_volume: number, sells: number, sell_volume: number}[]}} found answer of GET /trades/sizes */
export function sizes({ classes }) {
  const most = Math.max(...classes.flatMap((one) => [one.buy_volume, one.sell_volume])) || 1;
  const bar = (/** @type {string} */ side, /** @type {number} */ volume, /** @type {number} */ trades) => h("span", null,
    h("span.bar", { class: side, style: { display: "block" }, role: "img", "aria-label": `${number(trades, 0)} ${side}s, ${short(volume)} quote` }, h("i", { style: { width: `${(volume / most) * 100}%` } })),
    h("span.muted", { style: { fontSize: "11px", display: "block", textAlign: side === "sell" ? "right" : "left" } }, `${short(volume)} (n ${number(trades, 0)})`));
  return h("section", { "aria-label": "Order sizes" }, h("h3", null, "Order sizes, quote: taker buys and sells"), h("div.sizes", null, classes.map((one, i) => h("div", null,
    h("span.muted", null, i ? `from ${short(one.from_notional)}` : `below ${short(classes[1].from_notional)}`), bar("buy", one.buy_volume, one.buys), bar("sell", one.sell_volume, one.sells)))));
}
