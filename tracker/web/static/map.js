/**
 * The map: a canvas that draws the fleet when something changed, and moves by pointer, wheel, touch
 * and keyboard. It keeps the largest group of vehicles in view until somebody moves it.
 */

import { Camera } from "./camera.js";
import { boundsOf, clustersOf } from "./clusters.js";
import { setText } from "./dom.js";
import { Gestures, REACH_PX } from "./gestures.js";
import { drawFrame, drawGrid } from "./graticule.js";
import { latOf, lonOf } from "./mercator.js";
import { Sprites } from "./sprites.js";
import { drawTrails, drawVehicles, GLIDE_MS, place } from "./symbols.js";
import { age, counted, heading, place as placeName, speed } from "./text.js";

const FIT = { margin: 64, zoomMax: 14 };
const CLOSE_ZOOM = 13;
const PLACES_MAX = 4;
/** Silent vehicles fade, ages count up, groups change: all without a message. */
const TICK_MS = 1_000;

/** @typedef {import("./fleet.js").Vehicle} Vehicle */

export class VehicleMap {
  #section;
  #canvas;
  #context;
  #fleet;
  #onPick;
  #camera = new Camera();
  #colours = {};
  #sprites = new Sprites();
  /** The animation frame asked for, 0 when none is. */
  #frame = 0;
  /** @type {import("./symbols.js").Placed[]} */
  #placed = [];
  #flight = null;
  /** Nobody moved the map yet: it keeps the largest group in view. */
  #automatic = true;
  #fitted = false;
  /** @type {import("./clusters.js").Cluster[]} */
  #clusters = [];
  /** @type {Vehicle|null} marked by the list */
  #hot = null;
  /** @type {{x: number, y: number}|null} */
  #hover = null;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  /**
   * @param {HTMLElement} section holds the canvas, the buttons, the tip
   * @param {{fleet: import("./fleet.js").Fleet, onPick: (id: string) => void}} options
   */
  constructor(section, { fleet, onPick }) {
    this.#section = section;
    this.#fleet = fleet;
    this.#onPick = onPick;
    this.#canvas = /** @type {HTMLCanvasElement} */ (section.querySelector("#canvas"));
    this.#context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    this.#readColours();
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", () => this.#readColours());
    new ResizeObserver(() => this.#resize()).observe(section);
    this.#resize();
    this.#watchRatio();
    new Gestures(this.#canvas, {
      onHold: () => (this.#flight = null),
      onPan: (dx, dy) => this.#take(() => this.#camera.pan(dx, dy)),
      onZoom: (levels, px, py) => this.#take(() => this.#camera.zoomAt(px, py, levels)),
      onStep: (levels, px, py) => this.#zoomBy(levels, px, py),
      onTap: (px, py, reachPx) => this.#pick(px, py, reachPx),
      onDoubleTap: (px, py) => this.#nearest(px, py, REACH_PX.mouse) ?? this.#zoomBy(1, px, py),
      onHover: (at) => this.#point(at),
      onFit: () => this.fitAll(),
    });
    this.#button("#zoom-in", () => this.#zoomBy(1));
    this.#button("#zoom-out", () => this.#zoomBy(-1));
    this.#button("#fit", () => this.fitAll());
    setInterval(() => document.hidden || this.regroup(), TICK_MS);
  }

  /** Something that the map shows has changed: draw with the next frame. */
  refresh() {
    this.#frame ||= requestAnimationFrame((nowMs) => this.#draw(nowMs));
  }

  /** Vehicles came or went: find the groups anew; show the largest, if nobody moved the map. */
  regroup() {
    this.#clusters = clustersOf(this.#fleet.vehicles.values());
    this.#showPlaces();
    const [largest] = this.#clusters;
    const fits = this.#fitted && largest && this.#camera.shows(largest.bounds);
    if (largest && !fits && this.#automatic && !this.#flight) {
      this.#flyTo(this.#camera.fitting(largest.bounds, FIT), { gently: this.#fitted });
      this.#fitted = true;
    }
    this.refresh();
  }

  fitAll() {
    this.#clusters = clustersOf(this.#fleet.vehicles.values());
    this.#fit(boundsOf(this.#clusters));
  }

  /** @param {string} id fly there, if its position is known */
  goTo(id) {
    const vehicle = this.#fleet.vehicles.get(id);
    if (!vehicle?.located) return;
    this.#automatic = false;
    const zoom = Math.max(this.#camera.zoom, CLOSE_ZOOM);
    this.#flyTo({ x: vehicle.x, y: vehicle.y, zoom }, { gently: true });
  }

  /** @param {string|null} id the vehicle that the list points at */
  mark(id) {
    this.#hot = (id !== null && this.#fleet.vehicles.get(id)) || null;
    this.refresh();
  }

  #draw(nowMs) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (this.#flight) this.#fly(nowMs);
    const context = this.#context;
    const camera = this.#camera;
    const colours = this.#colours;
    const ratio = this.#canvas.width / camera.width;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colours.chart;
    context.fillRect(0, 0, camera.width, camera.height);
    drawGrid(context, camera, colours);
    const glideMs = this.#calm.matches ? 0 : GLIDE_MS;
    const vehicles = this.#fleet.vehicles.values();
    const { placed, gliding } = place(vehicles, camera, performance.now(), glideMs);
    this.#placed = placed;
    drawTrails(context, placed, camera, colours);
    const sprites = this.#sprites;
    sprites.useRatio(ratio);
    const scene = { zoom: camera.zoom, nowMs: performance.now(), hot: this.#hot, sprites };
    drawVehicles(context, placed, scene, colours);
    drawFrame(context, camera, colours);
    this.#showTip();
    if (gliding || this.#flight) this.refresh();
  }

  #resize() {
    const { width, height } = this.#section.getBoundingClientRect();
    const ratio = devicePixelRatio || 1;
    this.#canvas.width = Math.max(1, Math.round(width * ratio));
    this.#canvas.height = Math.max(1, Math.round(height * ratio));
    this.#camera.resize(width, height);
    // A canvas is blank after it got a new size: wait for no frame.
    this.#draw(performance.now());
  }

  /** The window came to a screen of another resolution, or the browser's zoom changed. */
  #watchRatio() {
    const ratio = matchMedia(`(resolution: ${devicePixelRatio}dppx)`);
    const changed = () => {
      this.#resize();
      this.#watchRatio();
    };
    ratio.addEventListener("change", changed, { once: true });
  }

  #readColours() {
    const style = getComputedStyle(document.documentElement);
    const family = getComputedStyle(document.body).fontFamily;
    const value = (name) => style.getPropertyValue(name).trim();
    this.#colours = {
      chart: value("--chart"),
      grid: value("--grid"),
      ladder: value("--ladder"),
      label: value("--chart-label"),
      ink: value("--ink"),
      vehicle: value("--vehicle"),
      follow: value("--follow"),
      font: `11px ${family}`,
      fontStrong: `600 12px ${family}`,
    };
    this.#sprites.clear();
    this.refresh();
  }

  #showTip() {
    const tip = /** @type {HTMLElement} */ (this.#section.querySelector("#tip"));
    const vehicle = this.#hover && this.#nearest(this.#hover.x, this.#hover.y, REACH_PX.mouse);
    this.#canvas.classList.toggle("over-vehicle", Boolean(vehicle));
    tip.hidden = !vehicle;
    if (!vehicle || !this.#hover) return;
    const ageS = (performance.now() - vehicle.seenMs) / 1000;
    const parts = [
      vehicle.speed === null ? "" : `speed ${speed(vehicle.speed)}`,
      vehicle.heading === null ? "" : heading(vehicle.heading),
      Number.isNaN(ageS) ? "" : `${age(ageS)} ago`,
    ];
    setText(tip.querySelector("#tip-id"), vehicle.id);
    setText(tip.querySelector("#tip-detail"), parts.filter(Boolean).join(" · "));
    const left = Math.min(this.#hover.x + 14, this.#camera.width - tip.offsetWidth - 8);
    const below = this.#hover.y + 16;
    const fits = below + tip.offsetHeight < this.#camera.height - 8;
    const top = fits ? below : this.#hover.y - tip.offsetHeight - 10;
    tip.style.transform = `translate(${Math.round(Math.max(8, left))}px, ${Math.round(top)}px)`;
  }

  #showPlaces() {
    const box = /** @type {HTMLElement} */ (this.#section.querySelector("#places"));
    const shown = this.#clusters.length > 1 ? this.#clusters.slice(0, PLACES_MAX) : [];
    box.hidden = shown.length === 0;
    while (box.children.length > shown.length) box.lastElementChild?.remove();
    while (box.children.length < shown.length) {
      const button = document.createElement("button");
      const index = box.children.length;
      button.type = "button";
      button.append(document.createElement("strong"), document.createElement("span"));
      button.addEventListener("click", () => this.#fit(this.#clusters[index]?.bounds ?? null));
      box.append(button);
    }
    shown.forEach(({ size, bounds }, index) => {
      const button = box.children[index];
      const lat = latOf((bounds.top + bounds.bottom) / 2);
      const lon = lonOf((bounds.left + bounds.right) / 2);
      setText(button.children[0], counted(size, "vehicle"));
      setText(button.children[1], placeName(lat, lon));
    });
  }

  #fit(bounds) {
    if (!bounds) return;
    this.#automatic = false;
    this.#flyTo(this.#camera.fitting(bounds, FIT), { gently: true });
  }

  /** @param {import("./camera.js").View} view @param {{gently: boolean}} how */
  #flyTo(view, { gently }) {
    if (!gently || this.#calm.matches) {
      this.#camera.look(view);
    } else {
      this.#flight = { ...this.#camera.flightTo(view), target: view, startMs: performance.now() };
    }
    this.refresh();
  }

  #fly(nowMs) {
    const { at, durationMs, startMs, target } = this.#flight;
    const t = Math.max(0, Math.min(1, (nowMs - startMs) / durationMs));
    const eased = t < 0.5 ? 2 * t * t : 1 - 2 * (1 - t) ** 2;
    this.#camera.look(t < 1 ? at(eased) : target);
    if (t >= 1) this.#flight = null;
  }

  /** The user takes over. @param {() => void} move */
  #take(move) {
    this.#automatic = false;
    this.#flight = null;
    move();
    this.refresh();
  }

  #pick(px, py, reachPx) {
    const vehicle = this.#nearest(px, py, reachPx);
    if (vehicle) this.#onPick(vehicle.id);
  }

  #point(at) {
    this.#hover = at;
    this.refresh();
  }

  #zoomBy(levels, px = this.#camera.width / 2, py = this.#camera.height / 2) {
    const goal = new Camera();
    goal.resize(this.#camera.width, this.#camera.height);
    goal.look(this.#flight?.target ?? this.#camera);
    goal.zoomAt(px, py, levels);
    this.#automatic = false;
    this.#flyTo({ x: goal.x, y: goal.y, zoom: goal.zoom }, { gently: true });
  }

  #button(selector, onClick) {
    this.#section.querySelector(selector)?.addEventListener("click", onClick);
  }

  #nearest(px, py, withinPx) {
    let best = null;
    let bestPx = withinPx;
    for (const { vehicle, px: x, py: y } of this.#placed) {
      const gap = Math.hypot(x - px, y - py);
      if (gap < bestPx) [best, bestPx] = [vehicle, gap];
    }
    return best;
  }
}
