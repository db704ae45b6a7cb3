/**
 * Every vehicle that the page knows. Fed by the list of devices and by the stream; drawn by the map
 * and the list. Whatever a device sends is taken as untrusted: odd values become "not known".
 */

import { metresPerUnit, shortWay, xOf, yOf } from "./mercator.js";

const TRAIL_POINTS = 40;

/** A leap is not a path: beyond this, and beyond LEAP_FACTOR usual steps, a trail starts anew. */
const LEAP_M = 1_000;
const LEAP_FACTOR = 8;
const FIRST_STEP_MAX_M = 20_000;

/** An update from the list counts only when it is this much newer than what the stream brought. */
const LIST_MARGIN_MS = 750;

/** The last positions of one vehicle, oldest first, the current one last; a ring. */
export class Trail {
  #x = new Float64Array(TRAIL_POINTS);
  #y = new Float64Array(TRAIL_POINTS);
  #start = 0;
  length = 0;

  /** @param {number} i 0 is the oldest */
  x(i) {
    return this.#x[(this.#start + i) % TRAIL_POINTS];
  }

  /** @param {number} i 0 is the oldest */
  y(i) {
    return this.#y[(this.#start + i) % TRAIL_POINTS];
  }

  /** @returns {boolean} false when the point is too far away to be the next one of a path */
  push(x, y) {
    const continues = this.#continues(x, y);
    if (!continues) this.length = 0;
    const at = (this.#start + this.length) % TRAIL_POINTS;
    this.#x[at] = x;
    this.#y[at] = y;
    if (this.length < TRAIL_POINTS) this.length += 1;
    else this.#start = (this.#start + 1) % TRAIL_POINTS;
    return continues;
  }

  #continues(x, y) {
    const last = this.length - 1;
    if (last < 0) return false;
    const stepM = this.#metres(this.x(last), this.y(last), x, y);
    if (stepM < LEAP_M) return true;
    if (last < 2) return stepM < FIRST_STEP_MAX_M;
    let pathM = 0;
    for (let i = 0; i < last; i++) {
      pathM += this.#metres(this.x(i), this.y(i), this.x(i + 1), this.y(i + 1));
    }
    return stepM < (LEAP_FACTOR * pathM) / last;
  }

  #metres(x0, y0, x1, y1) {
    return Math.hypot(shortWay(x1 - x0), y1 - y0) * metresPerUnit(y1);
  }
}

/** What was silent for longer may be anywhere by now. */
const SILENT_MS = 60_000;

export class Vehicle {
  /** @type {number} unit square; NaN while no position is known */
  x = NaN;
  y = NaN;
  /** @type {number|null} in the device's own unit */
  speed = null;
  /** @type {number|null} degrees clockwise from north */
  heading = null;
  /** `performance.now()` of the last message, NaN while that is not known. */
  seenMs = NaN;
  followed = false;
  trail = new Trail();
  /** Where the drawn symbol glides from, and since when. */
  fromX = NaN;
  fromY = NaN;
  movedMs = -Infinity;

  /** @param {string} id */
  constructor(id) {
    this.id = id;
  }

  get located() {
    return !Number.isNaN(this.x);
  }

  /** @param {number} nowMs @returns {boolean} whether what is known of it is old */
  isSilent(nowMs) {
    return !(nowMs - this.seenMs < SILENT_MS);
  }

  /**
   * @param {{lat?: unknown, lon?: unknown, speed?: unknown, heading?: unknown}} fix
   * @param {number} seenMs may be NaN
   */
  update(fix, seenMs) {
    this.seenMs = seenMs;
    this.speed = numberOf(fix.speed);
    const heading = numberOf(fix.heading);
    this.heading = heading === null ? null : ((heading % 360) + 360) % 360;
    const lat = numberOf(fix.lat);
    const lon = numberOf(fix.lon);
    if (lat === null || lon === null || Math.abs(lat) > 90 || Math.abs(lon) > 180) return;
    const [x, y] = [xOf(lon), yOf(lat)];
    if (x === this.x && y === this.y) return;
    const [wasX, wasY] = [this.x, this.y];
    const glides = this.trail.push(x, y);
    [this.x, this.y] = [x, y];
    [this.fromX, this.fromY] = glides ? [wasX, wasY] : [x, y];
    this.movedMs = seenMs;
  }
}

