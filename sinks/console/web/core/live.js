// @ts-check
/** The live stream of a page: one connection, resumed by the browser; its state is shown in the header. */

import { byId } from "./dom.js";

const TEXT = /** @type {const} */ ({ open: ["live", "good"], away: ["reconnecting", "warn"], stale: ["no data from Kafka", "bad"], idle: ["not live", ""] });

/** @param {keyof typeof TEXT} state */
function shown(state) {
  const badge = byId("connection");
  const [text, tone] = TEXT[state];
  badge.textContent = text;
  badge.className = `badge ${tone}`;
}

/**
 * Listen to channels until the visit ends.
 * @param {string[]} channels as GET /live names them
 * @param {Record<string, (message: any) => void>} handlers channel name -> what is done with a message; `reset` is called when events may be missing
 * @param {AbortSignal} signal
 */
export function listen(channels, handlers, signal) {
  const source = new EventSource(`/api/v1/live?channels=${encodeURIComponent([...channels, "health"].join(","))}`);
  source.addEventListener("open", () => shown("open"));
  source.addEventListener("error", () => {
    shown("away");
    // A closed source got an answer that is no stream: the browser does not try again.
    if (source.readyState === EventSource.CLOSED && !signal.aborted) setTimeout(() => { if (!signal.aborted) listen(channels, handlers, signal); }, 3_000);
  });
  source.addEventListener("health", (event) => shown(JSON.parse(event.data).kafka === "ok" ? "open" : "stale"));
  for (const [name, handle] of Object.entries(handlers)) source.addEventListener(name, (event) => handle(JSON.parse(event.data)));
  signal.addEventListener("abort", () => { source.close(); shown("idle"); });
}
