// @ts-check
/** One strategy: what it is, its signals, its paper account, its revisions. The tab is in the address. */

import { act, confirmed } from "../../core/act.js";
import { get, post } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { number, percent, price, short, side, signed, time } from "../../core/format.js";
import { remember, show } from "../../core/router.js";
import { may } from "../../core/session.js";
import { card } from "./card.js";
import { editing } from "./form.js";

/** @type {Record<string, string[]>} status before -> commands that it allows */
const COMMANDS = { running: ["pause", "deprecate"], paused: ["resume", "deprecate"], deprecated: ["restore"] };

/**
 * @param {HTMLElement} root
 * @param {string} id
 * @param {URLSearchParams} query
 * @param {AbortSignal} signal
 */
export async function detail(root, id, query, signal) {
  const { strategy, config_hash } = await get(`/strategies/${encodeURIComponent(id)}`, {}, signal);
  const { cards: [own] } = await get("/plaza", { strategy_id: id }, signal);
  const body = h("div");
  /** @type {Record<string, () => Promise<any> | any>} */
  const tabs = { overview: () => overview(strategy, config_hash, own), signals: () => signals(strategy, signal), paper: () => paper(id, signal), revisions: () => revisions(id, signal) };
  if (may("operator") && strategy.status !== "deprecated") tabs.edit = () => editing(strategy);
  const buttons = Object.keys(tabs).map((name) => h("button", { role: "tab", type: "button", onclick: () => open(name) }, name[0].toUpperCase() + name.slice(1)));
  const open = async (/** @type {string} */ name) => {
    Object.keys(tabs).forEach((other, at) => buttons[at].setAttribute("aria-selected", String(other === name)));
    remember({ tab: name });
    fill(body, h("div.skeleton"));
    try {
      fill(body, await tabs[name]());
    } catch (error) {
      if (!signal.aborted) fill(body, problem(error));
    }
  };
  fill(root,
    h("div.page-head", null, h("a", { href: "/plaza", "data-link": true }, "Plaza"), h("h1", null, strategy.display_name),
      h("span.badge", null, strategy.status), h("span.spacer"), h("a.button", { href: `/plaza/compare?a=${encodeURIComponent(id)}`, "data-link": true }, "Compare"), may("operator") && commands(strategy)),
    h("div.tabs", { role: "tablist", "aria-label": "Parts of the strategy" }, buttons), body);
  const wanted = query.get("tab") ?? "overview";
  await open(wanted in tabs ? wanted : "overview");
}

/** @param {any} strategy */
function commands(strategy) {
  return (COMMANDS[strategy.status] ?? []).map((change) => {
    const button = /** @type {HTMLButtonElement} */ (h("button", { class: change === "deprecate" ? "danger" : "" }, change[0].toUpperCase() + change.slice(1)));
    button.addEventListener("click", async () => {
      const note = change === "deprecate" ? await confirmed("Deprecate", "It gives no signals and takes no edits until it is restored.", strategy.strategy_id) : "";
      if (note === null) return;
      const path = `/strategies/${encodeURIComponent(strategy.strategy_id)}/${change}`;
      if (await act(button, () => post(path, { revision: strategy.revision, note: note || null }), `${strategy.display_name}: ${change} is written`)) await show();
    });
    return button;
  });
}

/** @param {any} strategy @param {string} hash @param {any} own */
function overview(strategy, hash, own) {
  const skipped = new Set(["receive_time", "event_time", "effective_time"]);
  return h("div.columns", null,
    h("section.card", null, h("header", null, h("h2", null, `Revision ${strategy.revision}`), h("span.spacer"), h("code", null, hash)),
      h("dl.facts", null, Object.entries(strategy).filter(([name]) => !skipped.has(name.replace(/_ms$/, ""))).flatMap(([name, value]) => [
        h("dt", null, name), h("dd", null, Array.isArray(value) ? value.join(", ") || "–" : value === null || value === "" ? "–" : String(value))]))),
    own ? card(own) : h("div.empty", null, "The sink has not stored this strategy yet."));
}

/** @param {any} strategy @param {AbortSignal} signal */
async function signals(strategy, signal) {
  const { records } = await get("/signals", { strategy_id: strategy.strategy_id, limit: 50 }, signal);
  return table([
    { title: "Time", cell: (/** @type {any} */ row) => h("a", { href: `/signals?instrument=${encodeURIComponent(row.instrument)}&score=${encodeURIComponent(row.signal_id)}`, "data-link": true }, time(row.event_time_ms)) },
    { title: "Direction", cell: (row) => h("span", { class: row.direction === "LONG" ? "up" : "down" }, row.direction) },
    { title: "Score", number: true, cell: (row) => number(row.score, 1) },
    { title: "Tier", cell: (row) => row.tier },
    { title: "Price", number: true, cell: (row) => price(row.price) },
    { title: "Stop distance", number: true, cell: (row) => price(row.risk_distance) },
    { title: "What", cell: (row) => [row.entry && "entry", row.flip && "flip"].filter(Boolean).join(", ") },
  ], records, "Last 50 signals", "No signals yet.");
}

