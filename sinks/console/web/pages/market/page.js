// @ts-check
/** The market of one instrument: chart, heatmap of trades, summary of a stretch, pulse of all instruments. */

import { get } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { ago, number, price, short, side, signed } from "../../core/format.js";
import { listen } from "../../core/live.js";
import { bind } from "../../core/keys.js";
import { remember, show } from "../../core/router.js";
import { MarketChart } from "./chart.js";
import { showDepth } from "./depth.js";
import { showFlow } from "./flow.js";
import { Loader } from "./loader.js";

const TIMEFRAMES = ["1m", "5m", "15m", "1h", "4h", "1d"];
// What is shown first: the last two hours of data.
const FIRST_VIEW_MS = 2 * 3_600_000;
const SETTLE_MS = 120;

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "market",
  title: "Market",
  async show({ root, query, signal }) {
    const { instruments } = await get("/instruments", {}, signal);
    if (!instruments.length) return fill(root, h("div.page-head", null, h("h1", null, "Market")), h("div.empty", null, "No instruments yet: is a producer running? `perpflow produce binance` starts one."));
    const names = instruments.map((/** @type {any} */ one) => one.instrument);
    const instrument = names.includes(query.get("instrument")) ? /** @type {string} */ (query.get("instrument")) : names.find((/** @type {string} */ name) => name.endsWith("-PERP")) ?? names[0];
    const { first_time_ms: earliest, last_time_ms: latest } = await get("/market/extent", { instrument }, signal);
    const choose = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": "Instrument" }, names.map((/** @type {string} */ name) => h("option", { value: name }, name))));
    choose.value = instrument;
    choose.addEventListener("change", () => { remember({ instrument: choose.value, from: null, to: null }); void show(); });
    const frame = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": "Finest candles" }, TIMEFRAMES.map((name) => h("option", { value: name }, name))));
    frame.value = TIMEFRAMES.includes(query.get("timeframe") ?? "") ? /** @type {string} */ (query.get("timeframe")) : "1m";
    const shownFrame = h("span.badge", { title: "Candles in view; wide views show coarser ones" }, frame.value);
    const place = h("div.card.chart", { role: "img", "aria-label": `Candles of ${instrument} with CVD, open interest, funding and order-book imbalance` });
    const flow = h("section.card"), pulse = h("section.card"), depth = h("section.card");
    const state = h("p.muted");
    fill(root, h("div.page-head", null, h("h1", null, "Market"), choose, frame, shownFrame,
      h("button", { onclick: () => look({ start: latest - FIRST_VIEW_MS, end: latest + 60_000 }) }, "Newest"), h("button", { onclick: () => look({ start: earliest, end: latest + 60_000 }) }, "Everything"), h("span.spacer"), state), place,
      h("div.columns", { style: { marginTop: "12px" } }, flow, h("div", { style: { display: "grid", gap: "12px" } }, depth, pulse)));
    void showDepth(depth, instrument, signal);
    void showPulse(pulse, signal);
    if (latest === null) return fill(place, h("div.empty", null, `No trades of ${instrument} are stored yet.`));

    const chart = await MarketChart.make(place);
    signal.addEventListener("abort", () => chart.remove());
    addEventListener("perpflow:theme", () => chart.paint(), { signal });
    const loader = new Loader(instrument, signal);
    const again = () => void look(chart.visible() ?? { start: latest - FIRST_VIEW_MS, end: latest });
    let followed = "", following = new AbortController();
    signal.addEventListener("abort", () => following.abort());
    /** Follow the candles that are shown: a zoom changes their timeframe. Each message has the CVD of its candles, so that pane moves with them. */
    const follow = () => {
      if (followed === loader.timeframe || instrument.split(":").length !== 2) return;
      following.abort();
      following = new AbortController();
      followed = loader.timeframe;
      listen([`candles:${instrument}:${followed}`, `trades_closed:${instrument}`], {
        candles: (message) => { if (loader.timeframe === message.timeframe) message.candles.forEach((/** @type {any} */ one) => chart.update(one)); },
        trades_closed: again,
        reset: again,
      }, following.signal);
    };
    /** @param {{start: number, end: number}} range */
    const look = async (range) => {
      try {
        const data = await loader.read(range, frame.value);
        if (!data) return;
        chart.show(data);
        chart.view(range);
        fill(shownFrame, data.candles.timeframe);
        follow();
        fill(state, `${number(data.candles.open_time_ms.length, 0)} candles loaded; last trade ${ago(latest)}`);
      } catch (error) {
        if (!signal.aborted) fill(state, problem(error));
      }
    };
    const from = Number(query.get("from")), to = Number(query.get("to"));
    await look(from && to > from ? { start: from, end: to } : { start: Math.max(earliest ?? 0, latest - FIRST_VIEW_MS), end: latest + 60_000 });
    let timer = 0;
    chart.chart.timeScale().subscribeVisibleTimeRangeChange(() => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        const view = chart.visible();
        if (!view || signal.aborted) return;
        remember({ instrument, timeframe: frame.value, from: Math.round(view.start), to: Math.round(view.end) });
        if (loader.needs(view, frame.value)) await look(view);
        else chart.rebase(view.start / 1000);
      }, SETTLE_MS);
    });
    bind("n", "Newest candles", () => void look({ start: latest - FIRST_VIEW_MS, end: latest + 60_000 }), signal);
    bind("e", "Everything", () => void look({ start: earliest, end: latest + 60_000 }), signal);
    frame.addEventListener("change", again);
    void showFlow(flow, instrument, latest, Number(query.get("flow")) || latest, () => chart.visible()?.end ?? latest, signal);
  },
};

/** @param {HTMLElement} place @param {AbortSignal} signal */
async function showPulse(place, signal) {
  try {
    const { instruments, advancing, declining, top_gainer: gainer } = await get("/pulse", {}, signal);
    fill(place, h("header", null, h("h2", null, "Market, last 24 h"), h("span.spacer"), h("span.badge", null, `${advancing} up, ${declining} down`)),
      gainer && h("p", null, "Top gainer: ", h("strong", null, gainer.instrument), " ", h("span", { class: side(gainer.change_pct) }, signed(gainer.change_pct, "%"))),
      table([
        { title: "Instrument", cell: (/** @type {any} */ row) => h("a", { href: `/market?instrument=${encodeURIComponent(row.instrument)}`, "data-link": true }, row.instrument) },
        { title: "Price", number: true, cell: (row) => price(row.close) },
        { title: "Change", number: true, cell: (row) => h("span", { class: side(row.change_pct) }, signed(row.change_pct, "%")) },
        { title: "Volume, quote", number: true, cell: (row) => short(row.quote_volume) },
        { title: "Delta, quote", number: true, cell: (row) => h("span", { class: side(row.quote_delta) }, short(row.quote_delta)) },
      ], instruments, "Instruments by volume", "Nothing traded in the last 24 h of this clock. Recorded data is older: choose an instrument above."));
  } catch (error) {
    if (!signal.aborted) fill(place, problem(error));
  }
}
