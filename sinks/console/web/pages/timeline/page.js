// @ts-check
/** Signals, closed trades, gaps, findings and risk commands in one list by time, filterable. */

import { get } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { number, signed, time } from "../../core/format.js";
import { listen } from "../../core/live.js";
import { remember } from "../../core/router.js";

const REFRESH_MS = 10_000;

/** @typedef {{at: number, kind: string, instrument: string, text: string}} Entry */

/** @type {Record<string, {path: string, query?: any, keep?: (row: any) => boolean, entry: (row: any) => Omit<Entry, "kind" | "at">}>} */
const SOURCES = {
  signals: { path: "/signals", entry: (row) => ({ instrument: row.instrument, text: `${row.strategy_name}: ${row.direction} at score ${number(row.score, 1)}, tier ${row.tier}` }) },
  trades: { path: "/trades/closed", entry: (row) => ({ instrument: row.instrument, text: `${row.strategy_name}: ${row.direction} closed by ${row.exit_reason}, ${signed(row.net_r, "R")} (${row.mode})` }) },
  gaps: { path: "/gaps", entry: (row) => ({ instrument: row.instrument, text: `${row.stream}: ${row.kind}${row.repaired ? ", repaired" : ""}${row.detail ? `, ${row.detail}` : ""}` }) },
  findings: { path: "/quality", query: { severity: "error" }, keep: (row) => row.kind !== "score", entry: (row) => ({ instrument: row.instrument, text: `${row.stream}: ${row.kind}${row.detail ? `, ${row.detail}` : ""}` }) },
  liquidations: { path: "/liquidations", entry: (row) => ({ instrument: row.instrument, text: `${row.side === "SELL" ? "long" : "short"} of ${number(row.quantity, 4)} liquidated at ${row.price}` }) },
  risk: { path: "/risk/commands", entry: (row) => ({ instrument: row.account, text: `${row.command} by ${row.by}: ${row.reason}` }) },
};

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "timeline",
  title: "Timeline",
  async show({ root, query, signal }) {
    const chosen = new Set((query.get("kinds") ?? Object.keys(SOURCES).join(",")).split(",").filter((kind) => kind in SOURCES));
    const body = h("div.card");
    const boxes = Object.keys(SOURCES).map((kind) => {
      const box = /** @type {HTMLInputElement} */ (h("input", { type: "checkbox" }));
      box.checked = chosen.has(kind);
      box.addEventListener("change", () => { box.checked ? chosen.add(kind) : chosen.delete(kind); remember({ kinds: [...chosen].join(",") }); void read(); });
      return h("label", { style: { display: "flex", alignItems: "center", gap: "6px" } }, box, kind);
    });
    fill(root, h("div.page-head", null, h("h1", null, "Timeline"), boxes), body);
    const read = async () => {
      try {
        const lists = await Promise.all([...chosen].map(async (kind) => {
          const { path, query: more, keep = () => true, entry } = SOURCES[kind];
          const { records } = await get(path, { limit: 50, ...more }, signal);
          return records.filter(keep).map((/** @type {any} */ row) => ({ kind, at: row.event_time_ms, ...entry(row) }));
        }));
        const entries = lists.flat().sort((a, b) => b.at - a.at).slice(0, 200);
        fill(body, table([
          { title: "Time", cell: (/** @type {Entry} */ row) => time(row.at) }, { title: "Kind", cell: (row) => h("span.badge", null, row.kind) },
          { title: "Instrument", cell: (row) => row.instrument }, { title: "What", cell: (row) => row.text },
        ], entries, "Timeline", "Nothing of these kinds is stored yet."));
      } catch (error) {
        if (!signal.aborted) fill(body, problem(error));
      }
    };
    await read();
    const now = () => void read();
    listen(["signals:*", "trades_closed:*", "gaps:*", "risk_events"], { signals: now, trades_closed: now, gaps: now, risk_events: now, reset: now }, signal);
    const timer = setInterval(read, REFRESH_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  },
};
