// @ts-check
/** Small forms: labelled fields, one button, the API's reasons beside the fields. */

import { ApiError } from "./api.js";
import { fill, h } from "./dom.js";

/**
 * @param {{name: string, label: string, type?: string, value?: any, required?: boolean, autocomplete?: string, options?: string[], suggestions?: string[], lines?: boolean}[]} fields `suggestions` are offered, other text is taken too; `lines`: a text of many lines
 * @param {string} action text of the button
 * @param {(values: Record<string, string>) => Promise<any>} send
 */
export function form(fields, action, send) {
  const said = h("p.field-error", { role: "alert" });
  /** @type {Map<string, HTMLElement>} */
  const errors = new Map();
  const inputs = fields.map((one) => {
    const error = h("span.field-error", { role: "alert" });
    errors.set(one.name, error);
    const list = one.suggestions && h("datalist", { id: `suggestions-${one.name}` }, one.suggestions.map((text) => h("option", { value: text })));
    const input = one.options
      ? h("select", { name: one.name }, one.options.map((option) => h("option", { value: option }, option)))
      : one.lines ? h("textarea", { name: one.name, rows: 3, maxlength: 2000 })
      : h("input", { name: one.name, type: one.type ?? "text", value: one.value ?? "", required: one.required ?? true, autocomplete: one.autocomplete ?? "off", maxlength: 256, list: list && list.id });
    return h("label", null, h("span", null, one.label), input, list, error);
  });
  const button = /** @type {HTMLButtonElement} */ (h("button.primary", { type: "submit" }, action));
  const element = /** @type {HTMLFormElement} */ (h("form", { style: { display: "grid", gap: "12px", maxWidth: "380px" } }, inputs, said, h("div", null, button)));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    fill(said);
    for (const error of errors.values()) fill(error);
    button.disabled = true;
    try {
      await send(/** @type {Record<string, string>} */ (Object.fromEntries(new FormData(element))));
      element.reset();
    } catch (error) {
      if (!(error instanceof ApiError)) return fill(said, String(error));
      let placed = false;
      for (const [field, reason] of Object.entries(error.fields)) {
        const at = errors.get(field.split(".").at(-1) ?? "");
        if (at) { fill(at, reason); placed = true; }
      }
      if (!placed) fill(said, error.message);
    } finally {
      button.disabled = false;
    }
  });
  return element;
}
