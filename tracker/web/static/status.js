/** The head of the page: the state of the connection, and the gateway's figures. */

import { byId, setText } from "./dom.js";
import { count } from "./text.js";

const RATE_WINDOW_S = 5;

/** What is said aloud; the counting seconds are not. */
const ANNOUNCED = {
  live: "Live",
  reconnecting: "The connection is lost; reconnecting",
  closed: "The connection is closed",
};

export class StatusBar {
  #state = { name: "idle" };
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

  /** @param {{name: string, atMs?: number, message?: string}} state see stream.js */
  showState(state) {
    if (state.name !== this.#state.name) {
      setText(byId("link-announcement"), ANNOUNCED[state.name] ?? "");
    }
    this.#state = state;
    byId("link").dataset.state = state.name;
    byId("link-retry").hidden = state.name !== "reconnecting" && state.name !== "closed";
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
    if (this.#state.name === "reconnecting") this.#showText();
  }

  #showText() {
    const node = byId("link-text");
    setText(node, this.#textOf(this.#state));
    node.title = this.#state.message ?? "";
  }

  #textOf({ name, atMs, message }) {
    if (name === "live") return "Live";
    if (name === "connecting") return "Connecting…";
    if (name === "closed") return `Closed: ${message}`;
    if (name === "idle") return this.#idleText;
    const seconds = Math.ceil((atMs - performance.now()) / 1000);
    return seconds > 0 ? `Reconnecting in ${seconds} s` : "Reconnecting…";
  }
}
