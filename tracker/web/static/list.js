/**
 * The list of vehicles: sorted, filtered, and drawn only where it is seen. A few dozen row elements
 * serve any number of vehicles, and only text that differs is written.
 */

import { byId, make, setText } from "./dom.js";
import { age, count, counted, heading, speed } from "./text.js";

const SPARE_ROWS = 4;
/** Ages count up by themselves; what the stream changes waits at most this long. */
const REFRESH_MS = 500;

const byName = new Intl.Collator("en", { numeric: true });

/** @typedef {import("./fleet.js").Vehicle} Vehicle */

/** How each column orders two vehicles; what is not known comes last. */
const ORDERS = {
  id: (a, b) => byName.compare(a.id, b.id),
  speed: (a, b) => (a.speed ?? -1) - (b.speed ?? -1),
  heading: (a, b) => (a.heading ?? 999) - (b.heading ?? 999),
  age: (a, b) => (b.seenMs || 0) - (a.seenMs || 0),
};
/** The first click on a column shows this end of it. */
const FIRST_DIRECTION = { id: 1, speed: -1, heading: 1, age: 1 };

export class VehicleList {
  #fleet;
  #options;
  #grid = byId("grid");
  #body = byId("grid-body");
  #space = byId("grid-space");
  #heads = [...this.#grid.querySelectorAll("[role=columnheader]")];
  /** @type {HTMLElement[]} */
  #rows = [];
  /** @type {Vehicle[]} what the filter lets through, in order */
  #shown = [];
  #rowPx = 0;
  #key = "id";
  #direction = 1;
  /** @type {string[]} */
  #needles = [];
  /** @type {string|null} the row that the keyboard is on */
  #active = null;
  #pointing = false;
  #stale = true;
  #total = 0;

