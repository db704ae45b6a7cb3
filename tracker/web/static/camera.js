/**
 * What part of the world the map shows: a centre on the unit square and a zoom, where zoom z makes
 * the world 256 · 2^z CSS pixels wide. Pure.
 */

import { shortWay } from "./mercator.js";

const TILE_PX = 256;
const ZOOM_MAX = 19;

/** @typedef {{x: number, y: number, zoom: number}} View */
/**
 * On the unit square.
 * @typedef {{left: number, top: number, right: number, bottom: number}} Bounds
 */

export class Camera {
  x = 0.5;
  y = 0.42;
  zoom = 1;
  /** CSS pixels. */
  width = 1;
  height = 1;

  /** Pixels per unit of the square. */
  get scale() {
    return TILE_PX * 2 ** this.zoom;
  }

  /** @param {number} x @returns {number} CSS pixels from the left edge */
  screenX(x) {
    return this.width / 2 + shortWay(x - this.x) * this.scale;
  }

  /** @param {number} y @returns {number} CSS pixels from the top edge */
  screenY(y) {
    return this.height / 2 + (y - this.y) * this.scale;
  }

  /** @param {View} view taken over, clamped to the world */
  look({ x, y, zoom }) {
    this.zoom = Math.max(this.#zoomMin, Math.min(ZOOM_MAX, zoom));
    this.x = x - Math.floor(x);
    this.y = Math.max(0, Math.min(1, y));
  }

  /** @param {number} width @param {number} height CSS pixels; the centre stays */
  resize(width, height) {
    this.width = Math.max(1, width);
    this.height = Math.max(1, height);
    this.look(this);
  }

  /** @param {number} dx @param {number} dy pixels that the content moves by */
  pan(dx, dy) {
    this.look({ x: this.x - dx / this.scale, y: this.y - dy / this.scale, zoom: this.zoom });
  }

  /** @param {number} px @param {number} py the pixel that stays in place @param {number} levels */
  zoomAt(px, py, levels) {
    const [offsetX, offsetY] = [px - this.width / 2, py - this.height / 2];
    const before = this.scale;
    this.look({ x: this.x, y: this.y, zoom: this.zoom + levels });
    const shift = 1 / before - 1 / this.scale;
    this.look({ x: this.x + offsetX * shift, y: this.y + offsetY * shift, zoom: this.zoom });
  }

  /**
   * @param {Bounds} bounds
   * @param {{margin: number, zoomMax: number}} limits pixels kept free on each side, as far as a
   *   small map allows; closest zoom
   * @returns {View} the closest view that shows all of it
   */
  fitting(bounds, { margin, zoomMax }) {
    const free = (pixels) => pixels - 2 * Math.min(margin, pixels * 0.18);
    const across = Math.max(bounds.right - bounds.left, 1e-9);
    const down = Math.max(bounds.bottom - bounds.top, 1e-9);
    const scale = Math.min(free(this.width) / across, free(this.height) / down);
    return {
      x: (bounds.left + bounds.right) / 2,
      y: (bounds.top + bounds.bottom) / 2,
      zoom: Math.max(this.#zoomMin, Math.min(zoomMax, Math.log2(scale / TILE_PX))),
    };
  }

  /** @param {Bounds} bounds @returns {boolean} whether all of it is on screen */
  shows({ left, top, right, bottom }) {
    const inside = (x, y) => {
      const [px, py] = [this.screenX(x), this.screenY(y)];
      return px >= 0 && py >= 0 && px <= this.width && py <= this.height;
    };
    return inside(left, top) && inside(right, bottom);
  }

  /**
   * The smooth way to another view: out, over, in (van Wijk and Nuij, "Smooth and efficient
   * zooming and panning", 2003).
   * @param {View} target
   * @returns {{durationMs: number, at: (t: number) => View}} t from 0 to 1
   */
  flightTo(target) {
    const rho2 = 2;
    const rho = Math.SQRT2;
    const start = { x: this.x, y: this.y };
    const dx = shortWay(target.x - this.x);
    const dy = target.y - this.y;
    const w0 = this.width / this.scale;
    const w1 = this.width / (TILE_PX * 2 ** target.zoom);
    const zoomOf = (w) => Math.log2(this.width / (w * TILE_PX));
    const d = Math.hypot(dx, dy);
    let length;
    let at;
    if (d < w0 * 1e-6) {
      length = Math.log(w1 / w0) / rho;
      at = (t) => ({ ...target, zoom: zoomOf(w0 * Math.exp(rho * t * length)) });
    } else {
      const b = (w, sign) => (w1 * w1 - w0 * w0 + sign * rho2 * rho2 * d * d) / (2 * w * rho2 * d);
      const r = (value) => Math.log(Math.sqrt(value * value + 1) - value);
      const r0 = r(b(w0, 1));
      const r1 = r(b(w1, -1));
      length = (r1 - r0) / rho;
      at = (t) => {
        const angle = rho * t * length + r0;
        const u = (w0 / (rho2 * d)) * (Math.cosh(r0) * Math.tanh(angle) - Math.sinh(r0));
        const zoom = zoomOf((w0 * Math.cosh(r0)) / Math.cosh(angle));
        return { x: start.x + u * dx, y: start.y + u * dy, zoom };
      };
    }
    return { durationMs: Math.max(250, Math.min(1600, Math.abs(length) * 450)), at };
  }

  /** The world may not become smaller than the shorter side of the map. */
  get #zoomMin() {
    return Math.log2(Math.max(TILE_PX, Math.min(this.width, this.height)) / TILE_PX);
  }
}
