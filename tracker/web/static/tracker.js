/** See tracker.d.ts. No message comes twice, none is missing without an event that says so. */

const { document, location } = globalThis;

const PAUSE_MS = 500;
const PAUSE_MAX_MS = 30_000;
const ANSWER_MS = 10_000;
/** Too many operations end a connection, and too long ones. */
const SETTLE_MS = 50;
const IDS_MAX = 100;
const ENVELOPE = /^{"event":"(\w+)",(?:"id":"([^"]*)",)?"data":(.*)}$/s;
/** Close codes and HTTP statuses not to be tried again. */
const FINAL = /^(100[89]|440[13]|4(?!08|25|29)\d\d)$/;

export class TrackerEvent extends Event {
  #data;

  constructor(type, text, id = "") {
    super(type);
    this.text = text;
    this.lastEventId = id;
  }

  get data() {
    return (this.#data ??= JSON.parse(this.text));
  }
}

export class Tracker extends EventTarget {
  #url;
  #mode;
  #query;
  #wanted = new Set();
  /** The devices of which all has come, up to `lastEventId`. */
  #covered;
  #link;
  #socketWorks;
  #pauseMs = PAUSE_MS / 2;
  #hintMs;
  #timer;
  #settling;
  #end = new AbortController();

  constructor(url, { deviceIds = [], transport = "auto", lastEventId = "", last, ...query } = {}) {
    super();
    this.#query = { ping: 20, hello: 1, last: last ? 1 : 0, ...query };
    this.lastEventId = lastEventId;
    const { signal } = this.#end;
    const wake = () => this.#wake();
    addEventListener("online", wake, { signal });
    document?.addEventListener("visibilitychange", wake, { signal });
    this.subscribe(deviceIds);
    this.#covered = new Set(lastEventId && this.#wanted);
    this.reconnect({ url, transport });
  }

  get deviceIds() {
    return [...this.#wanted];
  }

  subscribe(deviceIds) {
    for (const id of [deviceIds].flat().map(String)) {
      if (!id || /,|^\s|\s$/.test(id)) throw new TypeError(`not a device id: "${id}"`);
      this.#wanted.add(id);
    }
    this.#settleSoon();
  }

  unsubscribe(deviceIds) {
    for (const id of [deviceIds].flat()) this.#wanted.delete(String(id));
    this.#settleSoon();
  }

  reconnect({ url = this.#url, transport = this.#mode } = {}) {
    this.#url = new URL(url, document?.baseURI ?? location);
    this.#mode = transport;
    this.transport = transport === "sse" ? transport : "websocket";
    this.#connect();
  }

  close() {
    this.#end.abort();
    this.#wanted.clear();
    this.#connect();
  }

  #settleSoon() {
    this.#settling ??= setTimeout(() => this.#settle(), this.#link && SETTLE_MS);
  }

  #settle() {
    this.#settling = undefined;
    const link = this.#link;
    const wanted = this.#wanted;
    if (!wanted.size || (!link && this.state !== "waiting")) return this.#connect();
    if (!link?.openedMs) return;
    const gone = [...link.ids].filter((id) => !wanted.has(id));
    const fresh = [...wanted].filter((id) => !link.ids.has(id));
    if (!link.send) return (gone[0] ?? fresh[0]) && this.#connect();
    link.ids = new Set(wanted);
    this.#ask(link, gone, { op: "unsubscribe" });
    const { last, track } = this.#query;
    this.#ask(link, fresh, { op: "subscribe", last, track });
  }

  #ask(link, ids, operation) {
    while (ids[0]) {
      const device_ids = ids.splice(0, IDS_MAX);
      const ref = link.asked.push(device_ids) - 1;
      link.send(JSON.stringify({ ...operation, device_ids, ref }));
    }
  }

