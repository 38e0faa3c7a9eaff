// @ts-check
/**
 * Levels of detail: reads as many candles as the chart has pixels, for the visible range and one range more at each side.
 * Panning inside what is loaded reads nothing; a finer or coarser view reads anew.
 */

import { get } from "../../core/api.js";

/** @typedef {{start: number, end: number}} Range ms UTC, end exclusive */

const POINTS = 2400;
// A view reads finer candles when what is loaded has fewer than this many of them in it.
const FEWEST_VISIBLE = 150;
const MINUTES = /** @type {Record<string, number>} */ ({ "1m": 1, "5m": 5, "15m": 15, "1h": 60, "4h": 240, "1d": 1440 });
const SERIES = ["open_interest", "funding_estimated", "funding_settled", "obi"];
// The API reads these from tables of 15 s rows, at most a month at a time.
const MONTH_MS = 31 * 86_400_000;

export class Loader {
  /** @param {string} instrument @param {AbortSignal} signal */
  constructor(instrument, signal) {
    this.instrument = instrument;
    this.signal = signal;
    /** @type {Range | null} */
    this.loaded = null;
    this.timeframe = "1m";
    this.running = 0;
  }

  /** Whether a view needs other data. @param {Range} view @param {string} finest */
  needs(view, finest) {
    if (!this.loaded || view.start < this.loaded.start || view.end > this.loaded.end) return true;
    const width = MINUTES[this.timeframe] * 60_000;
    const visible = (view.end - view.start) / width;
    return MINUTES[this.timeframe] < MINUTES[finest] || visible > POINTS || (visible < FEWEST_VISIBLE && MINUTES[this.timeframe] > MINUTES[finest]);
  }

  /**
   * Read what a view needs. Null: a later view was asked for meanwhile.
   * @param {Range} view
   * @param {string} timeframe finest
   */
  async read(view, timeframe) {
    const turn = ++this.running;
    const span = Math.max(view.end - view.start, 3_600_000);
    const range = { start: Math.floor(view.start - span), end: Math.ceil(view.end + span) };
    const query = { instrument: this.instrument, start: range.start, end: range.end, points: POINTS };
    const long = range.end - range.start > MONTH_MS;
    const [candles, liquidations, trades, ...series] = await Promise.all([
      get("/candles", { ...query, timeframe }, this.signal),
      get("/liquidations", { instrument: this.instrument, start: range.start, end: range.end, limit: 500 }, this.signal),
      get("/trades/closed", { instrument: this.instrument, start: range.start, end: range.end, limit: 200 }, this.signal),
      ...SERIES.map((name) => long && name !== "open_interest" && name !== "funding_settled"
        ? Promise.resolve({ name, time_ms: [], value: [] }) : get("/series", { ...query, name }, this.signal)),
    ]);
    if (turn !== this.running) return null;
    this.loaded = range;
    this.timeframe = candles.timeframe;
    return { candles, liquidations: liquidations.records, trades: trades.records, series: Object.fromEntries(series.map((one) => [one.name, one])) };
  }
}
