/**
 * Small pictures of a vehicle, drawn once and stamped many times: filling a thousand paths anew for
 * each frame is what a browser without a GPU cannot keep up with.
 */

/** Headings are drawn in steps of this many degrees, finer than an eye sees at this size. */
const HEADING_STEP = 6;
const HALO_PX = 1.4;
/** Drawn larger than shown, since a stamp rarely falls on whole pixels. */
const OVERSAMPLING = 2;
const SPRITES_MAX = 1_000;

export class Sprites {
  /** @type {Map<string, {canvas: HTMLCanvasElement, sizePx: number}>} */
  #drawn = new Map();
  #ratio = 1;

  /** Colours changed. */
  clear() {
    this.#drawn.clear();
  }

  /** @param {number} ratio device pixels to a CSS pixel */
  useRatio(ratio) {
    if (ratio === this.#ratio) return;
    this.#ratio = ratio;
    this.clear();
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {number} px @param {number} py where its middle stands
   * @param {{radiusPx: number, heading: number|null, fill: string, halo: string}} look
   *   an arrow clockwise from north, or a dot
   */
  stamp(context, px, py, { radiusPx, heading, fill, halo }) {
    const radius = Math.round(radiusPx * 2) / 2;
    const turn = heading === null ? -1 : Math.round(heading / HEADING_STEP) * HEADING_STEP;
    const key = `${radius} ${turn} ${fill}`;
    let sprite = this.#drawn.get(key);
    if (!sprite) {
      if (this.#drawn.size >= SPRITES_MAX) this.#drawn.clear();
      this.#drawn.set(key, (sprite = this.#draw(radius, turn, fill, halo)));
    }
    const { canvas, sizePx } = sprite;
    context.drawImage(canvas, px - sizePx / 2, py - sizePx / 2, sizePx, sizePx);
  }

  #draw(radius, turn, fill, halo) {
    const sizePx = Math.ceil(2 * (radius * 1.5 + HALO_PX + 1));
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = Math.ceil(sizePx * this.#ratio * OVERSAMPLING);
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    const scale = canvas.width / sizePx;
    context.setTransform(scale, 0, 0, scale, canvas.width / 2, canvas.height / 2);
    context.beginPath();
    if (turn < 0) {
      context.arc(0, 0, radius * 0.8, 0, 2 * Math.PI);
    } else {
      context.rotate((turn * Math.PI) / 180);
      const size = radius * 1.35;
      context.moveTo(0, -size);
      context.lineTo(size * 0.72, size * 0.85);
      context.lineTo(0, size * 0.42);
      context.lineTo(-size * 0.72, size * 0.85);
      context.closePath();
    }
    context.lineJoin = "round";
    context.lineWidth = HALO_PX;
    context.strokeStyle = halo;
    context.stroke();
    context.fillStyle = fill;
    context.fill();
    return { canvas, sizePx };
  }
}
