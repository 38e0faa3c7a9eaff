// @ts-check
/** Builds elements. Text is always text: nothing of the API is ever read as HTML. */

/**
 * @typedef {Node | string | number | null | undefined | false} Child
 */

/**
 * Make an element.
 * @param {string} tag name, with classes after dots: "div.card"
 * @param {Record<string, any> | null} [properties] attributes; `on...` are listeners, `style` is an object
 * @param {...(Child | Child[])} children
 * @returns {HTMLElement}
 */
export function h(tag, properties, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.classList.add(...String(value).split(" ").filter(Boolean));
    else if (key === "style") Object.assign(element.style, value);
    else if (key === "value") /** @type {any} */ (element).value = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/**
 * Replace what an element holds.
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false).map((child) => (child instanceof Node ? child : String(child))));
}

/** @param {string} id @returns {HTMLElement} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

/**
 * A table. A column is {title, cell, number}; `cell` gives a child of a row.
 * @template Row
 * @param {{title: string, cell: (row: Row) => Child, number?: boolean}[]} columns
 * @param {Row[]} rows
 * @param {string} caption what the table holds, for screen readers
 * @param {string} empty what is shown without rows, and why there may be none
 */
export function table(columns, rows, caption, empty) {
  if (!rows.length) return h("div.empty", null, empty);
  const kind = (/** @type {{number?: boolean}} */ column) => (column.number ? "number" : "");
  return h("div.table-wrap", { tabindex: 0, role: "region", "aria-label": caption },
    h("table", null,
      h("thead", null, h("tr", null, columns.map((column) => h("th", { scope: "col", class: kind(column) }, column.title)))),
      h("tbody", null, rows.map((row) => h("tr", null, columns.map((column) => h("td", { class: kind(column) }, column.cell(row))))))));
}

/** @param {string} text @param {boolean} [bad] */
export function toast(text, bad = false) {
  const shown = h("div", { class: bad ? "bad" : "" }, text);
  byId("toasts").append(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** @param {unknown} error */
export function problem(error) {
  return h("p.problem", { role: "alert" }, error instanceof Error ? error.message : String(error));
}
