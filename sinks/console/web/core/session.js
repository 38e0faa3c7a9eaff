// @ts-check
/** Who is logged in, and what that role may do. The API decides; the pages only leave out what it would refuse. */

import { get } from "./api.js";

const ROLES = ["guest", "viewer", "user", "operator", "admin", "owner"];

/** @type {{name: string, role: string, anonymous?: boolean}} */
let current = { name: "", role: "guest" };

export async function load() {
  try {
    current = await get("/auth/me");
  } catch {
    current = { name: "", role: "guest" };
  }
  return current;
}

export const session = () => current;

/** @param {string} role */
export const may = (role) => ROLES.indexOf(current.role) >= ROLES.indexOf(role);
