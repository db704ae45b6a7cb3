/** Vehicles on the canvas: an arrow, or a dot without a heading, and a fading trail. */

import { label } from "./graticule.js";
import { shortWay } from "./mercator.js";

/** How long a symbol takes to glide to a new position. */
export const GLIDE_MS = 900;
/** Below this speed a vehicle stands; what stands is drawn smaller. */
const STANDING_SPEED = 0.3;
const SILENT_OPACITY = 0.45;
/** Opacities of a trail from its oldest part to its newest. */
const TRAIL_FADE = [0.06, 0.14, 0.26, 0.42, 0.62];
/** A trail that reaches no further than this lies under its symbol. */
const TRAIL_HIDDEN_PX = 3;
const LABELS_MAX = 40;
const LABEL_CHARS = 24;

/** @typedef {import("./camera.js").Camera} Camera */
/** @typedef {import("./fleet.js").Vehicle} Vehicle */

/**
 * A vehicle where it is drawn in this frame.
 * @typedef {{vehicle: Vehicle, px: number, py: number, moving: boolean}} Placed
 */

/**
 * @param {Iterable<Vehicle>} vehicles @param {Camera} camera
 * @param {number} nowMs @param {number} glideMs 0: no gliding
 * @returns {{placed: Placed[], gliding: boolean}} those on screen, or near it
 */
export function place(vehicles, camera, nowMs, glideMs) {
  const placed = [];
  let gliding = false;
  const margin = 200;
  for (const vehicle of vehicles) {
    if (!vehicle.located) continue;
    let { x, y } = vehicle;
    const t = (nowMs - vehicle.movedMs) / glideMs;
    if (t < 1) {
      const rest = (1 - t) ** 3;
      x -= shortWay(x - vehicle.fromX) * rest;
      y -= (y - vehicle.fromY) * rest;
    }
    const px = camera.screenX(x);
    const py = camera.screenY(y);
    if (px < -margin || py < -margin) continue;
    if (px > camera.width + margin || py > camera.height + margin) continue;
    gliding ||= t < 1;
    const moving = vehicle.speed === null || vehicle.speed >= STANDING_SPEED;
    placed.push({ vehicle, px, py, moving });
  }
  return { placed, gliding };
}

/** @param {CanvasRenderingContext2D} context @param {Placed[]} placed @param {Camera} camera */
export function drawTrails(context, placed, camera, colours) {
  context.lineCap = "butt";
  context.lineJoin = "round";
  const long = placed.filter((one) => reaches(one, camera));
  for (const followed of [false, true]) {
    const these = long.filter(({ vehicle }) => vehicle.followed === followed);
    context.strokeStyle = followed ? colours.follow : colours.vehicle;
    context.lineWidth = followed ? 2.5 : 1.5;
    TRAIL_FADE.forEach((opacity, band) => {
      context.globalAlpha = opacity;
      // A path for each: strokes that share one path are far slower to fill.
      for (const one of these) strokeTrail(context, one, camera, band);
    });
  }
  context.globalAlpha = 1;
}

/** Whether a trail would show from under its symbol: three points of it tell. */
function reaches({ vehicle, px, py }, camera) {
  const { trail } = vehicle;
  for (let third = 0; third < 3; third++) {
    const i = Math.floor(((trail.length - 1) * third) / 3);
    if (i < 0) return false;
    const gapX = Math.abs(camera.screenX(trail.x(i)) - px);
    const gapY = Math.abs(camera.screenY(trail.y(i)) - py);
    if (gapX > TRAIL_HIDDEN_PX || gapY > TRAIL_HIDDEN_PX) return true;
  }
  return false;
}

/** The part of a trail that has one opacity. Its last point is where the symbol is drawn. */
function strokeTrail(context, { vehicle, px, py }, camera, band) {
  const { trail } = vehicle;
  const segments = trail.length - 1;
  const bands = TRAIL_FADE.length;
  const from = Math.floor((segments * band) / bands);
  const to = Math.floor((segments * (band + 1)) / bands);
  if (to <= from) return;
  context.beginPath();
  context.moveTo(camera.screenX(trail.x(from)), camera.screenY(trail.y(from)));
  for (let i = from + 1; i <= to; i++) {
    if (i === segments) context.lineTo(px, py);
    else context.lineTo(camera.screenX(trail.x(i)), camera.screenY(trail.y(i)));
  }
  context.stroke();
}

/**
 * @param {CanvasRenderingContext2D} context @param {Placed[]} placed
 * @param {object} scene
 * @param {number} scene.zoom
 * @param {number} scene.nowMs
 * @param {Vehicle|null} scene.hot the one that the list points at
 * @param {import("./sprites.js").Sprites} scene.sprites
 * @param {Record<string, string>} colours
 */
export function drawVehicles(context, placed, { zoom, nowMs, hot, sprites }, colours) {
  const radius = Math.max(3.6, Math.min(8, 3.6 + (zoom - 9) * 0.7));
  for (const followed of [false, true]) {
    const fill = followed ? colours.follow : colours.vehicle;
    for (const { vehicle, px, py, moving } of placed) {
      if (vehicle.followed !== followed) continue;
      context.globalAlpha = vehicle.isSilent(nowMs) ? SILENT_OPACITY : 1;
      const radiusPx = radius * (followed ? 1.25 : 1) * (moving ? 1 : 0.72);
      const look = { radiusPx, heading: vehicle.heading, fill, halo: colours.chart };
      sprites.stamp(context, px, py, look);
    }
  }
  context.globalAlpha = 1;
  drawRingsAndLabels(context, placed, radius, hot, colours);
}

function drawRingsAndLabels(context, placed, radius, hot, colours) {
  const marked = placed.filter(({ vehicle }) => vehicle.followed || vehicle === hot);
  context.lineWidth = 1.75;
  for (const { vehicle, px, py } of marked) {
    context.beginPath();
    context.arc(px, py, radius * 2 + 3, 0, 2 * Math.PI);
    context.strokeStyle = vehicle.followed ? colours.follow : colours.ink;
    context.stroke();
  }
  context.font = colours.fontStrong;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { vehicle, px, py } of marked.slice(0, LABELS_MAX)) {
    if (!vehicle.followed) continue;
    const name = [...vehicle.id].slice(0, LABEL_CHARS).join("");
    label(context, name, px + radius * 2 + 9, py, { ...colours, label: colours.follow });
  }
}
