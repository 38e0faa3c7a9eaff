// @ts-check
/** The system: services, alerts, sinks, data quality, dead letters, storage. */

import { act } from "../../core/act.js";
import { get, post } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { ago, number, short, time } from "../../core/format.js";
import { listen } from "../../core/live.js";
import { may } from "../../core/session.js";

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "system",
  title: "System",
  key: "y", // s is of the signals
  async show({ root, signal }) {
    const body = h("div"), sent = h("div");
    const test = /** @type {HTMLButtonElement} */ (h("button", { title: "One message to every channel of the notifier" }, "Send a test message"));
    test.addEventListener("click", async () => {
      const answer = await act(test, () => post("/notifier/test"), "The test messages were sent; each result is below");
      if (answer) fill(sent, h("section.card", { style: { marginBottom: "12px" } }, h("header", null, h("h2", null, "Notifier test")), table([
        { title: "Channel", cell: (/** @type {any} */ row) => row.channel },
        { title: "Result", cell: (row) => h("span.badge", { class: row.sent ? "good" : "bad" }, row.result) }, { title: "Detail", cell: (row) => row.detail || "–" },
      ], answer.channels, "Notifier test", "The notifier has no channel.")));
    });
    const commands = h("span");
    fill(root, h("div.page-head", null, h("h1", null, "System"), h("span.spacer"), commands), sent, body);
    /** @type {{system: any, alerts: any}} */
    const newest = { system: null, alerts: null };
    const draw = () => {
      if (!newest.system || !newest.alerts) return;
      fill(commands, may("operator") && newest.system.notifier && test);
      fill(body, parts(newest.system, newest.alerts));
    };
    try {
      [newest.system, newest.alerts] = await Promise.all([get("/system", {}, signal), get("/alerts", {}, signal)]);
      draw();
    } catch (error) {
      if (!signal.aborted) fill(body, problem(error));
    }
    // From here on the stream tells: the console asks once for all browsers.
    listen(["system", "alerts"], { system: (tree) => { newest.system = tree; draw(); }, alerts: (alerts) => { newest.alerts = alerts; draw(); } }, signal);
  },
};

/** @param {any} system @param {any} alerts */
function parts(system, alerts) {
  const part = (/** @type {string} */ title, /** @type {any} */ body) => h("section.card", null, h("header", null, h("h2", null, title)), body);
  const unknown = (/** @type {{reason: string}} */ one) => h("div.empty", null, one.reason);
  return h("div", { style: { display: "grid", gap: "12px" } },
    h("p.muted", null, `perpflow ${system.version}; database ${system.database.ok ? `answers in ${number(system.database.answer_ms, 1)} ms` : `does not answer (${system.database.reason})`}${system.database_server ? `; ${system.database_server}, ${short(system.database_bytes)}B` : ""}`),
    part("Alerts", alerts.known ? table([
      { title: "Alert", cell: (/** @type {any} */ row) => row.name },
      { title: "State", cell: (row) => h("span.badge", { class: row.state === "firing" ? "bad" : "warn" }, row.state) },
      { title: "Severity", cell: (row) => row.severity ?? "–" }, { title: "Since", cell: (row) => time(Date.parse(row.since)) }, { title: "Meaning", cell: (row) => row.summary },
    ], alerts.alerts, "Alerts", "No alert fires.") : unknown(alerts)),
    part("Services", system.services.known ? table([
      { title: "Service", cell: (/** @type {any} */ row) => row.job }, { title: "Address", cell: (row) => row.instance },
      { title: "State", cell: (row) => row.answers ? h("span.badge", { class: row.healthy === false ? "bad" : "good" }, row.healthy === false ? "unhealthy" : "healthy") : h("span.badge.bad", null, "does not answer") },
    ], system.services.services, "Services", "Prometheus scrapes no service.") : unknown(system.services)),
    system.sinks ? [part("Sinks", table([
      { title: "Sink", cell: (/** @type {any} */ row) => row.sink }, { title: "Topics", number: true, cell: (row) => row.topics },
      { title: "Partitions", number: true, cell: (row) => row.partitions }, { title: "Last write", cell: (row) => ago(row.updated_at_ms) },
    ], system.sinks, "Sinks", "No sink has written yet.")),
    part("Data quality", table([
      { title: "Venue", cell: (/** @type {any} */ row) => row.venue }, { title: "Stream", cell: (row) => row.stream },
      { title: "Score, 0 to 10", number: true, cell: (row) => number(row.score) }, { title: "Lowest", number: true, cell: (row) => number(row.lowest) },
      { title: "Instruments", number: true, cell: (row) => row.instruments }, { title: "Last", cell: (row) => ago(row.event_time_ms) },
    ], system.quality, "Data quality", "No scores: is `perpflow monitor` running?")),
    part("Dead letters of a day", table([
      { title: "Service", cell: (/** @type {any} */ row) => row.service }, { title: "Source", cell: (row) => row.source },
      { title: "Records", number: true, cell: (row) => number(row.records, 0) }, { title: "Last", cell: (row) => ago(row.event_time_ms) },
    ], system.dead_letters, "Dead letters", "None.")),
    part("Largest tables", table([
      { title: "Table", cell: (/** @type {any} */ row) => row.name }, { title: "Size", number: true, cell: (row) => `${short(row.bytes)}B` },
    ], system.tables, "Largest tables", "None."))] : []);
}
