/**
 * The live stream of a set of devices, kept alive: it reconnects with backoff and jitter, and
 * changes its devices or its transport without a break.
 *
 * States, each told through `onState`:
 *   {name: "idle"}                            no device is wanted
 *   {name: "connecting"}
 *   {name: "live"}
 *   {name: "reconnecting", atMs, message}     waits until `performance.now()` is atMs
 *   {name: "closed", message}                 refused for good, until `retry()`
 *
 * A change opens the new connection first, and keeps the old one for HANDOVER_MS after the new one
 * runs: what is still on its way arrives, and what both bring is passed on once.
 */

import { openEventSource, openWebSocket } from "./connection.js";

const BACKOFF_FIRST_MS = 500;
const BACKOFF_MAX_MS = 15_000;
/** A connection that lasted this long was a good one: the next backoff starts small again. */
const STEADY_MS = 5_000;
const CONNECT_TIMEOUT_MS = 10_000;
const DEBOUNCE_MS = 300;
const HANDOVER_MS = 1_000;
/** The gateway sends a ping every 60 s: after two missing ones the connection is dead. */
const SILENCE_MAX_MS = 150_000;
const SILENCE_CHECK_MS = 15_000;
const HINT_MAX_MS = 60_000;

const TRANSPORTS = { websocket: openWebSocket, sse: openEventSource };

/**
 * Both connections of a change bring the same messages: pass each on once. Counting (and not a
 * set) lets a device that says the same thing twice be heard twice.
 */
class Handover {
  /** @type {Map<string, number>} */
  #passed = new Map();
  /** @type {Map<object, Map<string, number>>} */
  #brought = new Map();

  /** @param {object} link the connection that brought it @param {string} text */
  passes(link, text) {
    let counts = this.#brought.get(link);
    if (!counts) this.#brought.set(link, (counts = new Map()));
    const count = (counts.get(text) ?? 0) + 1;
    counts.set(text, count);
    if (count <= (this.#passed.get(text) ?? 0)) return false;
    this.#passed.set(text, count);
    return true;
  }
}

export class Stream {
  #urlFor;
  #onMessage;
  #onState;
  /** @type {keyof TRANSPORTS} */
  #transport = "websocket";
  /** @type {string[]} */
  #ids = [];
  #current = null;
  #next = null;
  #old = null;
  /** @type {Handover|null} */
  #handover = null;
  #handoverTimer = 0;
  #debounceTimer = 0;
  #retryTimer = 0;
  #connectTimer = 0;
  #attempts = 0;
  #openedMs = 0;
  #heardMs = 0;
  /** @type {number|null} */
  #hintMs = null;
  #state = { name: "idle" };

  /**
   * @param {object} options
   * @param {(ids: string[]) => URL} options.urlFor
   * @param {(payload: unknown, text: string) => void} options.onMessage
   * @param {(state: {name: string, atMs?: number, message?: string}) => void} options.onState
   */
  constructor({ urlFor, onMessage, onState }) {
    this.#urlFor = urlFor;
    this.#onMessage = onMessage;
    this.#onState = onState;
    setInterval(() => this.#checkSilence(), SILENCE_CHECK_MS);
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  /** @param {string[]} ids the devices to stream from now on; soon, since changes come in groups */
  want(ids) {
    const known = new Set(this.#ids);
    if (ids.length === known.size && ids.every((id) => known.has(id))) return;
    this.#ids = ids;
    clearTimeout(this.#debounceTimer);
    this.#debounceTimer = setTimeout(() => this.#open(), DEBOUNCE_MS);
  }

  /** @param {keyof TRANSPORTS} transport */
  use(transport) {
    this.#transport = transport;
    this.retry();
  }

  /** Connect anew, now. */
  retry() {
    this.#attempts = 0;
    this.#open();
  }

  #open() {
    clearTimeout(this.#debounceTimer);
    clearTimeout(this.#retryTimer);
    this.#next = dropped(this.#next);
    if (this.#ids.length === 0) {
      this.#current = dropped(this.#current);
      this.#old = dropped(this.#old);
      this.#tell({ name: "idle" });
      return;
    }
    if (!this.#current) this.#tell({ name: "connecting" });
    else this.#handover ??= new Handover();
    const link = { close: () => {} };
    const connect = TRANSPORTS[this.#transport];
    const connection = connect(this.#urlFor(this.#ids), {
      onOpen: () => this.#opened(link),
      onEvent: (name, data, text) => this.#heard(link, name, data, text),
      onEnd: (end) => this.#ended(link, end),
    });
    link.close = connection.close;
    this.#next = link;
    clearTimeout(this.#connectTimer);
    this.#connectTimer = setTimeout(() => {
      link.close();
      this.#ended(link, { final: false, message: "No answer from the gateway" });
    }, CONNECT_TIMEOUT_MS);
  }

  #opened(link) {
    clearTimeout(this.#connectTimer);
    this.#old = dropped(this.#old);
    this.#old = this.#current;
    this.#current = link;
    this.#next = null;
    this.#openedMs = this.#heardMs = performance.now();
    this.#hintMs = null;
    clearTimeout(this.#handoverTimer);
    this.#handoverTimer = setTimeout(() => {
      this.#old = dropped(this.#old);
      if (!this.#next) this.#handover = null;
    }, HANDOVER_MS);
    this.#tell({ name: "live" });
  }

  #heard(link, name, data, text) {
    this.#heardMs = performance.now();
    if (name === "reconnect") {
      const afterMs = Number(data?.after_ms);
      if (link === this.#current && afterMs >= 0) this.#hintMs = Math.min(afterMs, HINT_MAX_MS);
    } else if (name === "message") {
      if (this.#handover && !this.#handover.passes(link, text)) return;
      this.#onMessage(data, text);
    }
  }

  #ended(link, end) {
    if (link === this.#old) this.#old = null;
    if (link !== this.#next && link !== this.#current) return;
    if (link === this.#next) {
      clearTimeout(this.#connectTimer);
      this.#next = null;
      if (!this.#old) this.#handover = null;
    } else {
      this.#current = null;
      if (performance.now() - this.#openedMs > STEADY_MS) this.#attempts = 0;
    }
    if (end.final) {
      this.#next = dropped(this.#next);
      this.#current = dropped(this.#current);
      this.#tell({ name: "closed", message: end.message || "Refused by the gateway" });
    } else if (this.#next) {
      this.#tell({ name: "connecting" });
    } else {
      this.#retryLater(end.message);
    }
  }

  #retryLater(message) {
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.#attempts);
    const delay = this.#hintMs ?? ceiling * (0.5 + Math.random() / 2);
    this.#hintMs = null;
    this.#attempts += 1;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#open(), delay);
    // A refreshed set of devices that fails to open leaves the running stream alone.
    if (this.#current) return;
    this.#tell({ name: "reconnecting", atMs: performance.now() + delay, message });
  }

  #checkSilence() {
    const link = this.#current;
    if (!link || performance.now() - this.#heardMs < SILENCE_MAX_MS) return;
    link.close();
    this.#ended(link, { final: false, message: "The gateway went silent" });
  }

  /** The network is back, or somebody looks at the page again: do not sit out the backoff. */
  #hurry() {
    if (this.#state.name === "reconnecting") this.#open();
  }

  #tell(state) {
    this.#state = state;
    this.#onState(state);
  }
}

/** @param {{close: () => void}|null} link @returns {null} */
function dropped(link) {
  link?.close();
  return null;
}
