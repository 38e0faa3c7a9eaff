// @ts-check
/** Commands: nothing optimistic. A button is busy until its record came back; an error says what the API said. */

import { ApiError } from "./api.js";
import { fill, h, toast } from "./dom.js";

/**
 * Run a command from a button.
 * @param {HTMLButtonElement} button
 * @param {() => Promise<any>} call
 * @param {string} done what is said when a record was written; if the state was already so, that is said
 */
export async function act(button, call, done) {
  button.disabled = true;
  try {
    const answer = await call();
    toast(answer?.written === false ? "Nothing to write: it is so already" : done);
    return answer;
  } catch (error) {
    toast(error instanceof ApiError && error.status === 409 ? `Somebody was faster: ${error.message}` : error instanceof Error ? error.message : String(error), true);
    return null;
  } finally {
    button.disabled = false;
  }
}

/**
 * Ask before a command that is hard to undo. Resolves to the note, or null.
 * @param {string} title
 * @param {string} text
 * @param {string} [typed] what a person must type
 * @returns {Promise<string | null>}
 */
export function confirmed(title, text, typed = "") {
  return new Promise((resolve) => {
    const note = /** @type {HTMLInputElement} */ (h("input", { maxlength: 500, required: Boolean(typed) }));
    const name = /** @type {HTMLInputElement} */ (h("input", { autocomplete: "off" }));
    const go = /** @type {HTMLButtonElement} */ (h("button.danger", { type: "submit", disabled: Boolean(typed) }, title));
    const dialog = /** @type {HTMLDialogElement} */ (h("dialog", { "aria-label": title }));
    const close = (/** @type {string | null} */ answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    const form = h("form", { onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); close(note.value); } },
      h("h2", null, title), h("p", null, text),
      typed && h("label", null, h("span", null, `Type ${typed} to confirm`), name),
      h("label", null, h("span", null, typed ? "Reason, for the record" : "Reason, for the record (optional)"), note),
      h("footer", null, h("button", { type: "button", onclick: () => close(null) }, "Cancel"), go));
    name.addEventListener("input", () => { go.disabled = name.value !== typed; });
    dialog.addEventListener("cancel", () => close(null));
    fill(dialog, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}
