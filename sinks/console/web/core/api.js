// @ts-check
/** Calls of the API. An error is an `ApiError` with the problem's text, status and fields. Expired access is renewed once, by one call for all. */

export class ApiError extends Error {
  /** @param {number} status @param {any} problem */
  constructor(status, problem) {
    super(problem?.detail ?? `the console answered ${status}`);
    this.status = status;
    /** @type {Record<string, string>} */
    this.fields = Object.fromEntries((problem?.errors ?? []).map((/** @type {{field: string, reason: string}} */ one) => [one.field, one.reason]));
    this.problem = problem;
  }
}

/** @type {Promise<boolean> | null} */
let renewal = null;

/** Renew the session. Calls that fail together share one renewal. */
function renewed() {
  renewal ??= fetch("/api/v1/auth/refresh", { method: "POST", credentials: "same-origin" })
    // 409: another tab of this browser has just renewed; its cookies are ours too.
    .then((response) => response.ok || response.status === 409, () => false)
    .finally(() => { renewal = null; });
  return renewal;
}

/**
 * @param {string} method
 * @param {string} path below /api/v1
 * @param {any} [body]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
async function call(method, path, body, signal, again = true) {
  const response = await fetch(`/api/v1${path}`, {
    method, signal, credentials: "same-origin",
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (response.status === 401 && again && path !== "/auth/login" && await renewed()) return call(method, path, body, signal, false);
  const answer = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) {
    if (response.status === 401) dispatchEvent(new CustomEvent("perpflow:signed-out"));
    throw new ApiError(response.status, answer);
  }
  return answer;
}

/**
 * @param {string} path
 * @param {Record<string, any>} [query] missing values are left out
 * @param {AbortSignal} [signal]
 */
export function get(path, query = {}, signal = undefined) {
  const parameters = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return call("GET", parameters.size ? `${path}?${parameters}` : path, undefined, signal);
}

/** @param {string} path @param {any} [body] */
export const post = (path, body = {}) => call("POST", path, body);
/** @param {string} path @param {any} body */
export const patch = (path, body) => call("PATCH", path, body);
/** @param {string} path @param {any} body */
export const put = (path, body) => call("PUT", path, body);
/** @param {string} path */
export const remove = (path) => call("DELETE", path);
