/** The head of the page: the state of the connection, and the gateway's figures. */

import { byId, setText } from "./dom.js";
import { count } from "./text.js";

const RATE_WINDOW_S = 5;

/** What is said aloud; the counting seconds are not. */
const ANNOUNCED = {
  live: "Live",
  waiting: "The connection is lost; reconnecting",
  closed: "The connection is closed",
};

export class StatusBar {
  /** As the tracker tells it, and `atMs`, when it will try again. */
  #state = { state: "idle" };
  #idleText = "Starting…";
  /** Messages in each of the last seconds, the current one last. */
  #perSecond = [0];

  /**
   * @param {object} options
   * @param {() => void} options.onRetry
   * @param {(transport: "websocket"|"sse") => void} options.onTransport
   */
  constructor({ onRetry, onTransport }) {
    byId("link-retry").addEventListener("click", onRetry);
    byId("transport").addEventListener("change", ({ target }) => onTransport(target.value));
    setInterval(() => this.#tick(), 1_000);
  }

  /** @param {import("./tracker.js").State} state */
  showState(state) {
    if (state.state !== this.#state.state) {
      setText(byId("link-announcement"), ANNOUNCED[state.state] ?? "");
    }
    this.#state = { ...state, atMs: performance.now() + (state.afterMs ?? 0) };
    byId("link").dataset.state = state.state;
    byId("link-retry").hidden = state.state !== "waiting" && state.state !== "closed";
    // It may have been chosen for us, where WebSocket does not open.
    byId("transport").querySelector(`[value=${state.transport}]`).checked = true;
    this.#showText();
  }

  /** @param {string} text what to say while there is nothing to stream */
  showIdle(text) {
    this.#idleText = text;
    this.#showText();
  }

  /** @param {any} figures of `/api/v1/stream/stats`; null when it did not answer */
  showFigures(figures) {
    setText(byId("figure-processed"), count(figures?.total_messages_processed));
    setText(byId("figure-subscribers"), count(figures?.active_subscribers));
    setText(byId("figure-devices"), count(figures?.devices_being_monitored));
  }

  countMessage() {
    this.#perSecond[this.#perSecond.length - 1] += 1;
  }

  #tick() {
    const sum = this.#perSecond.reduce((total, each) => total + each, 0);
    const rate = sum / this.#perSecond.length;
    setText(byId("figure-rate"), rate < 10 && rate > 0 ? rate.toFixed(1) : count(Math.round(rate)));
    this.#perSecond.push(0);
    if (this.#perSecond.length > RATE_WINDOW_S) this.#perSecond.shift();
    if (this.#state.state === "waiting") this.#showText();
  }

  #showText() {
    const node = byId("link-text");
    setText(node, this.#textOf(this.#state));
    node.title = this.#state.message ?? "";
  }

  #textOf({ state, atMs, message }) {
    if (state === "live") return "Live";
    if (state === "connecting") return "Connecting…";
    if (state === "closed") return `Closed: ${message || "refused by the gateway"}`;
    if (state === "idle") return this.#idleText;
    const seconds = Math.ceil((atMs - performance.now()) / 1000);
    return seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting…";
  }
}
