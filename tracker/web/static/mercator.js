/**
 * Web Mercator: degrees to the unit square and back. x grows eastward, y southward,
 * (0.5, 0.5) is 0° N 0° E. Pure.
 */

/** The latitude where the projection's square ends. */
export const LAT_LIMIT = 85.0511287798;

/** Metres around the equator of the sphere that Web Mercator uses. */
const EQUATOR_M = 40_075_016.686;

const RADIANS = Math.PI / 180;

/** @param {number} lon degrees @returns {number} x, 0 to 1 */
export function xOf(lon) {
  return (lon + 180) / 360;
}

/** @param {number} lat degrees, clamped to the projection's limit @returns {number} y, 0 to 1 */
export function yOf(lat) {
  const sine = Math.sin(Math.max(-LAT_LIMIT, Math.min(LAT_LIMIT, lat)) * RADIANS);
  return 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI);
}

/** @param {number} x @returns {number} degrees */
export function lonOf(x) {
  return x * 360 - 180;
}

/** @param {number} y @returns {number} degrees */
export function latOf(y) {
  return Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) / RADIANS;
}

/** @param {number} y @returns {number} metres that one unit of x or y stands for, at this y */
export function metresPerUnit(y) {
  return EQUATOR_M / Math.cosh(Math.PI * (1 - 2 * y));
}

/** @param {number} dx @returns {number} the same difference the short way round the globe */
export function shortWay(dx) {
  return dx - Math.round(dx);
}
