/** A JSON resource asked for again and again while the page is visible. */

const TIMEOUT_MS = 8_000;

export class Poll {
  #url;
  #everyMs;
  #onAnswer;
  #timer = 0;
  #asking = false;

  /**
   * @param {URL} url
   * @param {number} everyMs from the end of one answer to the next question
   * @param {(answer: {status: number, body: any}) => number|void} onAnswer status 0: no answer at
   *   all; body null: not JSON. What it returns replaces everyMs once.
   */
  constructor(url, everyMs, onAnswer) {
    this.#url = url;
    this.#everyMs = everyMs;
    this.#onAnswer = onAnswer;
    document.addEventListener("visibilitychange", () => this.ask());
    this.ask();
  }

  /** Ask now, unless an answer is awaited or nobody looks. */
  async ask() {
    clearTimeout(this.#timer);
    if (this.#asking || document.hidden) return;
    this.#asking = true;
    const answer = await this.#fetch();
    this.#asking = false;
    const pauseMs = this.#onAnswer(answer) ?? this.#everyMs;
    this.#timer = setTimeout(() => this.ask(), pauseMs);
  }

  async #fetch() {
    const waiting = new AbortController();
    const timer = setTimeout(() => waiting.abort(), TIMEOUT_MS);
    try {
      const response = await fetch(this.#url, { signal: waiting.signal, cache: "no-store" });
      const body = await response.json().catch(() => null);
      return { status: response.status, body };
    } catch {
      return { status: 0, body: null };
    } finally {
      clearTimeout(timer);
    }
  }
}
