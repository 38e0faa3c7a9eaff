// @ts-check
/** One's own account: password, second factor, sessions. */

import { act } from "../../core/act.js";
import { get, post, remove } from "../../core/api.js";
import { fill, h, table, toast } from "../../core/dom.js";
import { form } from "../../core/form.js";
import { ago, time } from "../../core/format.js";
import { show } from "../../core/router.js";

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "account",
  title: "Account",
  async show({ root, signal }) {
    const [me, { records }] = await Promise.all([get("/auth/me", {}, signal), get("/auth/sessions", {}, signal)]);
    const part = (/** @type {string} */ title, /** @type {any[]} */ ...body) => h("section.card", { style: { marginTop: "12px" } }, h("header", null, h("h2", null, title)), body);
    fill(root, h("div.page-head", null, h("h1", null, "Account"), h("span.badge", null, `${me.name}, ${me.role}`)),
      part("Password", form([
        { name: "current", label: "Present password", type: "password", autocomplete: "current-password" },
        { name: "new", label: "New password", type: "password", autocomplete: "new-password" },
      ], "Change the password", async (values) => { await post("/auth/password", values); toast("The password is changed; other sessions have ended"); })),
      me.totp ? part("Second factor", h("p", null, "Your login asks for a code of your authenticator."), form([
        { name: "password", label: "Password", type: "password", autocomplete: "current-password" }, { name: "code", label: "Code" },
      ], "Remove the second factor", async (values) => { await post("/auth/totp/remove", values); await show(); }))
        : part("Second factor", enrolment()),
      part("Sessions", table([
        { title: "Address", cell: (/** @type {any} */ row) => row.address }, { title: "Browser", cell: (row) => row.agent.slice(0, 60) },
        { title: "Begun", cell: (row) => time(row.created_at_ms) }, { title: "Used", cell: (row) => ago(row.used_at_ms) },
        { title: "", cell: (row) => row.current ? h("span.badge.good", null, "this one") : endButton(row.id) },
      ], records, "Sessions", "No sessions.")));
  },
};

/** @param {string} id */
function endButton(id) {
  const button = /** @type {HTMLButtonElement} */ (h("button", null, "End"));
  button.addEventListener("click", async () => { if (await act(button, () => remove(`/auth/sessions/${id}`), "The session has ended")) await show(); });
  return button;
}

/** Two steps: the secret goes into the authenticator, and its first code proves that it is there. */
function enrolment() {
  const place = h("div");
  fill(place, h("p", null, "A code of an authenticator app at each login."), form([
    { name: "password", label: "Password", type: "password", autocomplete: "current-password" },
  ], "Set up", async (values) => {
    const { secret, uri } = await post("/auth/totp", values);
    fill(place, h("p", null, "Enter this secret in your authenticator app, or open the link on the device that has it."), h("p", null, h("code", null, secret)), h("p", null, h("a", { href: uri }, "Open in the authenticator")),
      form([{ name: "code", label: "Code that the app shows" }], "Confirm", async (code) => { await post("/auth/totp/confirm", code); toast("The second factor is on"); await show(); }));
  }));
  return place;
}
