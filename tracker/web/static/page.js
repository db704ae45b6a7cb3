/**
 * The page at `/`: puts the fleet, the map, the list, the messages and the stream together.
 * What the gateway sends flows one way: stream and polls → fleet → map, list, panel.
 */

import { byId, setText } from "./dom.js";
import { Fleet } from "./fleet.js";
import { VehicleList } from "./list.js";
import { VehicleMap } from "./map.js";
import { MessagePanel } from "./messages.js";
import { gapText, Notices, resumeText, upstreamText } from "./notices.js";
import { Poll } from "./poll.js";
import { StatusBar } from "./status.js";
import { Tracker } from "./tracker.js";

const DEVICES_EVERY_MS = 3_000;
/** While the list of devices is switched off: only a restart of the gateway changes that. */
const DEVICES_OFF_EVERY_MS = 30_000;
const STATS_EVERY_MS = 2_000;
/** Less than half of what the gateway takes as the head of a request. */
const STREAM_URL_MAX_CHARS = 15_000;

const api = (path) => new URL(`api/v1/${path}`, document.baseURI);

const fleet = new Fleet();
/** @type {"unknown"|"on"|"off"|"unreachable"} what the gateway's list of devices answers */
let devices = "unknown";
/** How many ids one connection may carry; the list of devices tells the gateway's setting. */
let streamIdsMax = 1_000;

const status = new StatusBar({
  onRetry: () => {
    tracker.reconnect();
    devicesPoll.ask();
  },
  onTransport: (transport) => tracker.reconnect({ transport }),
});
const notices = new Notices();
const map = new VehicleMap(byId("map"), { fleet, onPick: toggle });
const list = new VehicleList(fleet, {
  onToggle: toggle,
  onGoTo: (id) => {
    follow([id]);
    map.goTo(id);
  },
  onPoint: (id) => map.mark(id),
});
const panel = new MessagePanel({ onUnfollow: unfollow, onGoTo: (id) => map.goTo(id) });
const tracker = new Tracker(api("stream"));
const on = (name, take) => tracker.addEventListener(name, ({ data, text }) => take(data, text));
on("message", takeMessage);
on("state", (state) => {
  status.showState(state);
  notices.showState(state.state);
});
on("gap", (gap) => {
  notices.takeGap(gap);
  if (gap.device_id === null || fleet.followed.has(gap.device_id)) {
    panel.note(gapText(gap), "bad", gap.device_id ?? "");
  }
});
on("resume", (resume) => {
  notices.takeResume(resume);
  panel.note(resumeText(resume), resume.status === "continued" ? "good" : "bad");
});
on("upstream", (upstream) => {
  notices.takeUpstream(upstream);
  panel.note(upstreamText(upstream), "bad");
});

/** @returns {string[]} as many ids as one connection may carry, the followed ones first */
function streamIds() {
  const ids = [];
  let chars = api("stream").href.length;
  for (const id of fleet.ids()) {
    // The query separates ids by commas and trims them: such an id cannot be asked for.
    if (id.includes(",") || id !== id.trim()) continue;
    chars += encodeURIComponent(id).length + 1;
    if (ids.length === streamIdsMax || chars > STREAM_URL_MAX_CHARS) break;
    ids.push(id);
  }
  return ids;
}

/** Bring the stream to as many vehicles as it may carry. */
function subscribe() {
  const wanted = new Set(streamIds());
  const known = new Set(tracker.deviceIds);
  const gone = [...known].filter((id) => !wanted.has(id));
  const fresh = [...wanted].filter((id) => !known.has(id));
  if (gone.length) tracker.unsubscribe(gone);
  if (fresh.length) tracker.subscribe(fresh);
}

function takeMessage(payload, text) {
  status.countMessage();
  notices.hear();
  const known = fleet.vehicles.size;
  const vehicle = fleet.apply(payload, text, performance.now());
  if (!vehicle) return;
  if (vehicle.followed) panel.add(vehicle.id, text);
  if (fleet.vehicles.size !== known) showFleet();
  map.refresh();
}

/** Vehicles came or went, or are followed differently. @param {number} [total] */
function showFleet(total) {
  list.refresh(total);
  map.regroup();
  subscribe();
  showEmpty();
}

/** @param {string[]} ids */
function follow(ids) {
  for (const id of ids) fleet.follow(id);
  panel.show(fleet.followed);
  showFleet();
}

function unfollow(id) {
  fleet.unfollow(id);
  panel.show(fleet.followed);
  showFleet();
}

function toggle(id) {
  if (fleet.followed.has(id)) unfollow(id);
  else follow([id]);
}

/** What to say while there is no vehicle to show. */
const EMPTY = {
  unknown: { title: "Loading…", text: "" },
  on: {
    title: "Waiting for the first message on MQTT…",
    text: "Every vehicle appears here and on the map with its first message.",
  },
  off: {
    title: "This gateway does not list its vehicles",
    text: "Type device ids above to follow them. This setting shows every vehicle:",
    code: "api.devices = true",
  },
  unreachable: { title: "The gateway does not answer", text: "This page keeps trying." },
};

function showEmpty() {
  const empty = fleet.vehicles.size === 0;
  const { title, text, code = "" } = EMPTY[devices];
  byId("empty").hidden = !empty;
  setText(byId("empty-title"), title);
  setText(byId("empty-text"), text);
  setText(byId("empty-code"), code);
  byId("empty-code").hidden = code === "";
  byId("grid").classList.toggle("is-empty", empty);
  const idle = { unknown: "Starting…", on: "Waiting for vehicles", off: "Waiting for ids" };
  status.showIdle(idle[devices] ?? "Gateway unreachable");
}

const find = byId("find");
const findIds = byId("find-ids");
const typed = () => findIds.value.split(/[\s,;]+/).filter(Boolean);
findIds.addEventListener("input", () => list.filter(typed()));
find.addEventListener("submit", (event) => {
  event.preventDefault();
  const ids = typed();
  if (ids.length === 0) return;
  // A part of an id that fits just one vehicle means that vehicle.
  const only = ids.length === 1 ? list.only : null;
  follow(only === null ? ids : [only]);
  findIds.value = "";
  list.filter([]);
});

const devicesPoll = new Poll(api("devices"), DEVICES_EVERY_MS, ({ status: code, body }) => {
  if (code === 200 && Array.isArray(body?.devices)) {
    devices = "on";
    const total = Number(body.total) || body.devices.length;
    streamIdsMax = Number(body.max_device_ids) || streamIdsMax;
    fleet.merge(body.devices, body.devices.length >= total, performance.now());
    showFleet(total);
    return undefined;
  }
  devices = code === 404 ? "off" : "unreachable";
  showEmpty();
  return code === 404 ? DEVICES_OFF_EVERY_MS : undefined;
});

new Poll(api("stream/stats"), STATS_EVERY_MS, ({ status: code, body }) => {
  status.showFigures(code === 200 ? body : null);
});