/** @param {string} id @param {AbortSignal} signal */
async function paper(id, signal) {
  const [{ positions }, { records }, { all }] = await Promise.all([
    get("/positions", { mode: "paper", strategy_id: id }, signal),
    get("/trades/closed", { mode: "paper", strategy_id: id, limit: 200 }, signal),
    get("/paper/statistics", { strategy_id: id }, signal),
  ]);
  return h("div", { style: { display: "grid", gap: "12px" } },
    h("section.card", null, h("header", null, h("h2", null, "Open positions")), positionTable(positions)),
    h("section.card", null, h("header", null, h("h2", null, "Closed trades")), table([
      { title: "Closed", cell: (/** @type {any} */ row) => time(row.event_time_ms) },
      { title: "Direction", cell: (row) => h("span", { class: row.direction === "LONG" ? "up" : "down" }, row.direction) },
      { title: "Entry", number: true, cell: (row) => price(row.entry_price) },
      { title: "Exit", number: true, cell: (row) => price(row.exit_price) },
      { title: "Reason", cell: (row) => row.exit_reason },
      { title: "Score", number: true, cell: (row) => number(row.score, 1) },
      { title: "Held", number: true, cell: (row) => `${number(row.hold_ms / 60_000, 0)} min` },
      { title: "Net", number: true, cell: (row) => h("span", { class: side(row.net_r) }, signed(row.net_r, "R")) },
      { title: "Net, money", number: true, cell: (row) => signed(row.net_pnl, "quote") },
    ], records, "Closed trades", "No closed trades yet.")),
    h("section.card", null, h("header", null, h("h2", null, "Statistics")), statisticsTable(all)));
}

/** @param {any[]} rows */
export function positionTable(rows) {
  return table([
    { title: "Account", cell: (row) => row.account },
    { title: "Instrument", cell: (row) => row.instrument },
    { title: "Strategy", cell: (row) => row.strategy_id },
    { title: "Direction", cell: (row) => h("span", { class: row.direction === "LONG" ? "up" : "down" }, row.direction) },
    { title: "Status", cell: (row) => row.status },
    { title: "Quantity", number: true, cell: (row) => short(row.open_quantity) },
    { title: "Entry", number: true, cell: (row) => price(row.entry_price) },
    { title: "Now", number: true, cell: (row) => price(row.price) },
    { title: "Stop", number: true, cell: (row) => price(row.stop_price) },
    { title: "TP1 / TP2", number: true, cell: (row) => `${price(row.tp1_price)} / ${price(row.tp2_price)}` },
    { title: "Unrealised", number: true, cell: (row) => h("span", { class: side(row.unrealised) }, signed(row.unrealised, "quote")) },
    { title: "R", number: true, cell: (row) => h("span", { class: side(row.r) }, signed(row.r, "R")) },
  ], rows, "Open positions", "No open positions.");
}

/** @param {Record<string, {value: number | null, unit: string, group: string, reason?: string}>} all */
function statisticsTable(all) {
  const shown = (/** @type {{value: number | null, unit: string, reason?: string}} */ one) => {
    if (one.value === null) return h("span.muted", null, one.reason ?? "not defined");
    if (one.unit === "fraction") return percent(one.value, 2);
    if (one.unit === "ms UTC") return time(one.value);
    if (one.unit === "ms") return `${number(one.value / 60_000, 1)} min`;
    return `${number(one.value, one.unit === "count" ? 0 : 3)} ${one.unit === "ratio" || one.unit === "count" ? "" : one.unit === "money" ? "quote" : one.unit}`;
  };
  const groups = [...new Set(Object.values(all).map((one) => one.group))];
  return h("div.grid", null, groups.map((group) => h("section", { "aria-label": group }, h("h3", null, group),
    h("dl.facts", null, Object.entries(all).filter(([, one]) => one.group === group).flatMap(([name, one]) => [
      h("dt", null, name.replaceAll("_", " ")), h("dd", null, shown(one))])))));
}

/** @param {string} id @param {AbortSignal} signal */
async function revisions(id, signal) {
  const path = `/strategies/${encodeURIComponent(id)}`;
  const { history } = await get(`${path}/history`, {}, signal);
  const shown = (/** @type {any} */ value) => (Array.isArray(value) ? value.join(", ") || "–" : value === null || value === "" ? "–" : String(value));
  const numbers = history.filter((/** @type {any} */ row) => row.did !== "refused").map((/** @type {any} */ row) => row.revision);
  const select = (/** @type {string} */ label, /** @type {number} */ chosen) => {
    const made = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": label }, numbers.map((/** @type {number} */ value) => h("option", { value }, `Revision ${value}`))));
    made.value = String(chosen);
    made.addEventListener("change", () => void differ());
    return made;
  };
  const first = select("First revision", numbers.at(-2) ?? numbers.at(-1)), second = select("Second revision", numbers.at(-1));
  const found = h("div");
  const differ = async () => {
    try {
      const { fields } = await get(`${path}/differences`, { first: first.value, second: second.value }, signal);
      fill(found, table([
        { title: "Field", cell: (/** @type {[string, any[]]} */ row) => row[0] },
        { title: `Revision ${first.value}`, number: true, cell: (row) => shown(row[1][0]) }, { title: `Revision ${second.value}`, number: true, cell: (row) => shown(row[1][1]) },
      ], /** @type {[string, any[]][]} */ (Object.entries(fields)), "Differences of two revisions", "They are the same."));
    } catch (error) {
      if (!signal.aborted) fill(found, problem(error));
    }
  };
  if (numbers.length > 1) await differ();
  return h("div", { style: { display: "grid", gap: "12px" } },
    numbers.length > 1 && h("section.card", null, h("header", { style: { flexWrap: "wrap" } }, h("h2", null, "Differences"), h("span.spacer"), first, "to", second), found),
    table([
      { title: "Revision", number: true, cell: (/** @type {any} */ row) => row.revision },
      { title: "Written", cell: (row) => time(row.event_time_ms) },
      { title: "By", cell: (row) => row.by || "–" },
      { title: "What", cell: (row) => row.did },
      { title: "Changes", cell: (row) => row.did === "create" ? "every field" : Object.entries(row.changed).map(([field, [before, after]]) => `${field}: ${before} → ${after}`).join("; ") || row.reason || "–" },
      { title: "Note", cell: (row) => row.note ?? "–" },
    ], history.reverse(), "Revisions", "No revisions."));
}
