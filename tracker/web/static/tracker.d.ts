/**
 * The JavaScript client of a tracker gateway: live messages of many devices on one connection,
 * WebSocket or SSE, that resumes where it was cut.
 *
 *   import { Tracker } from "/tracker.js";
 *
 *   const tracker = new Tracker("/api/v1/stream", { deviceIds: ["848"], last: true });
 *   tracker.addEventListener("message", ({ data, text, lastEventId }) => …);
 *   tracker.addEventListener("gap", ({ data }) => warn(`${data.dropped} messages lost`));
 *   tracker.subscribe("849");
 *
 * Law: no message is passed on twice, and none is missing without an event that says so: `gap`,
 * `resume` with "partial" or "reset", or `upstream`. What a device is missing is counted from
 * the moment in which the gateway acknowledges its subscription.
 *
 * It connects anew with growing pauses, after the pause that the gateway asks for, when the
 * network is back, when the page becomes visible, and when nothing came for 2.5 times the
 * announced `ping`. It does not after a refusal that would only be repeated: then the state is
 * "closed" until `reconnect()`, `subscribe()` or `unsubscribe()`.
 */

/** What the constructor takes beside the address. */
export interface TrackerOptions {
  /** Devices to begin with. */
  deviceIds?: string | number | readonly (string | number)[];
  /**
   * "auto", the default: WebSocket, and SSE where no WebSocket ever worked.
   */
  transport?: "auto" | "websocket" | "sse";
  /** Where an earlier tracker of the same devices ended: go on from there. */
  lastEventId?: string;
  /** Every device first with its last known message, as a `snapshot` event. */
  last?: boolean;
  /**
   * Every device first with its messages of this time ("15m", "90s"), as `track` events.
   * Over SSE, `last` and `track` are for the devices that the tracker begins with.
   */
  track?: string;
  /** "latest": of what waits while we are too slow, only the newest message of each device. */
  mode?: "latest" | "drop_old" | "drop_new";
  /** At most so many messages a second of each device. */
  max_rate?: number;
  /** Seconds between two signs of life, 5 to 300; 20 unless told; 0: as the gateway has it. */
  ping?: number;
  /** Any other parameter of the stream, by its name there. */
  [parameter: string]: unknown;
}

/** An event of the gateway, or of the tracker itself. */
export declare class TrackerEvent<Data = unknown> extends Event {
  constructor(type: string, text: string, lastEventId?: string);
  /** The JSON text as it was sent: all digits of every number are here. */
  readonly text: string;
  /** The same as a value, parsed when it is first asked for. */
  readonly data: Data;
  /** Where the stream stands with this message; "" for all that is no live message. */
  readonly lastEventId: string;
}

/** A message of a device, in the gateway's envelope; what a device sends is its own. */
export interface Message<Fields = Record<string, any>> {
  timestamp: string;
  data: Fields;
}

/** The connection changed. */
export interface State {
  state: "idle" | "connecting" | "live" | "waiting" | "closed";
  transport: "websocket" | "sse";
  /** waiting, closed: the close code, or the HTTP status; 0 or none where there was neither. */
  code?: number;
  /** waiting, closed: what the gateway said. */
  message?: string;
  /** waiting: milliseconds until the next try. */
  afterMs?: number;
}

export interface Refusal {
  message: string;
  /** Of the operation that failed. */
  ref?: number;
}

/** Every event, by its name, with its `data`. Events of later gateways come by their names. */
export interface TrackerEvents {
  message: Message;
  snapshot: Message;
  track: Message;
  /** Lost, here in the stream, of one device; of devices that nobody knows when it is null. */
  gap: { device_id: string | null; dropped: number; reason: string };
  /** The first event after a cut; `missed` follow as messages where that is known. */
  resume: { status: "continued" | "partial" | "reset"; missed: number | null; position: string };
  /** The gateway lost its broker, or has it again. */
  upstream: { connected: boolean };
  /** The gateway changed how it deals with a client that is too slow. */
  mode: { mode: string; reason: string };
  state: State;
  /** The gateway refuses something. */
  error: Refusal;
  /** The token is missing or over: call `reconnect({ url })` with a new one. */
  auth: State;
  hello: { version: string; ping_s: number; buffer: number; position: string };
  ack: { op: string; ref?: number; position?: string };
  ping: { type: string };
  reconnect: { after_ms: number; reason: string };
  closed: { code: number; message: string };
}

type Listener<Data> =
  | ((event: TrackerEvent<Data>) => unknown)
  | { handleEvent(event: TrackerEvent<Data>): unknown };

export declare class Tracker extends EventTarget {
  /** It connects at once. @param url of the stream, relative to the page */
  constructor(url: string | URL, options?: TrackerOptions);

  readonly state: State["state"];
  /** The one in use. */
  readonly transport: State["transport"];
  /** Where the stream stands; keep it, before `close()`, to go on from here later. */
  readonly lastEventId: string;
  readonly deviceIds: string[];

  /**
   * Add devices, on the live connection; over SSE by a new one that resumes.
   * @throws TypeError for what cannot be a device id: empty, with a comma or outer space
   */
  subscribe(deviceIds: string | number | readonly (string | number)[]): void;
  /** Take devices away; without any there is no connection. What is on its way may still come. */
  unsubscribe(deviceIds: string | number | readonly (string | number)[]): void;
  /** Connect anew, now, and resume; with another address or transport if given. */
  reconnect(changes?: { url?: string | URL; transport?: TrackerOptions["transport"] }): void;
  /** End it for good. */
  close(): void;

  addEventListener<Name extends keyof TrackerEvents>(
    type: Name,
    listener: Listener<TrackerEvents[Name]>,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: Listener<unknown> | null,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<Name extends keyof TrackerEvents>(
    type: Name,
    listener: Listener<TrackerEvents[Name]>,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(
    type: string,
    listener: Listener<unknown> | null,
    options?: boolean | EventListenerOptions,
  ): void;
}