export class Fleet {
  /** @type {Map<string, Vehicle>} */
  vehicles = new Map();
  /** @type {Set<string>} in the order of following */
  followed = new Set();

  /**
   * Take one live message.
   * @param {unknown} payload `{"timestamp", "data": {"DEVICE_ID", "LAT", …}}`
   * @param {string} text the same as JSON text
   * @param {number} nowMs
   * @returns {Vehicle|null} null when it names no device
   */
  apply(payload, text, nowMs) {
    const outer = objectOf(payload);
    const fields = objectOf(outer.data);
    const id = idOf(fields.DEVICE_ID ?? outer.DEVICE_ID, text);
    if (id === null) return null;
    const vehicle = this.#vehicle(id);
    const fix = { lat: fields.LAT, lon: fields.LON, speed: fields.SPEED, heading: fields.HEADING };
    vehicle.update(fix, nowMs);
    return vehicle;
  }

  /**
   * Take the gateway's list of devices. A vehicle that a complete list does not name is gone,
   * unless it is followed.
   * @param {unknown} devices
   * @param {boolean} complete
   * @param {number} nowMs
   */
  merge(devices, complete, nowMs) {
    const named = new Set();
    for (const item of Array.isArray(devices) ? devices : []) {
      const device = objectOf(item);
      const id = idOf(device.device_id, "");
      if (id === null) continue;
      named.add(id);
      const vehicle = this.#vehicle(id);
      const ageS = numberOf(device.age_s);
      // Without an age (a retained message) it is known where the vehicle was, but not when.
      const seenMs = ageS === null ? NaN : nowMs - ageS * 1000;
      const news = Number.isNaN(vehicle.seenMs) || seenMs > vehicle.seenMs + LIST_MARGIN_MS;
      if (news) vehicle.update(device, seenMs);
    }
    if (!complete) return;
    for (const [id, vehicle] of this.vehicles) {
      if (!named.has(id) && !vehicle.followed) this.vehicles.delete(id);
    }
  }

  /** @param {string} id a vehicle not known yet appears without a position */
  follow(id) {
    this.#vehicle(id).followed = true;
    this.followed.add(id);
  }

  /** @param {string} id */
  unfollow(id) {
    this.followed.delete(id);
    const vehicle = this.vehicles.get(id);
    if (!vehicle) return;
    vehicle.followed = false;
    if (Number.isNaN(vehicle.seenMs) && !vehicle.located) this.vehicles.delete(id);
  }

  /** @returns {string[]} every id, the followed ones first */
  ids() {
    return [...new Set([...this.followed, ...this.vehicles.keys()])];
  }

  #vehicle(id) {
    let vehicle = this.vehicles.get(id);
    if (!vehicle) this.vehicles.set(id, (vehicle = new Vehicle(id)));
    return vehicle;
  }
}

/** @param {unknown} value @returns {Record<string, unknown>} empty for anything but an object */
function objectOf(value) {
  return value !== null && typeof value === "object" ? /** @type {any} */ (value) : {};
}

/** @param {unknown} value a number, or text that is one @returns {number|null} */
function numberOf(value) {
  if (typeof value === "string" && value.trim() !== "") value = Number(value);
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

/** @param {unknown} value @param {string} text the whole message @returns {string|null} */
function idOf(value, text) {
  if (typeof value === "string") return value === "" ? null : value;
  if (typeof value !== "number") return null;
  // JSON.parse rounds integers above 2^53; the text still has all digits.
  if (Number.isSafeInteger(value)) return String(value);
  return /"DEVICE_ID"\s*:\s*(-?\d+)\b/.exec(text)?.[1] ?? null;
}
