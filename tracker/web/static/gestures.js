/**
 * What fingers, mouse, wheel and keys on the map mean. One pointer drags, two also pinch; a press
 * that did not move is a tap.
 */

const TAP_SLOP_PX = 5;
const KEY_PAN_PX = 90;

/** How near a tap must be to a vehicle: a finger is blunter than a mouse. */
export const REACH_PX = { mouse: 14, pen: 18, touch: 26 };

/**
 * @typedef {object} Moves
 * @property {() => void} onHold a pointer went down: stand still
 * @property {(dx: number, dy: number) => void} onPan pixels that the content moves by
 * @property {(levels: number, px: number, py: number) => void} onZoom around a pixel, at once
 * @property {(levels: number, px?: number, py?: number) => void} onStep one level, smoothly
 * @property {(px: number, py: number, reachPx: number) => void} onTap
 * @property {(px: number, py: number) => void} onDoubleTap
 * @property {(at: {x: number, y: number}|null) => void} onHover
 * @property {() => void} onFit
 */

export class Gestures {
  #canvas;
  #moves;
  /** @type {Map<number, {x: number, y: number}>} */
  #pointers = new Map();
  /** @type {{x: number, y: number}|null} where a press began that may still become a tap */
  #press = null;

  /** @param {HTMLCanvasElement} canvas @param {Moves} moves */
  constructor(canvas, moves) {
    this.#canvas = canvas;
    this.#moves = moves;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#up(event));
    canvas.addEventListener("pointerleave", () => moves.onHover(null));
    canvas.addEventListener("dblclick", (event) => moves.onDoubleTap(event.offsetX, event.offsetY));
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #down(event) {
    if (event.button !== 0) return;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, pointOf(event));
    this.#press = this.#pointers.size === 1 ? pointOf(event) : null;
    this.#moves.onHold();
  }

  #move(event) {
    const to = pointOf(event);
    if (event.pointerType === "mouse") this.#moves.onHover(to);
    const from = this.#pointers.get(event.pointerId);
    if (!from) return;
    if (this.#press) {
      if (Math.hypot(to.x - this.#press.x, to.y - this.#press.y) < TAP_SLOP_PX) return;
      this.#press = null;
      this.#canvas.classList.add("dragging");
    }
    this.#pointers.set(event.pointerId, to);
    const other = [...this.#pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) this.#pinch(from, to, other);
    else this.#moves.onPan(to.x - from.x, to.y - from.y);
  }

  #pinch(from, to, other) {
    const spread = (point) => Math.max(1, Math.hypot(point.x - other.x, point.y - other.y));
    this.#moves.onPan((to.x - from.x) / 2, (to.y - from.y) / 2);
    const levels = Math.log2(spread(to) / spread(from));
    this.#moves.onZoom(levels, (to.x + other.x) / 2, (to.y + other.y) / 2);
  }

  #up(event) {
    if (!this.#pointers.delete(event.pointerId)) return;
    this.#canvas.classList.remove("dragging");
    const tapped = event.type === "pointerup" && this.#press;
    this.#press = null;
    if (!tapped) return;
    const reachPx = REACH_PX[event.pointerType] ?? REACH_PX.mouse;
    this.#moves.onTap(event.offsetX, event.offsetY, reachPx);
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    // A pinch on a touchpad arrives as a wheel with ctrl, in much smaller steps.
    const levels = -event.deltaY * lines * (event.ctrlKey ? 0.012 : 0.0025);
    this.#moves.onZoom(Math.max(-1, Math.min(1, levels)), event.offsetX, event.offsetY);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { onPan, onStep, onFit } = this.#moves;
    const actions = {
      ArrowLeft: () => onPan(KEY_PAN_PX, 0),
      ArrowRight: () => onPan(-KEY_PAN_PX, 0),
      ArrowUp: () => onPan(0, KEY_PAN_PX),
      ArrowDown: () => onPan(0, -KEY_PAN_PX),
      "+": () => onStep(1),
      "=": () => onStep(1),
      "-": () => onStep(-1),
      0: onFit,
      Home: onFit,
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }
}

/** @param {PointerEvent} event @returns {{x: number, y: number}} pixels on the canvas */
function pointOf(event) {
  return { x: event.offsetX, y: event.offsetY };
}
