// @ts-check
/** Numbers and times as a desk reads them: with units, aligned, a missing value as a dash. */

const MISSING = "–";

/** @param {number | null | undefined} value @param {number} [digits] decimals */
export function number(value, digits = 2) {
  return value === null || value === undefined ? MISSING : value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A price with the digits that its size needs. @param {number | null | undefined} value */
export function price(value) {
  if (value === null || value === undefined) return MISSING;
  const size = Math.abs(value);
  return number(value, size >= 1000 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 4 : 6);
}

/** A signed number with its unit. @param {number | null | undefined} value @param {string} unit @param {number} [digits] */
export function signed(value, unit, digits = 2) {
  return value === null || value === undefined ? MISSING : `${value > 0 ? "+" : value < 0 ? "−" : ""}${number(Math.abs(value), digits)} ${unit}`;
}

/** A large number, shortened: 12.3 M. @param {number | null | undefined} value */
export function short(value) {
  return value === null || value === undefined ? MISSING : value.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 2 });
}

/** @param {number | null | undefined} share 0 to 1 @param {number} [digits] */
export function percent(share, digits = 1) {
  return share === null || share === undefined ? MISSING : `${number(share * 100, digits)} %`;
}

/** A time in UTC. @param {number | null | undefined} ms */
export function time(ms) {
  return ms === null || ms === undefined ? MISSING : `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

/** How long ago. @param {number | null | undefined} ms @param {number} [now] */
export function ago(ms, now = Date.now()) {
  if (ms === null || ms === undefined) return MISSING;
  const seconds = Math.max(0, Math.round((now - ms) / 1000));
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 86400 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86400)} d ago`;
}

/** The class of a signed value. @param {number | null | undefined} value */
export function side(value) {
  return !value ? "" : value > 0 ? "up" : "down";
}