  /**
   * @param {import("./fleet.js").Fleet} fleet
   * @param {object} options
   * @param {(id: string) => void} options.onToggle follow, or stop following
   * @param {(id: string) => void} options.onGoTo follow, and show on the map
   * @param {(id: string|null) => void} options.onPoint the pointer is over this one
   */
  constructor(fleet, options) {
    this.#fleet = fleet;
    this.#options = options;
    for (const head of this.#heads) {
      head.querySelector("button").addEventListener("click", () => this.#sortBy(head.dataset.key));
    }
    const body = this.#body;
    body.addEventListener("scroll", () => this.#render(), { passive: true });
    body.addEventListener("click", (event) => this.#click(event));
    body.addEventListener("dblclick", (event) => this.#doubleClick(event));
    body.addEventListener("pointerover", (event) => this.#options.onPoint(this.#idAt(event)));
    body.addEventListener("pointerenter", () => (this.#pointing = true));
    body.addEventListener("pointerleave", () => {
      this.#pointing = false;
      this.#options.onPoint(null);
    });
    // The active row is told by the grid, so a click into the body must not take the focus from it.
    body.addEventListener("focus", () => this.#grid.focus({ preventScroll: true }));
    this.#grid.addEventListener("keydown", (event) => {
      if (event.target === this.#grid) this.#keydown(event);
    });
    new ResizeObserver(() => this.#measure()).observe(body);
    setInterval(() => document.hidden || this.#update(), REFRESH_MS);
    this.#measure();
  }

  /**
   * Vehicles came, went or are followed differently.
   * @param {number} [total] how many the gateway knows
   */
  refresh(total = this.#total) {
    this.#total = total;
    this.#stale = true;
    this.#update();
  }

  /** @param {string[]} needles parts of ids; none of them shows every vehicle */
  filter(needles) {
    this.#needles = needles.map((needle) => needle.toLowerCase());
    this.#body.scrollTop = 0;
    this.refresh();
  }

  /** @returns {string|null} the id, when the filter lets just one vehicle through */
  get only() {
    return this.#shown.length === 1 ? this.#shown[0].id : null;
  }

  #update() {
    // Ids keep their order; for the rest, rows must not jump away under the pointer.
    const volatile = this.#key !== "id";
    if (this.#stale || (volatile && !this.#pointing)) this.#arrange();
    this.#render();
  }

  #arrange() {
    this.#stale = false;
    const needles = this.#needles;
    const passes = ({ id }) => {
      const lower = id.toLowerCase();
      return needles.length === 0 || needles.some((needle) => lower.includes(needle));
    };
    const order = ORDERS[this.#key];
    this.#shown = [...this.#fleet.vehicles.values()].filter(passes);
    this.#shown.sort((a, b) => order(a, b) * this.#direction || ORDERS.id(a, b));
    this.#space.style.height = `${this.#shown.length * this.#rowPx}px`;
    this.#grid.setAttribute("aria-rowcount", String(this.#shown.length + 1));
    const all = this.#fleet.vehicles.size;
    const parts = [counted(all, "vehicle")];
    if (this.#shown.length !== all) parts.unshift(`${count(this.#shown.length)} of`);
    if (this.#total > all) parts.push(`of ${count(this.#total)}`);
    setText(byId("count"), parts.join(" "));
  }

  /** Rows have the height that the style gives them, which differs for touch. */
  #measure() {
    const probe = this.#row(0);
    probe.hidden = false;
    this.#rowPx = Math.max(1, probe.offsetHeight);
    const needed = Math.ceil(this.#body.clientHeight / this.#rowPx) + SPARE_ROWS;
    for (let i = this.#rows.length; i < needed; i++) this.#row(i);
    while (this.#rows.length > Math.max(1, needed)) this.#rows.pop()?.remove();
    this.#stale = true;
    this.#update();
  }

  #row(i) {
    if (this.#rows[i]) return this.#rows[i];
    const row = make("div", "row");
    row.setAttribute("role", "row");
    row.id = `row-${i}`;
    for (const name of ["id", "speed", "heading", "age"]) {
      const cell = make("span", `cell cell-${name}`);
      cell.setAttribute("role", "gridcell");
      row.append(cell);
    }
    this.#space.append(row);
    this.#rows.push(row);
    return row;
  }

  #render() {
    const nowMs = performance.now();
    const pool = this.#rows.length;
    const first = Math.max(0, Math.floor(this.#body.scrollTop / this.#rowPx) - 1);
    let activeRow = "";
    for (let index = first; index < first + pool; index++) {
      // An element keeps its vehicle while the list scrolls: index n is always served by n % pool.
      const row = this.#rows[index % pool];
      const vehicle = this.#shown[index];
      row.hidden = !vehicle;
      if (!vehicle) continue;
      const active = vehicle.id === this.#active;
      if (active) activeRow = row.id;
      this.#fill(row, vehicle, index, nowMs, active);
    }
    if (activeRow) this.#grid.setAttribute("aria-activedescendant", activeRow);
    else this.#grid.removeAttribute("aria-activedescendant");
  }

  #fill(row, vehicle, index, nowMs, active) {
    const top = `translateY(${index * this.#rowPx}px)`;
    if (row.style.transform !== top) row.style.transform = top;
    if (row.dataset.index !== String(index)) {
      row.dataset.index = String(index);
      row.setAttribute("aria-rowindex", String(index + 2));
      row.classList.toggle("odd", index % 2 === 1);
    }
    const followed = String(vehicle.followed);
    if (row.getAttribute("aria-selected") !== followed) row.setAttribute("aria-selected", followed);
    row.classList.toggle("active", active);
    row.classList.toggle("silent", vehicle.isSilent(nowMs));
    const [id, speedCell, headingCell, ageCell] = row.children;
    setText(id, vehicle.id);
    setText(speedCell, speed(vehicle.speed));
    setText(headingCell, heading(vehicle.heading));
    setText(ageCell, age((nowMs - vehicle.seenMs) / 1000));
  }

  #sortBy(key) {
    this.#direction = key === this.#key ? -this.#direction : FIRST_DIRECTION[key];
    this.#key = key;
    for (const head of this.#heads) {
      const order = this.#direction > 0 ? "ascending" : "descending";
      head.setAttribute("aria-sort", head.dataset.key === key ? order : "none");
    }
    this.#body.scrollTop = 0;
    this.refresh();
  }

  /** @returns {string|null} the vehicle under the pointer */
  #idAt(event) {
    const row = event.target.closest?.(".row");
    return row ? (this.#shown[Number(row.dataset.index)]?.id ?? null) : null;
  }

  #click(event) {
    const id = this.#idAt(event);
    if (id === null) return;
    this.#active = id;
    // The second click of a double click must not undo the first.
    if (event.detail < 2) this.#options.onToggle(id);
  }

  #doubleClick(event) {
    const id = this.#idAt(event);
    if (id !== null) this.#options.onGoTo(id);
  }

  #keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || this.#shown.length === 0) return;
    const last = this.#shown.length - 1;
    const page = Math.max(1, Math.floor(this.#body.clientHeight / this.#rowPx) - 1);
    const at = this.#shown.findIndex(({ id }) => id === this.#active);
    const goals = {
      ArrowDown: at + 1,
      ArrowUp: at < 0 ? 0 : at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: last,
    };
    if (event.key in goals) {
      this.#moveTo(Math.max(0, Math.min(last, goals[event.key])));
    } else if (at >= 0 && (event.key === "Enter" || event.key === " ")) {
      this.#options.onToggle(this.#shown[at].id);
    } else if (at >= 0 && event.key.toLowerCase() === "g") {
      this.#options.onGoTo(this.#shown[at].id);
    } else {
      return;
    }
    event.preventDefault();
  }

  #moveTo(index) {
    this.#active = this.#shown[index].id;
    const top = index * this.#rowPx;
    const { scrollTop, clientHeight } = this.#body;
    if (top < scrollTop) this.#body.scrollTop = top;
    else if (top + this.#rowPx > scrollTop + clientHeight) {
      this.#body.scrollTop = top + this.#rowPx - clientHeight;
    }
    this.#options.onPoint(this.#active);
    this.#render();
  }
}
