// @ts-check
/** Who is logged in, and what that role may do. The API decides; the pages only leave out what it would refuse. */

import { ApiError, get } from "./api.js";

const ROLES = ["guest", "viewer", "user", "operator", "admin", "owner"];

const KEPT = "perpflow.session";
/** @typedef {{name: string, role: string, anonymous?: boolean}} Session */
/** @type {Session} */
const NOBODY = { name: "", role: "guest" };
let current = NOBODY;

/** Ask who is logged in. While the console or its database is away, the last answer of this tab holds: the menu stays. */
export async function load() {
  try {
    current = await get("/auth/me");
    keep();
  } catch (error) {
    if (error instanceof ApiError && error.status < 500) {
      current = NOBODY;
      keep();
    } else current = kept();
  }
  return current;
}

function keep() {
  const { name, role, anonymous } = current;
  try { sessionStorage.setItem(KEPT, JSON.stringify({ name, role, anonymous })); } catch { /* storage may be off */ }
}

/** @returns {Session} */
function kept() {
  try { return JSON.parse(sessionStorage.getItem(KEPT) ?? "") ?? NOBODY; } catch { return NOBODY; }
}

export const session = () => current;

/** @param {string} role */
export const may = (role) => ROLES.indexOf(current.role) >= ROLES.indexOf(role);
