// @ts-check
/** A canvas that is sharp on every screen. */

/**
 * Give a canvas the pixels of its present size, which clears it. Null: it has no size, because it is not shown.
 * @param {HTMLCanvasElement} canvas
 * @returns {{pen: CanvasRenderingContext2D, width: number, height: number} | null} width and height in CSS pixels, in which the pen draws
 */
export function cleared(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  if (!width) return null;
  canvas.width = width * devicePixelRatio;
  canvas.height = height * devicePixelRatio;
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.scale(devicePixelRatio, devicePixelRatio);
  return { pen, width, height };
}
