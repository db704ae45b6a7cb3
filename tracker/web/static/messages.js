/** The messages of the followed vehicles, as they were sent, newest first, bounded in number. */

import { byId, make, setText } from "./dom.js";
import { counted } from "./text.js";

const ROWS_MAX = 200;
const FLUSH_MS = 120;
/** A message of up to 64 KiB is shown by its beginning. */
const TEXT_MAX_CHARS = 4_000;

/** In JSON text: a key with its colon, a string, a number, a word. The rest stays plain. */
const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|-?\d[\d.eE+-]*|\b(?:true|false|null)\b/g;

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});

export class MessagePanel {
  #options;
  #section = byId("messages");
  #rows = byId("messages-rows");
  #followed = byId("followed");
  #pauseButton = byId("messages-pause");
  /**
   * @type {{id: string, text: string, at: Date, note?: "good"|"bad"}[]} not shown yet, oldest
   *   first, bounded
   */
  #waiting = [];
  #waitingCount = 0;
  #paused = false;
  #flushTimer = 0;

  /**
   * @param {object} options
   * @param {(id: string) => void} options.onUnfollow
   * @param {(id: string) => void} options.onGoTo
   */
  constructor(options) {
    this.#options = options;
    this.#pauseButton.addEventListener("click", () => this.#pause(!this.#paused));
    byId("messages-clear").addEventListener("click", () => this.#clear());
    byId("messages-close").addEventListener("click", () => {
      for (const chip of [...this.#followed.children]) this.#options.onUnfollow(chip.dataset.id);
    });
    byId("messages-fold").addEventListener("click", () => {
      this.#fold(this.#section.classList.contains("folded") === false);
    });
  }

  /** @param {Iterable<string>} ids the vehicles that are followed now; none closes the panel */
  show(ids) {
    const wanted = new Set(ids);
    for (const chip of [...this.#followed.children]) {
      if (!wanted.delete(chip.dataset.id)) chip.remove();
    }
    for (const id of wanted) this.#followed.append(this.#chip(id));
    const any = this.#followed.children.length > 0;
    if (any && this.#section.hidden) this.#fold(false);
    this.#section.hidden = !any;
    if (!any) {
      this.#clear();
      this.#pause(false);
    }
    for (const id of wanted) this.#followed.lastElementChild?.scrollIntoView({ inline: "nearest" });
    this.#showEmpty();
  }

  /** @param {string} id @param {string} text JSON, as it was sent */
  add(id, text) {
    this.#waitingCount += 1;
    this.#append({ id, text, at: new Date() });
  }

  /**
   * Say here, between the messages, what happened to the stream.
   * @param {string} text @param {"good"|"bad"} note
   * @param {string} [id] of the one vehicle that it is about
   */
  note(text, note, id = "") {
    if (this.#section.hidden) return;
    this.#append({ id, text, at: new Date(), note });
  }

  #append(row) {
    this.#waiting.push(row);
    if (this.#waiting.length > ROWS_MAX) this.#waiting.shift();
    this.#flushTimer ||= setTimeout(() => this.#flush(), FLUSH_MS);
  }

  #flush() {
    this.#flushTimer = 0;
    if (this.#paused) {
      setText(this.#pauseButton, `Resume (${this.#waitingCount} new)`);
      return;
    }
    const fresh = document.createDocumentFragment();
    for (const message of this.#waiting.reverse()) fresh.append(rowOf(message));
    this.#waiting = [];
    this.#waitingCount = 0;
    this.#rows.prepend(fresh);
    while (this.#rows.children.length > ROWS_MAX) this.#rows.lastElementChild.remove();
    this.#showEmpty();
  }

  #pause(paused) {
    this.#paused = paused;
    this.#pauseButton.setAttribute("aria-pressed", String(paused));
    setText(this.#pauseButton, paused ? "Resume" : "Pause");
    this.#flush();
  }

  #clear() {
    this.#waiting = [];
    this.#waitingCount = 0;
    this.#rows.replaceChildren();
    this.#showEmpty();
  }

  #fold(folded) {
    this.#section.classList.toggle("folded", folded);
    byId("messages-fold").setAttribute("aria-expanded", String(!folded));
  }

  #showEmpty() {
    const empty = byId("messages-empty");
    empty.hidden = this.#rows.children.length > 0;
    const { length, 0: first } = this.#followed.children;
    const whose = length === 1 ? first.dataset.id : counted(length, "vehicle");
    setText(empty, `Waiting for the next message of ${whose}…`);
  }

  #chip(id) {
    const chip = make("li", "chip");
    chip.dataset.id = id;
    const goTo = make("button", "chip-id", id);
    goTo.type = "button";
    goTo.title = "Show on the map";
    goTo.addEventListener("click", () => this.#options.onGoTo(id));
    const stop = make("button", "chip-stop", "×");
    stop.type = "button";
    stop.setAttribute("aria-label", `Stop following ${id}`);
    stop.addEventListener("click", () => this.#options.onUnfollow(id));
    chip.append(goTo, stop);
    return chip;
  }
}

function rowOf({ id, text, at, note }) {
  const row = make("li", note ? `message note ${note}` : "message");
  row.append(make("time", "message-time", clock.format(at)), make("span", "message-id", id));
  row.append(note ? make("span", "message-note", text) : jsonOf(text));
  return row;
}

/** JSON text with its tokens marked; nothing of it is changed. */
function jsonOf(text) {
  const shown = text.length > TEXT_MAX_CHARS ? `${text.slice(0, TEXT_MAX_CHARS)}…` : text;
  const code = make("code", "message-json");
  let end = 0;
  for (const match of shown.matchAll(TOKEN)) {
    const [token, string, colon] = match;
    if (match.index > end) code.append(shown.slice(end, match.index));
    const kind = colon ? "json-key" : string ? "json-string" : "json-number";
    code.append(make("span", kind, token));
    end = match.index + token.length;
  }
  code.append(shown.slice(end));
  return code;
}
