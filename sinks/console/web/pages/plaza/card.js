// @ts-check
import { h } from "../../core/dom.js";
import { ago, number, percent, side, signed } from "../../core/format.js";

/** @type {Record<string, string>} */
const TONE = { running: "good", paused: "warn", error: "bad", deprecated: "" };

/** @param {any} one a card of GET /plaza */
export function card(one) {
  const fact = (/** @type {string} */ name, /** @type {any} */ value, /** @type {string} */ tone = "") => [h("dt", null, name), h("dd", { class: tone }, value)];
  const [low, high] = one.win_rate_interval_95 ?? [];
  return h("article.card", null,
    h("header", null,
      h("h2", null, h("a", { href: `/plaza/${encodeURIComponent(one.strategy_id)}`, "data-link": true }, one.display_name)),
      h("span.spacer"), h("span.badge", { class: TONE[one.status] ?? "", title: one.status_reason ?? "" }, one.status)),
    one.status_reason && h("p.muted", null, one.status_reason),
    h("dl.facts", null,
      fact(one.instruments.length > 1 ? "Instruments" : "Instrument", one.instruments.join(", ")),
      fact("CVD windows", one.cvd_windows.join(" / ")),
      fact("Balance", `${number(one.current_balance)} of ${number(one.initial_balance, 0)}`),
      fact("Net result", signed(one.net_r, "R"), side(one.net_r)),
      fact("Net result, money", signed(one.net_pnl, "quote"), side(one.net_pnl)),
      fact("Last 24 h", signed(one.r_24h, "R"), side(one.r_24h)),
      fact("Trades", number(one.trade_count, 0)),
      fact("Win rate", one.win_rate === null ? "–" : `${percent(one.win_rate)} (95 %: ${percent(low, 0)} to ${percent(high, 0)})`),
      fact("Average win / loss", `${signed(one.avg_win_r, "R")} / ${signed(one.avg_loss_r, "R")}`),
      fact("Spread of R", one.std_r === null ? "–" : `${number(one.std_r)} R`),
      fact("Open positions", number(one.open_positions, 0)),
      fact("Last trade", ago(one.last_trade_at_ms))));
}
