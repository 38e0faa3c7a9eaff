// @ts-check
/** The system: services, alerts, sinks, data quality, dead letters, storage. */

import { get } from "../../core/api.js";
import { fill, h, problem, table } from "../../core/dom.js";
import { ago, number, short, time } from "../../core/format.js";

const REFRESH_MS = 5_000;

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "system",
  title: "System",
  async show({ root, signal }) {
    const body = h("div");
    fill(root, h("div.page-head", null, h("h1", null, "System")), body);
    const read = async () => {
      try {
        const [system, alerts] = await Promise.all([get("/system", {}, signal), get("/alerts", {}, signal)]);
        fill(body, parts(system, alerts));
      } catch (error) {
        if (!signal.aborted) fill(body, problem(error));
      }
    };
    await read();
    const timer = setInterval(read, REFRESH_MS);
    signal.addEventListener("abort", () => clearInterval(timer));
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
