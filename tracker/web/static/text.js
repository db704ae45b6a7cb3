/** How numbers and coordinates read on the page. Pure; every function returns plain text. */

/** What stands where a value is not known. */
export const UNKNOWN = "–";

const GROUPED = new Intl.NumberFormat("en");

/** @param {unknown} value @returns {string} "12,345" */
export function count(value) {
  return typeof value === "number" && Number.isFinite(value) ? GROUPED.format(value) : UNKNOWN;
}

/** @param {number} number @param {string} noun @returns {string} "1 vehicle", "2 vehicles" */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** @param {number|null} speed in the unit that the device sent @returns {string} "5.1" */
export function speed(speed) {
  return speed === null ? UNKNOWN : speed.toFixed(1);
}

/** @param {number|null} heading degrees @returns {string} "246°" */
export function heading(heading) {
  return heading === null ? UNKNOWN : `${Math.round(heading) % 360}°`;
}

/** @param {number} seconds may be NaN @returns {string} "7 s", "3 min", "2 h", "4 d" */
export function age(seconds) {
  if (!Number.isFinite(seconds)) return UNKNOWN;
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h`;
  return `${Math.floor(whole / 86_400)} d`;
}

/**
 * @param {number} degrees signed
 * @param {string} hemispheres "NS" or "EW"
 * @param {number} step degrees from label to label: decides whether minutes and seconds show
 * @returns {string} "40°N", "40°35′N", "40°35′30″N"
 */
export function angle(degrees, hemispheres, step) {
  const seconds = Math.round(Math.abs(degrees) * 3600);
  const d = Math.floor(seconds / 3600);
  const m = Math.floor(seconds / 60) % 60;
  const s = seconds % 60;
  const side = seconds === 0 ? "" : hemispheres[degrees < 0 ? 1 : 0];
  const two = (value) => String(value).padStart(2, "0");
  if (step >= 1) return `${d}°${side}`;
  if (step * 60 >= 1) return `${d}°${two(m)}′${side}`;
  return `${d}°${two(m)}′${two(s)}″${side}`;
}

/** @param {number} lat @param {number} lon @returns {string} "40.6° N, 74.0° W" */
export function place(lat, lon) {
  const part = (value, hemispheres) =>
    `${Math.abs(value).toFixed(1)}° ${hemispheres[value < 0 ? 1 : 0]}`;
  return `${part(lat, "NS")}, ${part(lon, "EW")}`;
}

/** @param {number} metres @returns {string} "200 m", "5 km" */
export function distance(metres) {
  return metres >= 1000 ? `${count(metres / 1000)} km` : `${count(metres)} m`;
}
