// @ts-check
/** Create or edit a strategy. The rules (D17) are checked by the API while a person types, the same ones that the workers hold. */

import { act } from "../../core/act.js";
import { ApiError, get, patch, post } from "../../core/api.js";
import { fill, h, problem } from "../../core/dom.js";
import { go } from "../../core/router.js";
import { why } from "../signals/why.js";

// The check waits until a person stops typing.
const PAUSE_MS = 300;
const SET_BY_COMMANDS = new Set(["strategy_id", "instrument", "status", "initial_balance", "added_balance", "revision", "event_time", "receive_time", "effective_time", "edited_by", "note", "model"]);

/**
 * @param {Record<string, any>} values
 * @param {(fields: Record<string, any>) => Promise<any>} check
 * @returns {{element: HTMLElement, read: () => Record<string, any>}}
 */
function fields(values, check) {
  /** @type {Map<string, {input: HTMLInputElement | HTMLSelectElement, error: HTMLElement}>} */
  const made = new Map();
  const read = () => Object.fromEntries([...made].map(([name, { input }]) => [name, parsed(values[name], input)]).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(values[/** @type {string} */ (name)])));
  let timer = 0;
  const typed = () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      for (const { error } of made.values()) fill(error);
      try {
        await check(read());
      } catch (error) {
        if (!(error instanceof ApiError)) return;
        for (const [field, reason] of Object.entries(error.fields)) {
          const at = made.get(field.split(".").at(-1) ?? "");
          if (at) fill(at.error, reason);
        }
      }
    }, PAUSE_MS);
  };
  const element = h("div.form", null, Object.entries(values).filter(([name]) => !SET_BY_COMMANDS.has(name.replace(/_ms$/, ""))).map(([name, value]) => {
    const input = /** @type {HTMLInputElement} */ (typeof value === "boolean" ? h("input", { type: "checkbox" })
      : h("input", { type: typeof value === "number" ? "number" : "text", step: "any", value: Array.isArray(value) ? value.join(", ") : value ?? "", maxlength: 500 }));
    if (typeof value === "boolean") input.checked = value;
    input.addEventListener("input", typed);
    const error = h("span.field-error", { role: "alert" });
    made.set(name, { input, error });
    return h("label", null, h("span", null, name), input, error);
  }));
  return { element, read };
}

/** @param {any} before @param {HTMLInputElement | HTMLSelectElement} input */
function parsed(before, input) {
  if (typeof before === "boolean") return /** @type {HTMLInputElement} */ (input).checked;
  if (typeof before === "number") return input.value === "" ? null : Number(input.value);
  if (Array.isArray(before)) return input.value.split(",").map((part) => part.trim()).filter(Boolean);
  return input.value === "" && before === null ? null : input.value;
}

/** @param {any} strategy */
export function editing(strategy) {
  const path = `/strategies/${encodeURIComponent(strategy.strategy_id)}`;
  const form = fields(strategy, (changed) => Object.keys(changed).length ? post(`${path}/check`, { revision: strategy.revision, fields: changed }) : Promise.resolve());
  const note = /** @type {HTMLInputElement} */ (h("input", { maxlength: 500 }));
  const save = /** @type {HTMLButtonElement} */ (h("button.primary", { type: "submit" }, "Write a new revision"));
  const tried = h("div", { style: { marginTop: "12px" } });
  const dry = h("button", { type: "button", title: "What this edit would decide at the newest instant; nothing is written", onclick: async () => {
    try {
      const { score } = await post("/decide", { strategy_id: strategy.strategy_id, fields: form.read() });
      fill(tried, why(score, "dry run; nothing was written"));
    } catch (error) {
      fill(tried, problem(error));
    }
  } }, "Try on the newest data");
  return h("form.card", { onsubmit: async (/** @type {Event} */ event) => {
    event.preventDefault();
    const answer = await act(save, () => patch(path, { revision: strategy.revision, fields: form.read(), note: note.value || null }), "The new revision is written");
    if (answer) go(`/plaza/${encodeURIComponent(strategy.strategy_id)}?tab=revisions`);
  } }, form.element, h("p", null, h("label", null, h("span", null, "Reason, for the audit trail"), note)), h("p", { style: { display: "flex", gap: "8px" } }, save, dry), tried);
}

/** @param {HTMLElement} root */
export async function creating(root) {
  const id = /** @type {HTMLInputElement} */ (h("input", { required: true, maxlength: 64 }));
  const instrument = /** @type {HTMLSelectElement} */ (h("select", { required: true }));
  const place = h("div.skeleton");
  const said = h("div");
  let form = /** @type {{element: HTMLElement, read: () => Record<string, any>} | null} */ (null);
  const { instruments } = await get("/instruments");
  fill(instrument, instruments.map((/** @type {any} */ one) => h("option", { value: one.instrument }, one.instrument)));
  const fresh = async () => {
    fill(said);
    try {
      const { strategy } = await post("/strategies/check", { strategy_id: id.value || "new-strategy", instrument: instrument.value });
      form = fields(strategy, (given) => post("/strategies/check", { strategy_id: id.value || "new-strategy", instrument: instrument.value, fields: given }));
      place.classList.remove("skeleton");
      fill(place, form.element);
    } catch (error) {
      fill(said, problem(error));
    }
  };
  instrument.addEventListener("change", () => void fresh());
  const save = /** @type {HTMLButtonElement} */ (h("button.primary", { type: "submit" }, "Create"));
  fill(root, h("div.page-head", null, h("a", { href: "/plaza", "data-link": true }, "Plaza"), h("h1", null, "New strategy")),
    h("form.card", { onsubmit: async (/** @type {Event} */ event) => {
      event.preventDefault();
      const answer = await act(save, () => post("/strategies", { strategy_id: id.value, instrument: instrument.value, fields: form?.read() ?? {} }), "The strategy is written");
      if (answer) go(`/plaza/${encodeURIComponent(id.value)}`);
    } }, h("div.form", null, h("label", null, h("span", null, "Id"), id), h("label", null, h("span", null, "Instrument"), instrument)), said, place, h("p", null, save)));
  if (instruments.length) await fresh();
  else fill(place, h("div.empty", null, "No instruments yet: is a producer running?"));
}
