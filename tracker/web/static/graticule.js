/** The map's grid of degrees, its ladder along the edges, and its scale bar, as on a chart. */

import { LAT_LIMIT, lonOf, latOf, metresPerUnit, xOf, yOf } from "./mercator.js";
import { angle, distance } from "./text.js";

/** Steps that divide a degree, a minute and a circle evenly, coarse to fine, in degrees. */
const STEPS = [
  ...[45, 30, 20, 10, 5, 2, 1],
  ...[30, 20, 10, 5, 2, 1].map((minutes) => minutes / 60),
  ...[30, 20, 10, 5, 2, 1].map((seconds) => seconds / 3600),
];
const LINE_SPACING_MIN_PX = 95;
const LADDER_PX = 5;
const SCALE_MAX_PX = 130;

/** @typedef {import("./camera.js").Camera} Camera */
/** @typedef {Record<string, string>} Colours */

/** @param {CanvasRenderingContext2D} context @param {Camera} camera @param {Colours} colours */
export function drawGrid(context, camera, colours) {
  const { meridians, parallels } = linesOf(camera);
  context.beginPath();
  for (const { at } of meridians) {
    context.moveTo(crisp(at), 0);
    context.lineTo(crisp(at), camera.height);
  }
  for (const { at } of parallels) {
    context.moveTo(0, crisp(at));
    context.lineTo(camera.width, crisp(at));
  }
  context.strokeStyle = colours.grid;
  context.lineWidth = 1;
  context.stroke();
}

/**
 * Labels, ladder and scale: drawn last, above the vehicles.
 * @param {CanvasRenderingContext2D} context @param {Camera} camera @param {Colours} colours
 */
export function drawFrame(context, camera, colours) {
  const { meridians, parallels, step } = linesOf(camera);
  const { width, height } = camera;

  ladder(context, meridians, width, colours, (from, length) => {
    context.rect(from, 0, length, LADDER_PX);
    context.rect(from, height - LADDER_PX, length, LADDER_PX);
  });
  ladder(context, parallels, height, colours, (from, length) => {
    context.rect(0, from, LADDER_PX, length);
    context.rect(width - LADDER_PX, from, LADDER_PX, length);
  });
  const inset = LADDER_PX + 0.5;
  context.strokeStyle = colours.ladder;
  context.lineWidth = 1;
  context.strokeRect(inset, inset, width - 2 * inset, height - 2 * inset);

  context.font = colours.font;
  context.textBaseline = "alphabetic";
  context.textAlign = "center";
  for (const { at, degrees } of meridians) {
    if (at < 90 || at > width - 190) continue;
    label(context, angle(degrees, "EW", step), at, height - LADDER_PX - 7, colours);
  }
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const { at, degrees } of parallels) {
    if (at < 64 || at > height - 36) continue;
    label(context, angle(degrees, "NS", step), LADDER_PX + 7, at, colours);
  }
  scaleBar(context, camera, colours);
}

/** Text that stays readable over lines and vehicles. */
export function label(context, text, x, y, colours) {
  context.lineWidth = 4;
  context.lineJoin = "round";
  context.strokeStyle = colours.chart;
  context.strokeText(text, x, y);
  context.fillStyle = colours.label;
  context.fillText(text, x, y);
}

/** @returns the visible lines, each with its pixel, its degrees and its number from 0° */
function linesOf(camera) {
  const pxPerDegree = camera.scale / 360;
  const wideEnough = (degrees) => degrees * pxPerDegree >= LINE_SPACING_MIN_PX;
  const step = STEPS.findLast(wideEnough) ?? STEPS[0];
  const halfX = camera.width / 2 / camera.scale;
  const halfY = camera.height / 2 / camera.scale;

  const meridians = [];
  const west = Math.floor(lonOf(camera.x - halfX) / step);
  const east = Math.ceil(lonOf(camera.x + halfX) / step);
  for (let number = west; number <= east; number++) {
    const lon = number * step;
    const at = camera.width / 2 + (xOf(lon) - camera.x) * camera.scale;
    meridians.push({ number, at, degrees: ((((lon + 180) % 360) + 360) % 360) - 180 });
  }

  const parallels = [];
  const north = Math.min(LAT_LIMIT, latOf(camera.y - halfY));
  const south = Math.max(-LAT_LIMIT, latOf(camera.y + halfY));
  for (let number = Math.ceil(north / step); number >= Math.floor(south / step); number--) {
    const degrees = number * step;
    if (Math.abs(degrees) > LAT_LIMIT) continue;
    parallels.push({ number, at: camera.screenY(yOf(degrees)), degrees });
  }
  return { meridians, parallels, step };
}

/** Every other interval between lines is filled, along two edges. */
function ladder(context, lines, extent, colours, addRects) {
  context.beginPath();
  for (let i = 0; i + 1 < lines.length; i++) {
    if (lines[i].number % 2 !== 0) continue;
    const from = Math.max(0, Math.min(lines[i].at, lines[i + 1].at));
    const to = Math.min(extent, Math.max(lines[i].at, lines[i + 1].at));
    if (to > from) addRects(from, to - from);
  }
  context.fillStyle = colours.ladder;
  context.fill();
}

function scaleBar(context, camera, colours) {
  const metresPerPx = metresPerUnit(camera.y) / camera.scale;
  const most = metresPerPx * SCALE_MAX_PX;
  const power = 10 ** Math.floor(Math.log10(most));
  const metres = power * ([5, 2, 1].find((factor) => factor * power <= most) ?? 1);
  if (metres < 1) return;
  const length = metres / metresPerPx;
  const right = crisp(camera.width - LADDER_PX - 14);
  const left = crisp(right - length);
  const base = crisp(camera.height - LADDER_PX - 12);

  const line = (lineWidth, colour) => {
    context.beginPath();
    context.moveTo(left, base - 6);
    context.lineTo(left, base);
    context.lineTo(right, base);
    context.lineTo(right, base - 6);
    context.lineWidth = lineWidth;
    context.strokeStyle = colour;
    context.lineJoin = "miter";
    context.stroke();
  };
  line(5, colours.chart);
  line(1.5, colours.label);
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.font = colours.font;
  label(context, distance(metres), (left + right) / 2, base - 6, colours);
}

function crisp(px) {
  return Math.round(px) + 0.5;
}
