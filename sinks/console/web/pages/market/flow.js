// @ts-check
/** Trade flow: the heatmap of 15 minutes, the summary of a stretch, its annotations, its trades as a file. */

import { act } from "../../core/act.js";
import { get, post, remove } from "../../core/api.js";
import { fill, h, problem, table, toast } from "../../core/dom.js";
import { form } from "../../core/form.js";
import { number, percent, price, short, side, signed, time } from "../../core/format.js";
import { bind } from "../../core/keys.js";
import { remember } from "../../core/router.js";
import { may, session } from "../../core/session.js";
import { heatmap } from "./heatmap.js";
import { sizes } from "./sizes.js";

const SPAN_MS = 15 * 60_000;
// Two views share a third, so that a move at an edge is seen whole in one of them.
const STEP_MS = 10 * 60_000;
// S2 12.1.
const LABELS = ["pre-rise", "pre-fall", "range", "high-volume breakout", "fake breakout"];

/**
 * @param {HTMLElement} place
 * @param {string} instrument
 * @param {number} latest newest trade, ms
 * @param {number} until end of the first view, ms
 * @param {() => number} chartEnd end of what the chart shows, ms
 * @param {AbortSignal} signal
 */
export async function showFlow(place, instrument, latest, until, chartEnd, signal) {
  let end = until;
  let stretch = { start: end - SPAN_MS, end: end + 1 };
  const map = h("div"), summary = h("div.stretch"), notes = h("div"), title = h("span.muted");
  const summarise = async () => {
    try {
      const [facts, classes] = await Promise.all([get("/trades/summary", { instrument, ...stretch }, signal), get("/trades/sizes", { instrument, ...stretch }, signal)]);
      fill(summary, factsOf(facts), sizes(classes), h("p", null, h("a.button", { href: `/api/v1/trades.csv?${new URLSearchParams({ instrument, start: String(stretch.start), end: String(stretch.end) })}`, download: "" }, "Trades as CSV")), may("user") && annotate());
    } catch (error) {
      if (!signal.aborted) fill(summary, problem(error));
    }
  };
  const annotate = () => h("details", null, h("summary", null, "Annotate this stretch"), form([
    { name: "label", label: "Label", suggestions: LABELS }, { name: "note", label: "Text", lines: true, required: false },
    { name: "start", label: "Start, UTC", value: new Date(stretch.start).toISOString() }, { name: "end", label: "End, UTC", value: new Date(stretch.end).toISOString() },
  ], "Save the annotation", async (values) => {
    await post("/annotations", { instrument, ...values });
    toast("The annotation is saved");
    await look(end);
  }));
  const look = async (/** @type {number} */ wanted) => {
    end = Math.min(wanted, latest);
    remember({ flow: end === latest ? null : end });
    const range = { start: end - SPAN_MS, end: end + 1 };
    try {
      const [cells, { records: inside }, { records }] = await Promise.all([get("/trades/heatmap", { instrument, ...range, price_step: 0.0002 }, signal),
        get("/annotations", { instrument, ...range, limit: 200 }, signal), get("/annotations", { instrument, limit: 200 }, signal)]);
      fill(title, `${time(range.start)} to ${time(range.end).slice(11)}`);
      fill(map, cells.cells.length || inside.length ? h("div.heatmap", null, heatmap(cells, inside, (box) => { stretch = box; void summarise(); })) : h("div.empty", null, "No trades in these minutes."));
      fill(notes, h("h3", null, "Annotations"), annotations(records, (at) => void look(at), () => void look(end)));
      stretch = range;
      await summarise();
    } catch (error) {
      if (!signal.aborted) fill(map, problem(error));
    }
  };
  const button = (/** @type {string} */ text, /** @type {string} */ label, /** @type {() => number} */ at) => h("button", { "aria-label": label, title: label, onclick: () => void look(at()) }, text);
  fill(place, h("header", { style: { flexWrap: "wrap" } }, h("h2", null, "Trade flow"), title, h("span.spacer"),
    button("‹", "Earlier", () => end - STEP_MS), button("›", "Later", () => end + STEP_MS), button("At the chart's end", "To the end of what the chart shows", chartEnd), button("Newest", "Newest trades", () => latest)),
  h("p.muted", null, "Drag over a stretch for its summary."), map, summary, notes);
  bind(",", "Trade flow: earlier", () => void look(end - STEP_MS), signal);
  bind(".", "Trade flow: later", () => void look(end + STEP_MS), signal);
  await look(end);
}

/** @param {any[]} records @param {(end: number) => void} go @param {() => void} changed */
function annotations(records, go, changed) {
  return table([
    { title: "Stretch", cell: (/** @type {any} */ row) => h("button", { onclick: () => go(Math.round((row.start_ms + row.end_ms + SPAN_MS) / 2)) }, time(row.start_ms)) },
    { title: "Length", number: true, cell: (row) => `${number((row.end_ms - row.start_ms) / 1000, 0)} s` },
    { title: "Label", cell: (row) => row.label }, { title: "Text", cell: (row) => h("span", { style: { whiteSpace: "pre-wrap", display: "block", minWidth: "12em" } }, row.note || "–") }, { title: "By", cell: (row) => row.author },
    { title: "", cell: (row) => (row.author === session().name && may("user")) || may("operator") ? deletion(row, changed) : "" },
  ], records, "Annotations", may("user") ? "None yet: drag over the heatmap and annotate a stretch." : "None yet. Annotating needs the role user.");
}

/** @param {any} row @param {() => void} changed */
function deletion(row, changed) {
  const button = /** @type {HTMLButtonElement} */ (h("button", { "aria-label": `Delete ${row.label}` }, "Delete"));
  button.addEventListener("click", async () => {
    if (await act(button, async () => { await remove(`/annotations/${row.id}?version=${row.version}`); return {}; }, "The annotation is deleted")) changed();
  });
  return button;
}

/** @param {any} one */
function factsOf(one) {
  const row = (/** @type {string} */ name, /** @type {any} */ value) => [h("dt", null, name), h("dd", null, value)];
  return h("dl.facts", null, row("Stretch", `${time(Date.parse(one.start))} to ${time(Date.parse(one.end)).slice(11)}`),
    row("Trades", `${number(one.trades, 0)}, ${number(one.trades_per_second, 1)} a second`), row("Volume", `${short(one.volume)} base`),
    row("Taker buys", percent(one.buy_share)), row("Delta", h("span", { class: side(one.delta) }, signed(one.delta, "base", 3))),
    row("Largest trade", `${short(one.largest)} base`), row("VWAP", price(one.vwap)), row("Low / high", `${price(one.low)} / ${price(one.high)}`));
}