  #connect() {
    this.#drop();
    const open = this.transport === "sse" ? openEvents : openSocket;
    let ids = this.deviceIds;
    const kept = ids.filter((id) => this.#covered.has(id));
    // New devices are asked for later, to begin with their past.
    if (!kept[0]) this.lastEventId = "";
    else if (open === openSocket) ids = kept;
    if (!ids[0]) return this.#tell("idle");
    const url = new URL(this.#url);
    const query = { ...this.#query, last_event_id: this.lastEventId };
    for (const name in query) if (query[name]) url.searchParams.set(name, query[name]);
    url.search += `&device_ids=${ids.map(encodeURIComponent)}`;
    const link = {
      ids: new Set(ids),
      asked: [],
      said: {},
      heardMs: Date.now(),
      hear: (...event) => this.#hear(link, ...event),
      end: (why) => this.#ended(link, why),
    };
    this.#link = link;
    open(url, link);
    this.#watch(link);
    this.#tell("connecting");
  }

  #hear(link, name, text, id) {
    if (link !== this.#link) return;
    link.heardMs = Date.now();
    // Nobody knows where we stand without an id: "-" resumes as a reset.
    if (id || name === "message") this.lastEventId = id || "-";
    if (!name) return;
    const event = new TrackerEvent(name, text, id);
    if (!/^(message|snapshot|track)$/.test(name)) this.#obey(link, name, event.data);
    if (link === this.#link) this.dispatchEvent(event);
  }

  #obey(link, name, data) {
    this.lastEventId = data.position || this.lastEventId;
    const ids = link.asked[data.ref];
    if (!ids) Object.assign(link.said, data);
    ids?.forEach((id) => (name === "ack" ? this.#covered.add(id) : this.#wanted.delete(id)));
    if (name === "hello") {
      link.openedMs = link.heardMs;
      this.#socketWorks ||= link.send;
      this.#covered = new Set(link.ids);
      this.#watch(link);
      this.#tell("live");
      this.#settle();
    }
  }

  #ended(link, why) {
    if (link !== this.#link) return;
    this.#drop();
    const { code, message, after_ms } = { ...why, ...link.said };
    if (FINAL.test(code)) return this.#tell("closed", { code, message });
    const outlived = Date.now() - link.openedMs > this.#pauseMs;
    this.#pauseMs = outlived ? PAUSE_MS : Math.min(2 * this.#pauseMs, PAUSE_MAX_MS);
    this.#hintMs = Number(after_ms);
    let afterMs = this.#hintMs || this.#pauseMs * (0.5 + Math.random() / 2);
    if (this.#mode === "auto" && !this.#socketWorks && !link.openedMs) {
      if (link.send) afterMs = 0;
      this.transport = link.send ? "sse" : "websocket";
    }
    this.#timer = setTimeout(() => this.#connect(), afterMs);
    this.#tell("waiting", { code, message, afterMs });
  }

  #wake() {
    if (document?.hidden) return;
    if (this.#link) this.#watch(this.#link);
    else if (this.state === "waiting" && !this.#hintMs) this.#connect();
  }

  #watch(link) {
    clearTimeout(this.#timer);
    const restMs = link.heardMs + (link.said.ping_s * 2_500 || ANSWER_MS) - Date.now();
    if (restMs > 0) this.#timer = setTimeout(() => this.#watch(link), restMs);
    else link.end({ message: "silence" });
  }

  #drop() {
    clearTimeout(this.#timer);
    const link = this.#link;
    this.#link = undefined;
    link?.close();
  }

  #tell(state, why) {
    this.state = state;
    const text = JSON.stringify({ state, transport: this.transport, ...why });
    this.dispatchEvent(new TrackerEvent("state", text));
    if (/401$/.test(why?.code)) this.dispatchEvent(new TrackerEvent("auth", text));
  }
}

function hearEnvelope(link, text) {
  const [, name, id, data] = ENVELOPE.exec(text) ?? [];
  if (name) link.hear(name, data, id);
}

function openSocket(url, link) {
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  socket.onmessage = ({ data }) => hearEnvelope(link, data);
  socket.onclose = ({ code, reason }) => link.end({ code, message: reason });
  link.close = () => socket.close();
  link.send = (text) => socket.send(text);
}

/** An EventSource hides refusals, and the comments that show life. */
async function openEvents(url, link) {
  const end = new AbortController();
  link.close = () => end.abort();
  try {
    const { status, headers, body } = await fetch(url, { signal: end.signal, cache: "no-store" });
    const isStream = status === 200 && /^text\/event-stream/.test(headers.get("content-type"));
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += value;
      if (!isStream) continue;
      link.hear();
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").map((line) => line.split(/: (.*)/s));
        const { event, data, id, retry } = Object.fromEntries(lines);
        if (retry) link.said.after_ms = retry;
        link.hear(data && event, data, id);
      }
    }
    if (!isStream) hearEnvelope(link, rest);
    link.end({ code: isStream ? 0 : status, after_ms: headers.get("retry-after") * 1_000 });
  } catch (error) {
    link.end({ message: error.message });
  }
}
