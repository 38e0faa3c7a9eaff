// @ts-check
/** Users, invitations and the audit log. */

import { act, confirmed } from "../../core/act.js";
import { get, post, put, remove } from "../../core/api.js";
import { fill, h, table, toast } from "../../core/dom.js";
import { form } from "../../core/form.js";
import { time } from "../../core/format.js";
import { show } from "../../core/router.js";

const ROLES = ["viewer", "user", "operator", "admin"];

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "admin",
  title: "Admin",
  role: "admin",
  async show({ root, signal }) {
    const [users, invitations, audit] = await Promise.all([
      get("/admin/users", { limit: 100 }, signal), get("/admin/invitations", { limit: 50 }, signal), get("/admin/audit", { limit: 100 }, signal)]);
    const part = (/** @type {string} */ title, /** @type {any[]} */ ...body) => h("section.card", { style: { marginTop: "12px" } }, h("header", null, h("h2", null, title)), body);
    fill(root, h("div.page-head", null, h("h1", null, "Admin")),
      part("Users", table([
        { title: "Name", cell: (/** @type {any} */ row) => row.name },
        { title: "Role", cell: (row) => role(row) },
        { title: "State", cell: (row) => row.banned ? h("span.badge.bad", null, "banned") : h("span.badge.good", null, "active") },
        { title: "Second factor", cell: (row) => (row.totp ? "yes" : "no") },
        { title: "Since", cell: (row) => time(row.created_at_ms) },
        { title: "", cell: (row) => ban(row) },
      ], users.records, "Users", "No users: `perpflow console-users add NAME --role owner` makes the first.")),
      part("Invitations", table([
        { title: "Code", cell: (/** @type {any} */ row) => h("code", null, row.code) }, { title: "Role", cell: (row) => row.role },
        { title: "Used", cell: (row) => `${row.used} of ${row.max_uses}` }, { title: "State", cell: (row) => row.status },
        { title: "Until", cell: (row) => time(row.expires_at_ms) }, { title: "By", cell: (row) => row.created_by },
        { title: "", cell: (row) => row.status === "active" ? withdraw(row.code) : "" },
      ], invitations.records, "Invitations", "No invitations yet."),
      form([{ name: "role", label: "Role", options: ROLES }, { name: "max_uses", label: "Uses", type: "number", value: 1 }], "Invite", async (values) => {
        const made = await post("/admin/invitations", { role: values.role, max_uses: Number(values.max_uses) });
        toast(`Invitation ${made.code}: ${location.origin}/register?code=${made.code}`);
        await show();
      })),
      part("Audit log, last 100", table([
        { title: "Time", cell: (/** @type {any} */ row) => time(row.at_ms) }, { title: "User", cell: (row) => row.user }, { title: "From", cell: (row) => row.address },
        { title: "What", cell: (row) => row.action }, { title: "Of", cell: (row) => row.target }, { title: "Result", cell: (row) => row.outcome },
      ], audit.records, "Audit log", "Nothing yet.")));
  },
};

/** @param {any} row */
function role(row) {
  const select = /** @type {HTMLSelectElement} */ (h("select", { "aria-label": `Role of ${row.name}` }, [...ROLES, "owner"].map((name) => h("option", { value: name }, name))));
  select.value = row.role;
  select.addEventListener("change", async () => {
    try {
      await put(`/admin/users/${row.id}/role`, { role: select.value });
      toast(`${row.name} is ${select.value} now`);
    } catch (error) {
      toast(error instanceof Error ? error.message : String(error), true);
      select.value = row.role;
    }
  });
  return select;
}

/** @param {any} row */
function ban(row) {
  const button = /** @type {HTMLButtonElement} */ (h("button", { class: row.banned ? "" : "danger" }, row.banned ? "Unban" : "Ban"));
  button.addEventListener("click", async () => {
    if (!row.banned && (await confirmed("Ban", `${row.name} is logged out at once.`, row.name)) === null) return;
    if (await act(button, () => put(`/admin/users/${row.id}/ban`, { banned: !row.banned }), `${row.name} is ${row.banned ? "active" : "banned"}`)) await show();
  });
  return button;
}

/** @param {string} code */
function withdraw(code) {
  const button = /** @type {HTMLButtonElement} */ (h("button", null, "Withdraw"));
  button.addEventListener("click", async () => { if (await act(button, () => remove(`/admin/invitations/${encodeURIComponent(code)}`), "The invitation is withdrawn")) await show(); });
  return button;
}
