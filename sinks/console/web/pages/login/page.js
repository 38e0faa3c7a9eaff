// @ts-check
import { ApiError, post } from "../../core/api.js";
import { fill, h } from "../../core/dom.js";

/** @type {import("../../core/router.js").Page} */
export const page = {
  path: "login",
  title: "Log in",
  show({ root, query }) {
    const said = h("p.field-error", { role: "alert" });
    const code = h("input", { name: "totp", inputmode: "numeric", autocomplete: "one-time-code", maxlength: 6 });
    const form = /** @type {HTMLFormElement} */ (h("form.card", { style: { maxWidth: "380px", margin: "8vh auto 0", display: "grid", gap: "12px" } },
      h("h1", null, "Log in"),
      h("label", null, h("span", null, "Name"), h("input", { name: "name", autocomplete: "username", required: true, maxlength: 64 })),
      h("label", null, h("span", null, "Password"), h("input", { name: "password", type: "password", autocomplete: "current-password", required: true, maxlength: 256 })),
      h("label", null, h("span", null, "Code of your authenticator, if you use one"), code),
      said, h("button.primary", { type: "submit" }, "Log in"), h("a", { href: "/register", "data-link": true }, "I have an invitation")));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      fill(said);
      const values = Object.fromEntries(new FormData(form));
      try {
        await post("/auth/login", { cookie: true, name: values.name, password: values.password, ...(values.totp ? { totp: values.totp } : {}) });
      } catch (error) {
        return fill(said, error instanceof ApiError ? error.message : "The console does not answer.");
      }
      const then = query.get("then") ?? "/";
      history.replaceState(null, "", then.startsWith("/") && !then.startsWith("//") ? then : "/");
      dispatchEvent(new CustomEvent("perpflow:signed-in"));
    });
    fill(root, form);
    form.querySelector("input")?.focus();
  },
};
