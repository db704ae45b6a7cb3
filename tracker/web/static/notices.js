/**
 * What the page may lack, said where it is seen: over the map that the positions are old, or that
 * some were lost; in the head how many. The gateway declares every loss, so that silence means none.
 */

import { byId, setText } from "./dom.js";
import { count, counted } from "./text.js";

/** How long news stand over the map. */
const NEWS_MS = 8_000;

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});

/** Why the gateway dropped messages, by the `reason` of a gap. */
const REASONS = {
  buffer_full: "this page was too slow",
  evicted: "this page was too slow",
  ingest: "the gateway was too slow",
};

/**
 * What a gap says; untrusted like all that a device's name is part of.
 * @param {{device_id: string|null, dropped: number, reason: string}} gap
 */
export function gapText({ dropped, reason }) {
  return `${counted(dropped, "message")} lost: ${REASONS[reason] ?? reason}`;
}

/** @param {{status: string, missed: number|null}} resume */
export function resumeText({ status, missed }) {
  if (status === "continued") {
    return missed ? `Back: ${counted(missed, "missed message")} caught up` : "Back: nothing missed";
  }
  return status === "partial"
    ? "Back: some messages of the time between are lost"
    : "Back, but not where we were: messages of the time between are lost";
}

/** @param {{connected: boolean}} upstream */
export function upstreamText({ connected }) {
  return connected
    ? "The gateway has its broker again: messages of the time between may be lost"
    : "The gateway has lost its broker";
}

export class Notices {
  #notice = byId("notice");
  #map = byId("map");
  #lost = 0;
  /** Whether some were lost that nobody counted. */
  #more = false;
  #state = "idle";
  #connected = true;
  /** When something was last heard of a vehicle. */
  #heard = new Date();
  #news = "";
  #isBad = false;
  #newsTimer = 0;

  /** A message of a vehicle came. */
  hear() {
    this.#heard = new Date();
  }

  /** @param {string} state of the tracker */
  showState(state) {
    // What a new connection does not tell is over.
    if (state === "live") this.#connected = true;
    this.#state = state;
    this.#show();
  }

  /** @param {{dropped: number, device_id: string|null, reason: string}} gap */
  takeGap(gap) {
    this.#lost += gap.dropped;
    this.#tell(gapText(gap), true);
  }

  /** @param {{status: string, missed: number|null}} resume */
  takeResume(resume) {
    const isWhole = resume.status === "continued";
    this.#more ||= !isWhole;
    this.#tell(resumeText(resume), !isWhole);
  }

  /** @param {{connected: boolean}} upstream */
  takeUpstream(upstream) {
    this.#connected = upstream.connected;
    this.#more ||= upstream.connected;
    this.#tell(upstream.connected ? upstreamText(upstream) : "", true);
  }

  #tell(news, isBad) {
    this.#news = news;
    this.#isBad = isBad;
    clearTimeout(this.#newsTimer);
    this.#newsTimer = setTimeout(() => this.#tell("", false), NEWS_MS);
    this.#show();
  }

  #show() {
    const since = clock.format(this.#heard);
    const isCut = this.#state === "waiting" || this.#state === "closed";
    const isStale = isCut || !this.#connected;
    let text = this.#news;
    if (isCut) text = `Not live: positions as of ${since}`;
    else if (!this.#connected) text = `${upstreamText({ connected: false })}: positions as of ${since}`;
    // While a new try is under way, what was said stays.
    if (this.#state !== "connecting") {
      setText(this.#notice, text);
      this.#notice.hidden = text === "";
      this.#notice.classList.toggle("bad", isStale || this.#isBad);
      this.#map.classList.toggle("stale", isStale);
    }
    byId("lost").hidden = !(this.#lost || this.#more);
    const some = this.#more ? (this.#lost ? " +" : "some") : "";
    setText(byId("figure-lost"), `${this.#lost ? count(this.#lost) : ""}${some}`);
  }
}
