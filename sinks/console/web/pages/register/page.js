// @ts-check
/** Register with an invitation. */

import { post } from "../../core/api.js";
import { fill, h } from "../../core/dom.js";
import { form } from "../../core/form.js";

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "register",
  title: "Register",
  show({ root, query }) {
    fill(root, h("div.card", { style: { maxWidth: "420px", margin: "8vh auto 0", display: "grid", gap: "12px" } }, h("h1", null, "Register"), form([
      { name: "invitation", label: "Invitation code", value: query.get("code") ?? "" },
      { name: "name", label: "Name", autocomplete: "username" },
      { name: "password", label: "Password", type: "password", autocomplete: "new-password" },
    ], "Register", async (values) => {
      await post("/auth/register", { ...values, cookie: true });
      history.replaceState(null, "", "/");
      dispatchEvent(new CustomEvent("perpflow:signed-in"));
    }), h("a", { href: "/login", "data-link": true }, "I have a login")));
  },
};
