// @ts-check
/** The desk: positions valued now, orders, fills, the guard and its switches. A command shows as done when its record came back. */

import { act, confirmed } from "../../core/act.js";
import { get, post } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { ago, number, price, short, time } from "../../core/format.js";
import { listen } from "../../core/live.js";
import { may } from "../../core/session.js";
import { positionTable } from "../plaza/detail.js";

const REFRESH_MS = 3_000;
const SWITCHES = /** @type {const} */ ([
  ["halt", "Halt", "Entries stop and working entry orders are cancelled until somebody resumes."],
  ["block_new", "Block new entries", "Open positions keep their exits."],
  ["close_all", "Close all", "Every position of the account is closed at the market."],
  ["resume", "Resume", "Lifts the switches of the account."],
]);

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "desk",
  title: "Desk",
  async show({ root, signal }) {
    const guard = h("section.card"), positions = h("div"), orders = h("div"), fills = h("div");
    const part = (/** @type {string} */ title, /** @type {HTMLElement} */ body) => h("section.card", { style: { marginTop: "12px" } }, h("header", null, h("h2", null, title)), body);
    fill(root, h("div.page-head", null, h("h1", null, "Desk")), guard, part("Open positions", positions), part("Open orders", orders), part("Last fills", fills));
    const read = async () => {
      try {
        const [risk, open, working, filled] = await Promise.all([
          get("/risk", {}, signal), get("/positions", {}, signal), get("/orders", {}, signal), get("/fills", { limit: 20 }, signal)]);
        fill(guard, ...guardParts(risk, read));
        fill(positions, positionTable(open.positions));
        fill(orders, table([
          { title: "Account", cell: (/** @type {any} */ row) => row.account }, { title: "Instrument", cell: (row) => row.instrument },
          { title: "Leg", cell: (row) => row.leg }, { title: "Side", cell: (row) => row.side }, { title: "Type", cell: (row) => row.type },
          { title: "Price", number: true, cell: (row) => price(row.price) }, { title: "Quantity", number: true, cell: (row) => short(row.quantity) },
          { title: "Status", cell: (row) => row.status }, { title: "Since", cell: (row) => ago(row.event_time_ms) },
        ], working.orders, "Open orders", "No open orders."));
        fill(fills, table([
          { title: "Time", cell: (/** @type {any} */ row) => time(row.event_time_ms) }, { title: "Account", cell: (row) => row.mode },
          { title: "Instrument", cell: (row) => row.instrument }, { title: "Leg", cell: (row) => row.leg }, { title: "Side", cell: (row) => row.side },
          { title: "Price", number: true, cell: (row) => price(row.price) }, { title: "Quantity", number: true, cell: (row) => short(row.quantity) },
          { title: "Fee, quote", number: true, cell: (row) => number(row.fee, 4) }, { title: "Liquidity", cell: (row) => row.liquidity },
        ], filled.records, "Last fills", "No fills yet."));
      } catch (error) {
        if (!signal.aborted) fill(positions, problem(error));
      }
    };
    await read();
    // A change of orders, fills or risk is read at once; values at the newest quote every few seconds.
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let soon;
    const changed = () => { clearTimeout(soon); soon = setTimeout(() => { if (!document.querySelector("dialog[open]") && !signal.aborted) void read(); }, 200); };
    listen(["orders:*", "fills:*", "trades_closed:*", "risk_events"], { orders: changed, fills: changed, trades_closed: changed, risk_events: changed, reset: changed }, signal);
    const timer = setInterval(() => { if (!document.querySelector("dialog[open]")) void read(); }, REFRESH_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
  },
};

/** @param {any} risk @param {() => Promise<void>} read */
function guardParts(risk, read) {
  const tone = (/** @type {string} */ state) => (state === "normal" || state === "ok" ? "good" : state === "halted" ? "bad" : "warn");
  return [
    h("header", null, h("h2", null, "Risk guard")),
    table([
      { title: "Account", cell: (/** @type {any} */ row) => row.account },
      { title: "State", cell: (row) => h("span.badge", { class: tone(row.state) }, row.state) },
      { title: "Entries", cell: (row) => (row.block_entries ? "blocked" : "allowed") },
      { title: "Reasons", cell: (row) => row.reasons.map((/** @type {any} */ one) => one.rule ?? String(one)).join(", ") || "–" },
      { title: "Written", cell: (row) => ago(row.event_time_ms) },
      { title: "", cell: (row) => may("operator") ? h("span", { style: { display: "flex", gap: "6px", flexWrap: "wrap" } }, SWITCHES.map((one) => switchButton(one, row.account, read))) : "" },
    ], risk.accounts, "Risk guard", "No guard runs: `perpflow risk guard --mode testnet` starts one."),
    risk.switches.length ? h("p.muted", null, `Switches that hold: ${risk.switches.map((/** @type {any} */ one) => `${one.command} of ${one.account} by ${one.by} (${one.reason})`).join("; ")}`) : null,
  ];
}

/** @param {readonly [string, string, string]} one @param {string} account @param {() => Promise<void>} read */
function switchButton([name, title, text], account, read) {
  const button = /** @type {HTMLButtonElement} */ (h("button", { class: name === "resume" ? "" : "danger" }, title));
  button.addEventListener("click", async () => {
    const reason = await confirmed(title, text, account);
    if (reason === null) return;
    const answer = await act(button, () => post(`/risk/${name}`, { account, confirm: account, reason }), `${title}: the command was written for ${account}`);
    if (answer) await read();
  });
  return button;
}
