// @ts-check
/** Signals, closed trades, alerts, gaps, findings and risk events in one list by time, filterable. It is read once; then the stream adds what comes. */

import { get } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { number, signed, time } from "../../core/format.js";
import { bind } from "../../core/keys.js";
import { listen } from "../../core/live.js";
import { remember } from "../../core/router.js";

// What comes at once is drawn once.
const SETTLE_MS = 200;
const MOST = 200;

/** @typedef {{at: number, kind: string, instrument: string, text: string}} Entry */

/**
 * Kind -> path of its list, channel of its events, and how a row of either reads. Both have the same fields.
 * @type {Record<string, {path: string, channel: string, query?: any, keep?: (row: any) => boolean, entry: (row: any) => Omit<Entry, "kind" | "at">}>}
 */
const SOURCES = {
  signals: { path: "/signals", channel: "signals", entry: (row) => ({ instrument: row.instrument, text: `${row.strategy_name}: ${row.direction} at score ${number(row.score, 1)}, tier ${row.tier}` }) },
  trades: { path: "/trades/closed", channel: "trades_closed", entry: (row) => ({ instrument: row.instrument, text: `${row.strategy_name}: ${row.direction} closed by ${row.exit_reason}, ${signed(row.net_r, "R")} (${row.mode})` }) },
  gaps: { path: "/gaps", channel: "gaps", entry: (row) => ({ instrument: row.instrument, text: `${row.stream}: ${row.kind}${row.repaired ? ", repaired" : ""}${row.detail ? `, ${row.detail}` : ""}` }) },
  findings: { path: "/quality", channel: "data_quality", query: { severity: "error" }, keep: (row) => row.kind !== "score" && row.severity === "error", entry: (row) => ({ instrument: row.instrument, text: `${row.stream}: ${row.kind}${row.detail ? `, ${row.detail}` : ""}` }) },
  liquidations: { path: "/liquidations", channel: "liquidations", entry: (row) => ({ instrument: row.instrument, text: `${row.side === "SELL" ? "long" : "short"} of ${number(row.quantity, 4)} liquidated at ${row.price}` }) },
  risk: { path: "/risk/commands", channel: "risk_events", entry: (row) => ({ instrument: row.account, text: row.state ? `guard: ${row.state}${row.block_entries ? ", entries blocked" : ""}` : `${row.command} by ${row.by}: ${row.reason}` }) },
};
const KINDS = [...Object.keys(SOURCES), "alerts"];

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "timeline",
  title: "Timeline",
  async show({ root, query, signal }) {
    const chosen = new Set((query.get("kinds") ?? KINDS.join(",")).split(",").filter((kind) => KINDS.includes(kind)));
    const body = h("div.card");
    const boxes = KINDS.map((kind) => {
      const box = /** @type {HTMLInputElement} */ (h("input", { type: "checkbox" }));
      box.checked = chosen.has(kind);
      box.addEventListener("change", () => { box.checked ? chosen.add(kind) : chosen.delete(kind); remember({ kinds: [...chosen].join(",") }); void read(); });
      return h("label", { style: { display: "flex", alignItems: "center", gap: "6px" } }, box, kind);
    });
    KINDS.forEach((kind, i) => bind(String(i + 1), `Show or hide ${kind}`, () => boxes[i].querySelector("input")?.click(), signal));
    fill(root, h("div.page-head", null, h("h1", null, "Timeline"), boxes), body);
    /** @type {Map<string, Entry>} what is shown, by all that it says: a record that was read may come again by the stream */
    const entries = new Map();
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let waiting;
    const draw = () => {
      const shown = [...entries.values()].filter((one) => chosen.has(one.kind)).sort((a, b) => b.at - a.at).slice(0, MOST);
      fill(body, table([
        { title: "Time", cell: (/** @type {Entry} */ row) => time(row.at) }, { title: "Kind", cell: (row) => h("span.badge", { class: row.kind === "alerts" ? "bad" : "" }, row.kind) },
        { title: "Instrument", cell: (row) => row.instrument }, { title: "What", cell: (row) => row.text },
      ], shown, "Timeline", "Nothing of these kinds is stored yet."));
    };
    const add = (/** @type {Entry} */ one) => {
      entries.set(JSON.stringify(one), one);
      if (entries.size > MOST * KINDS.length * 2) for (const [key] of [...entries].sort(([, a], [, b]) => a.at - b.at).slice(0, MOST)) entries.delete(key);
    };
    const take = (/** @type {string} */ kind, /** @type {any} */ row) => {
      const { keep = () => true, entry } = SOURCES[kind];
      if (keep(row)) add({ kind, at: row.event_time_ms, ...entry(row) });
    };
    const alerts = (/** @type {any} */ found) => {
      for (const [key, one] of entries) if (one.kind === "alerts") entries.delete(key);
      for (const one of found.alerts ?? []) add({ kind: "alerts", at: Date.parse(one.since), instrument: "–", text: `${one.name} (${one.state}): ${one.summary}` });
    };
    const soon = () => { clearTimeout(waiting); waiting = setTimeout(() => { if (!signal.aborted) draw(); }, SETTLE_MS); };
    const read = async () => {
      try {
        await Promise.all([...chosen].map(async (kind) => {
          if (kind === "alerts") return alerts(await get("/alerts", {}, signal));
          const { path, query: more } = SOURCES[kind];
          const { records } = await get(path, { limit: 50, ...more }, signal);
          for (const row of records) take(kind, row);
        }));
        draw();
      } catch (error) {
        if (!signal.aborted) fill(body, problem(error));
      }
    };
    await read();
    listen([...Object.values(SOURCES).map((one) => one.channel), "alerts"], {
      ...Object.fromEntries(Object.entries(SOURCES).map(([kind, { channel }]) => [channel, (/** @type {any} */ row) => { take(kind, row); soon(); }])),
      alerts: (found) => { alerts(found); soon(); },
      reset: () => void read(),
    }, signal);
  },
};
