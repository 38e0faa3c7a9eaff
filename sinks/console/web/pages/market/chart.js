// @ts-check
/** The chart: candles with marks, and below them CVD, open interest, funding and order-book imbalance. One time axis and one crosshair for all. */

import { colour, faded, library, look } from "../../charts/library.js";

/** @typedef {{start: number, end: number}} Range ms UTC */

// Heights of the panes relative to each other.
const STRETCH = [5, 2, 1.4, 1.4, 1.4];
const EMPTY_STRETCH = 0.35;
// A hole of more candles than this is drawn as one empty place.
const WIDEST_HOLE = 3_000;
const COLUMNS = ["open", "high", "low", "close", "volume", "cvd"];
// A marker for every liquidation would hide the candles.
const MOST_MARKS = 300;

export class MarketChart {
  /** @param {HTMLElement} place */
  static async make(place) {
    return new MarketChart(place, await library());
  }

  /** @param {HTMLElement} place @param {any} charts */
  constructor(place, charts) {
    this.charts = charts;
    this.chart = charts.createChart(place, { autoSize: true, crosshair: { mode: charts.CrosshairMode.Normal }, ...look() });
    const line = (/** @type {number} */ pane, /** @type {string} */ title, /** @type {any} */ more = {}) =>
      this.chart.addSeries(charts.LineSeries, { title, lineWidth: 2, priceLineVisible: false, ...more }, pane);
    const whole = { priceFormat: { type: "volume" } };
    const rate = { priceFormat: { type: "custom", minMove: 1e-7, formatter: (/** @type {number} */ value) => `${(value * 1e4).toFixed(2)} bp` } };
    this.candles = this.chart.addSeries(charts.CandlestickSeries, { borderVisible: false }, 0);
    this.volume = this.chart.addSeries(charts.HistogramSeries, { priceFormat: { type: "volume" }, priceScaleId: "volume", lastValueVisible: false, priceLineVisible: false }, 0);
    this.volume.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0 } });
    this.cvd = this.chart.addSeries(charts.BaselineSeries, { title: "CVD", baseValue: { type: "price", price: 0 }, lineWidth: 2, priceLineVisible: false, ...whole }, 1);
    this.interest = line(2, "Open interest", whole);
    this.predicted = line(3, "Funding predicted", rate);
    this.settled = line(3, "settled", { ...rate, lineType: 1 });
    this.imbalance = line(4, "OBI", { priceFormat: { type: "price", precision: 2, minMove: 0.01 } });
    this.marks = charts.createSeriesMarkers(this.candles, []);
    this.chart.panes().forEach((/** @type {any} */ pane, /** @type {number} */ at) => pane.setStretchFactor(STRETCH[at]));
    /** @type {any} */
    this.data = null;
    this.base = 0; // of the CVD, so that it is zero at the left edge
    this.paint();
  }

  /** Take the colours of the theme. */
  paint() {
    this.chart.applyOptions(look());
    this.candles.applyOptions({ upColor: colour("up"), downColor: colour("down"), wickUpColor: colour("up"), wickDownColor: colour("down") });
    this.cvd.applyOptions({ topLineColor: colour("up"), bottomLineColor: colour("down"), topFillColor1: faded("up", 0.2), topFillColor2: faded("up", 0.02), bottomFillColor1: faded("down", 0.02), bottomFillColor2: faded("down", 0.2) });
    this.interest.applyOptions({ color: colour("accent") });
    this.predicted.applyOptions({ color: colour("warn") });
    this.settled.applyOptions({ color: colour("accent") });
    this.imbalance.applyOptions({ color: colour("muted") });
    if (this.data) this.show(this.data);
  }

  /** Show what the loader read. @param {any} data */
  show(data) {
    this.data = data;
    const { candles, series } = data;
    const times = candles.open_time_ms.map((/** @type {number} */ ms) => ms / 1000);
    const at = (/** @type {string} */ name) => candles[name];
    const known = times.map((/** @type {number} */ _, /** @type {number} */ i) => at("open")[i] !== null);
    this.candles.setData(times.map((/** @type {number} */ time, /** @type {number} */ i) => known[i] ? { time, open: at("open")[i], high: at("high")[i], low: at("low")[i], close: at("close")[i] } : { time }));
    const [up, down] = [faded("up", 0.35), faded("down", 0.35)];
    this.volume.setData(times.map((/** @type {number} */ time, /** @type {number} */ i) => known[i] ? { time, value: at("volume")[i], color: at("close")[i] >= at("open")[i] ? up : down } : { time }));
    this.rebase(this.left);
    const points = (/** @type {any} */ one) => this.onTimes(one, times);
    this.interest.setData(points(series.open_interest));
    this.predicted.setData(points(series.funding_estimated));
    this.settled.setData(points(series.funding_settled));
    this.imbalance.setData(points(series.obi));
    this.mark(data, times);
    // A pane without data becomes a strip, so that the others have its room.
    const filled = [true, true, ...[series.open_interest, series.funding_estimated, series.obi].map((one) => one.value.length > 0)];
    this.chart.panes().forEach((/** @type {any} */ pane, /** @type {number} */ at) => pane.setStretchFactor(filled[at] ? STRETCH[at] : EMPTY_STRETCH));
  }

  /**
   * Values at the candles' times: the last value of each candle, so that all panes share one axis.
   * @param {{time_ms: number[], value: number[]}} one @param {number[]} times
   */
  onTimes(one, times) {
    /** @type {{time: number, value: number}[]} */
    const found = [];
    let i = -1;
    one.time_ms.forEach((ms, at) => {
      while (i + 1 < times.length && times[i + 1] * 1000 <= ms) i += 1;
      if (i < 0) return;
      const last = found.at(-1);
      if (last && last.time === times[i]) last.value = one.value[at];
      else found.push({ time: times[i], value: one.value[at] });
    });
    return found;
  }

  /** Liquidations, and entries and exits of our own. @param {any} data @param {number[]} times */
  mark(data, times) {
    const on = (/** @type {number} */ ms) => {
      let low = 0, high = times.length;
      while (low < high) { const middle = (low + high) >> 1; if (times[middle] * 1000 <= ms) low = middle + 1; else high = middle; }
      return low ? times[low - 1] : null;
    };
    const found = [];
    for (const one of data.liquidations.slice(0, MOST_MARKS)) {
      const long = one.side === "SELL"; // a long is closed by a sale
      found.push({ time: on(one.event_time_ms), position: long ? "aboveBar" : "belowBar", shape: long ? "arrowDown" : "arrowUp", color: colour("warn"), text: "" });
    }
    for (const one of data.trades) {
      const long = one.direction === "LONG";
      found.push({ time: on(one.entry_time_ms), position: long ? "belowBar" : "aboveBar", shape: "circle", color: colour("accent"), text: long ? "long" : "short" });
      found.push({ time: on(one.event_time_ms), position: long ? "aboveBar" : "belowBar", shape: "square", color: colour(one.net_r > 0 ? "up" : "down"), text: `${one.net_r > 0 ? "+" : ""}${one.net_r.toFixed(1)}R` });
    }
    this.marks.setMarkers(found.filter((one) => one.time !== null).sort((a, b) => /** @type {number} */ (a.time) - /** @type {number} */ (b.time)));
  }

  /** Left edge of the view, seconds UTC. */
  get left() {
    return this.chart.timeScale().getVisibleRange()?.from ?? -Infinity;
  }

  /** Draw CVD from zero at the left edge. @param {number} left seconds UTC */
  rebase(left) {
    if (!this.data) return;
    const { open_time_ms: times, cvd } = this.data.candles;
    let sum = 0, base = 0;
    const points = times.map((/** @type {number} */ ms, /** @type {number} */ i) => {
      if (ms / 1000 < left) base = sum + (cvd[i] ?? 0);
      sum += cvd[i] ?? 0;
      return cvd[i] === null ? { time: ms / 1000 } : { time: ms / 1000, value: sum };
    });
    this.base = base;
    this.cvd.setData(points.map((/** @type {any} */ one) => one.value === undefined ? one : { time: one.time, value: one.value - base }));
  }

  /**
   * Add a candle, or correct one: a closed candle replaces what was drawn while it formed. Candles that never came leave a hole.
   * @param {{start_ms: number, end_ms: number, open: number, high: number, low: number, close: number, volume: number, cvd: number, partial: boolean}} one
   */
  update(one) {
    const { candles } = this.data ?? {};
    const times = candles?.open_time_ms;
    const last = times?.at(-1);
    if (last === undefined || one.partial) return; // what is stored is complete
    const known = one.start_ms > last ? -1 : times.lastIndexOf(one.start_ms);
    if (known < 0 && one.start_ms <= last) return; // older than what is loaded, or between its candles
    const width = one.end_ms - one.start_ms;
    const missing = known < 0 ? Math.round((one.start_ms - last) / width) - 1 : 0;
    for (let n = 1; n <= (missing > WIDEST_HOLE ? 1 : missing); n += 1) this.place(times.length, last + n * width, null);
    const i = known < 0 ? times.length : known;
    this.place(i, one.start_ms, one);
    if (i < times.length - 1) this.rebase(this.left); // its difference is in every sum after it
    else this.cvd.update({ time: one.start_ms / 1000, value: this.total(i) - this.base });
  }

  /** Put a candle, or an empty place, at number i of the columns and draw it. @param {number} i @param {number} start ms UTC @param {any} one */
  place(i, start, one) {
    const { candles } = this.data;
    const past = i < candles.open_time_ms.length - 1, time = start / 1000;
    candles.open_time_ms[i] = start;
    for (const name of COLUMNS) candles[name][i] = one?.[name] ?? null;
    this.candles.update(one ? { time, open: one.open, high: one.high, low: one.low, close: one.close } : { time }, past);
    this.volume.update(one ? { time, value: one.volume, color: faded(one.close >= one.open ? "up" : "down", 0.35) } : { time }, past);
    if (!one) this.cvd.update({ time });
  }

  /** Sum of the CVD of the candles up to number i. @param {number} i */
  total(i) {
    let sum = 0;
    for (let k = 0; k <= i; k += 1) sum += this.data.candles.cvd[k] ?? 0;
    return sum;
  }

  /** @param {Range} range */
  view(range) {
    this.chart.timeScale().setVisibleRange({ from: range.start / 1000, to: range.end / 1000 });
  }

  /** What is in view. @returns {Range | null} */
  visible() {
    const found = this.chart.timeScale().getVisibleRange();
    const logical = this.chart.timeScale().getVisibleLogicalRange();
    if (!found || !logical || !this.data) return null;
    // Beyond the data the axis has no times: extend by whole candles.
    const times = this.data.candles.open_time_ms;
    const width = times.length > 1 ? (times.at(-1) - times[0]) / (times.length - 1) : 60_000;
    const before = Math.max(0, -logical.from) * width, after = Math.max(0, logical.to - times.length) * width;
    return { start: found.from * 1000 - before, end: found.to * 1000 + after + width };
  }

  remove() {
    this.chart.remove();
  }
}
