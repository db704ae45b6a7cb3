/**
 * One connection to the stream, by either transport. Both call the same handlers:
 *
 *   onOpen()                       the stream runs
 *   onEvent(name, data, text)      an event; `text` is the JSON text of `data`, as it was sent
 *   onEnd({final, message})        it ended by itself, once; `final`: trying again would not help
 *
 * After `close()` no handler is called any more.
 */

/** Close codes after which the same request would only be refused again. */
const FINAL_CODES = new Set([1008, 1009, 4401, 4403]);

/** Refusals that pass by themselves: time-out, too many requests. */
const PASSING_STATUSES = new Set([408, 425, 429]);

const EVENTS = ["message", "ping", "reconnect", "closed"];

/** @typedef {{final: boolean, message: string}} End */
/**
 * @typedef {object} Handlers
 * @property {() => void} onOpen
 * @property {(name: string, data: unknown, text: string) => void} onEvent
 * @property {(end: End) => void} onEnd
 */

/** @param {URL} url @param {Handlers} handlers @returns {{close: () => void}} */
export function openWebSocket(url, handlers) {
  const address = new URL(url);
  address.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address);
  let errorMessage = "";
  socket.onopen = () => handlers.onOpen();
  socket.onmessage = ({ data: text }) => {
    const envelope = parsed(text);
    if (envelope === null || typeof envelope !== "object") return;
    if (envelope.event === "error") errorMessage = messageOf(envelope);
    handlers.onEvent(String(envelope.event), envelope.data, innerText(text, envelope.data));
  };
  socket.onclose = ({ code, reason }) => {
    handlers.onEnd({ final: FINAL_CODES.has(code), message: errorMessage || reason });
  };
  return {
    close() {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
}

/** @param {URL} url @param {Handlers} handlers @returns {{close: () => void}} */
export function openEventSource(url, handlers) {
  const source = new EventSource(url);
  let open = true;
  /** @type {End} */
  let end = { final: false, message: "" };
  const close = () => {
    open = false;
    source.close();
  };
  source.onopen = () => open && handlers.onOpen();
  for (const name of EVENTS) {
    source.addEventListener(name, ({ data: text }) => {
      const data = parsed(text);
      if (!open || data === undefined) return;
      if (name === "closed") {
        end = { final: FINAL_CODES.has(data?.code), message: String(data?.message ?? "") };
      }
      handlers.onEvent(name, data, text);
    });
  }
  source.onerror = async () => {
    if (!open) return;
    const refused = source.readyState === EventSource.CLOSED;
    source.close();
    if (refused) end = await whyRefused(url);
    if (!open) return;
    open = false;
    handlers.onEnd(end);
  };
  return { close };
}

/** An EventSource does not tell the status that it was refused with: ask again with `fetch`. */
async function whyRefused(url) {
  const asking = new AbortController();
  const timer = setTimeout(() => asking.abort(), 5_000);
  try {
    const response = await fetch(url, { signal: asking.signal });
    const { status } = response;
    if (status < 400 || status >= 500 || PASSING_STATUSES.has(status)) {
      return { final: false, message: "" };
    }
    const message = messageOf(parsed(await response.text())) || `HTTP status ${status}`;
    return { final: true, message };
  } catch {
    return { final: false, message: "" };
  } finally {
    clearTimeout(timer);
    asking.abort();
  }
}

/** @param {any} envelope `{"event": "error", "data": {"message"}}` @returns {string} */
export function messageOf(envelope) {
  return String(envelope?.data?.message ?? "");
}

/** @param {unknown} text @returns {any} undefined when it is not JSON */
function parsed(text) {
  try {
    return JSON.parse(/** @type {string} */ (text));
  } catch {
    return undefined;
  }
}

/**
 * The data as it was sent: parsing and writing again would turn `1.10` into `1.1`.
 * @param {string} text the envelope @param {unknown} data what stands in it
 */
function innerText(text, data) {
  const match = /^\{"event":"message",(?:"id":"[^"]*",)?"data":(.*)\}$/s.exec(text);
  return match ? match[1] : (JSON.stringify(data) ?? "");
}
