// @ts-check
/** Loads TradingView's lightweight-charts once. It is a classic script that sets one global. */

/** @type {Promise<any> | null} */
let loading = null;

export function library() {
  loading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "/vendor/lightweight-charts.js";
    script.onload = () => resolve(/** @type {any} */ (window).LightweightCharts);
    script.onerror = () => reject(new Error("lightweight-charts could not be loaded"));
    document.head.append(script);
  });
  return loading;
}

/** A colour of the theme. @param {string} name */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** A colour with an opacity. @param {string} name @param {number} opacity 0 to 1 */
export const faded = (name, opacity) => `${colour(name)}${Math.round(opacity * 255).toString(16).padStart(2, "0")}`;

/** Options of a chart in the present theme. */
export function look() {
  return {
    layout: { background: { color: colour("surface") }, textColor: colour("muted"), panes: { separatorColor: colour("border") }, attributionLogo: false },
    grid: { vertLines: { color: colour("border") }, horzLines: { color: colour("border") } },
    rightPriceScale: { borderColor: colour("border") },
    timeScale: { borderColor: colour("border"), timeVisible: true, secondsVisible: false },
  };
}
