// @ts-check
/** The trade-flow heatmap: time across, price up, colour by taker side, strength by volume. A box drawn over it gives the summary of its stretch. */

import { cleared } from "../../charts/canvas.js";
import { colour } from "../../charts/library.js";
import { h } from "../../core/dom.js";
import { price } from "../../core/format.js";

const MARGIN = { left: 0, right: 64, top: 6, bottom: 22 };

/**
 * @param {any} map answer of GET /trades/heatmap
 * @param {any[]} annotations those that touch its range
 * @param {(range: {start: number, end: number}) => void} boxed called with the stretch of a box
 */
export function heatmap(map, annotations, boxed) {
  const canvas = /** @type {HTMLCanvasElement} */ (h("canvas", { role: "img", tabindex: 0, "aria-label": "Traded volume by time and price. Drag over a stretch for its summary." }));
  const start = Date.parse(map.start), end = Date.parse(map.end);
  const levels = map.cells.map((/** @type {number[]} */ cell) => cell[1]);
  const low = levels.length ? Math.min(...levels) : 0, high = levels.length ? Math.max(...levels) + 1 : 1;
  /** @type {[number, number] | null} */
  let box = null;
  const draw = () => {
    const sheet = cleared(canvas);
    if (!sheet) return;
    const { pen, width, height } = sheet;
    const wide = width - MARGIN.left - MARGIN.right, tall = height - MARGIN.top - MARGIN.bottom;
    const columns = (end - start) / map.step_ms, rows = high - low;
    const volumes = map.cells.map((/** @type {number[]} */ cell) => cell[2] + cell[3]).sort((/** @type {number} */ a, /** @type {number} */ b) => a - b);
    const full = volumes[Math.floor(volumes.length * 0.97)] || 1;
    const [up, down] = [colour("up"), colour("down")];
    for (const [column, level, buy, sell] of map.cells) {
      pen.globalAlpha = 0.12 + 0.88 * Math.min(1, Math.sqrt((buy + sell) / full));
      pen.fillStyle = buy >= sell ? up : down;
      pen.fillRect(MARGIN.left + (column / columns) * wide, MARGIN.top + ((high - level - 1) / rows) * tall, Math.max(1, wide / columns), Math.max(1, tall / rows - 0.5));
    }
    pen.globalAlpha = 1;
    pen.fillStyle = colour("muted");
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const step = Math.max(1, Math.ceil(rows / 8));
    for (let level = low; map.level_size && level <= high; level += step) pen.fillText(price(level * map.level_size), width - MARGIN.right + 6, MARGIN.top + ((high - level) / rows) * tall);
    pen.textBaseline = "alphabetic";
    const parts = wide < 420 ? 2 : 4; // a phone has room for three times
    for (let i = 0; i <= parts; i += 1) {
      pen.textAlign = i === 0 ? "left" : i === parts ? "right" : "center";
      pen.fillText(new Date(start + ((end - start) * i) / parts).toISOString().slice(11, 19), MARGIN.left + (wide * i) / parts, height - 6);
    }
    pen.textAlign = "left";
    for (const one of annotations) {
      const [from, to] = [one.start_ms, one.end_ms].map((ms) => MARGIN.left + (Math.max(0, Math.min(1, (ms - start) / (end - start)))) * wide);
      pen.strokeStyle = colour("accent");
      pen.strokeRect(from + 0.5, MARGIN.top + 0.5, Math.max(1, to - from - 1), tall - 1);
      pen.fillStyle = colour("accent");
      pen.fillText(one.label, from + 4, MARGIN.top + 12);
    }
    if (box) {
      pen.fillStyle = colour("accent");
      pen.globalAlpha = 0.18;
      pen.fillRect(Math.min(...box), MARGIN.top, Math.abs(box[1] - box[0]), tall);
      pen.globalAlpha = 1;
    }
  };
  const inside = (/** @type {PointerEvent} */ event) => Math.max(MARGIN.left, Math.min(canvas.getBoundingClientRect().width - MARGIN.right, event.offsetX));
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); box = [inside(event), inside(event)]; draw(); });
  canvas.addEventListener("pointermove", (event) => { if (box && event.buttons) { box[1] = inside(event); draw(); } });
  canvas.addEventListener("pointerup", () => {
    if (!box) return;
    const wide = canvas.getBoundingClientRect().width - MARGIN.left - MARGIN.right;
    const [from, to] = [Math.min(...box), Math.max(...box)].map((x) => Math.round(start + ((x - MARGIN.left) / wide) * (end - start)));
    if (to - from >= 1000) boxed({ start: from, end: to });
    else { box = null; draw(); }
  });
  new ResizeObserver(draw).observe(canvas);
  addEventListener("perpflow:theme", draw);
  return canvas;
}
