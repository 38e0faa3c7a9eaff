// @ts-check
/** Every page, in the order of the menu. A new page is a folder here and a line below. */

import { page as account } from "./account/page.js";
import { page as admin } from "./admin/page.js";
import { page as costs } from "./costs/page.js";
import { page as desk } from "./desk/page.js";
import { page as login } from "./login/page.js";
import { page as market } from "./market/page.js";
import { page as plaza } from "./plaza/page.js";
import { page as register } from "./register/page.js";
import { page as signals } from "./signals/page.js";
import { page as system } from "./system/page.js";
import { page as timeline } from "./timeline/page.js";

/** @type {(import("../core/router.js").Page & {menu?: boolean})[]} */
export const pages = [market, signals, plaza, desk, costs, timeline, system, admin, { ...account, menu: false }, { ...register, menu: false }, { ...login, menu: false }];
