// @ts-check
/** The order book: quantity that stands up to each price, bids and asks, every level that the topic has; its newest state by the stream. */

import { cleared } from "../../charts/canvas.js";
import { colour, faded } from "../../charts/library.js";
import { get } from "../../core/api.js";
import { fill, h, problem } from "../../core/dom.js";
import { ago, number, percent, price, short } from "../../core/format.js";
import { listen } from "../../core/live.js";

const MARGIN = { right: 60, top: 8, bottom: 20 };

/** @typedef {{time_ms: number, state: string, bids: [number, number][], asks: [number, number][]}} Book best level first */

/** @param {HTMLElement} place @param {string} instrument @param {AbortSignal} signal */
export async function showDepth(place, instrument, signal) {
  const body = h("div"), state = h("span.muted");
  fill(place, h("header", null, h("h2", null, "Order book"), h("span.spacer"), state), body);
  /** @type {Book | null} */
  let book = null;
  const canvas = /** @type {HTMLCanvasElement} */ (h("canvas", { role: "img", "aria-label": `Cumulative depth of ${instrument}` }));
  const facts = h("dl.facts");
  const show = () => {
    if (!book) return fill(body, h("div.empty", null, "No order book of this instrument is stored: its venue may have none, or no producer reads it."));
    fill(state, `${book.bids.length} + ${book.asks.length} levels, ${ago(book.time_ms)}`);
    if (book.state !== "live" || !book.bids.length || !book.asks.length) return fill(body, h("div.empty", null, "The book is being read anew: its sequence broke."));
    if (!canvas.isConnected) fill(body, h("div.depth", null, canvas), facts);
    const [bid, ask] = [book.bids[0][0], book.asks[0][0]];
    const sum = (/** @type {[number, number][]} */ side) => side.reduce((all, [, quantity]) => all + quantity, 0);
    const [bids, asks] = [sum(book.bids), sum(book.asks)];
    const row = (/** @type {string} */ name, /** @type {string} */ value) => [h("dt", null, name), h("dd", null, value)];
    fill(facts, row("Best bid / ask", `${price(bid)} / ${price(ask)}`), row("Spread", `${number(((ask - bid) / ((ask + bid) / 2)) * 1e4, 2)} bps`), row("Bids / asks in view", `${short(bids)} / ${short(asks)} base`), row("Bids' share", percent(bids / (bids + asks))));
    draw(canvas, book);
  };
  new ResizeObserver(() => { if (book && canvas.isConnected) draw(canvas, book); }).observe(canvas);
  addEventListener("perpflow:theme", show, { signal });
  try {
    const { records: [one] } = await get("/depth", { instrument, limit: 1 }, signal);
    const pairs = (/** @type {number[]} */ prices, /** @type {number[]} */ quantities) => prices.map((value, i) => /** @type {[number, number]} */ ([value, quantities[i]]));
    if (one) book = { time_ms: one.event_time_ms, state: one.state, bids: pairs(one.bid_prices, one.bid_quantities), asks: pairs(one.ask_prices, one.ask_quantities) };
    show();
  } catch (error) {
    if (!signal.aborted) fill(body, problem(error));
  }
  if (instrument.split(":").length === 2) listen([`books:${instrument}`], { books: (newest) => { book = newest; show(); } }, signal);
}

/** @param {HTMLCanvasElement} canvas @param {Book} book */
function draw(canvas, book) {
  const sheet = cleared(canvas);
  if (!sheet) return;
  const { pen, width, height } = sheet;
  const wide = width - MARGIN.right, tall = height - MARGIN.top - MARGIN.bottom;
  const low = /** @type {[number, number]} */ (book.bids.at(-1))[0], high = /** @type {[number, number]} */ (book.asks.at(-1))[0];
  const steps = (/** @type {[number, number][]} */ side) => { let sum = 0; return side.map(([at, quantity]) => /** @type {[number, number]} */ ([at, sum += quantity])); };
  const [bids, asks] = [steps(book.bids), steps(book.asks)];
  const most = Math.max(/** @type {[number, number]} */ (bids.at(-1))[1], /** @type {[number, number]} */ (asks.at(-1))[1]) || 1;
  const x = (/** @type {number} */ value) => ((value - low) / (high - low || 1)) * wide, y = (/** @type {number} */ value) => MARGIN.top + (1 - value / most) * tall;
  for (const [side, name, edge] of /** @type {[[number, number][], string, number][]} */ ([[bids, "up", low], [asks, "down", high]])) {
    pen.beginPath();
    pen.moveTo(x(side[0][0]), y(0));
    let before = 0;
    for (const [at, sum] of side) { pen.lineTo(x(at), y(before)); pen.lineTo(x(at), y(sum)); before = sum; }
    pen.lineTo(x(edge), y(before));
    pen.strokeStyle = colour(name);
    pen.stroke();
    pen.lineTo(x(edge), y(0));
    pen.fillStyle = faded(name, 0.18);
    pen.fill();
  }
  pen.fillStyle = colour("muted");
  pen.font = "11px system-ui, sans-serif";
  for (const part of [1, 0.5]) pen.fillText(short(most * part), wide + 6, y(most * part) + 10);
  for (const [value, align] of /** @type {[number, CanvasTextAlign][]} */ ([[low, "left"], [(book.bids[0][0] + book.asks[0][0]) / 2, "center"], [high, "right"]])) {
    pen.textAlign = align;
    pen.fillText(price(value), x(value), height - 5);
  }
  pen.textAlign = "left";
}
