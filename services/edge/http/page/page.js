// The live page: follows /live, keeps what it was told, and has each part drawn again when something of it changed.

import { limitText, startAsking } from "./ask.js";
import { drawCharts, dropCharts } from "./charts.js";
import { drawMap } from "./map.js";
import { drawBundles, drawFleet, drawKernels, drawLights, drawStreams } from "./tables.js";

const SILENT_MS = 8000; // the edge looks at the broker every two seconds: this long without a word is no pause
const RETRY_MS = 1000;
const PATH_MAX = 64;
const state = { told: null, path: [], skew_s: 0, edge: { away: null, heard_ms: Date.now() } };
const dirty = new Set();
const parts = {
  lights: () => drawLights(state, now()),
  kernels: () => drawKernels(state.told, now()),
  charts: () => drawCharts(state.told, now()),
  map: () => drawMap(state.told, state.path, now()),
  bundles: () => drawBundles(state.told, now()),
  streams: () => drawStreams(state.told),
  fleet: () => drawFleet(state.told, now()),
};
const changed = {
  answer: (data) => {
    push(state.told.answers, data, 64);
    keep(data.kernel, data);
    if (data.constellation_phi !== null) keep("constellation", { at_s: data.at_s, phi: data.constellation_phi, kappa: null });
    return ["kernels", "charts", "map"];
  },
  serves: (data) => (Object.assign(state.told, data), ["lights", "map"]),
  broker: (data) => ((state.told.broker = data), ["lights", "streams", "fleet", "bundles"]),
  beat: (data) => {
    const same = (each) => each.node === data.node && each.service === data.service;
    state.told.services = [...state.told.services.filter((each) => !same(each)), data];
    return ["lights", "fleet"];
  },
  applied: (data) => (push(state.told.applied, data, 64), ["bundles"]),
  bundle: (data) => (push(state.told.bundles, data, 32), ["bundles"]),
};

let source = null;

function now() {
  return Date.now() / 1000 + state.skew_s;
}

function push(list, item, most) {
  list.push(item);
  list.splice(0, list.length - most);
}

function keep(name, point) {
  const points = state.told.series[name];
  const at_s = Math.floor(point.at_s);
  if (points.length && points[points.length - 1].at_s === at_s) points.pop();
  push(points, { ...point, at_s }, state.told.limits.kept_s);
}

function redraw(...names) {
  if (!dirty.size) requestAnimationFrame(draw);
  for (const name of names) dirty.add(name);
}

function draw() {
  const names = [...dirty];
  dirty.clear();
  if (state.told) for (const name of names) parts[name]();
  else drawLights(state, now());
}

function hear(kind, event) {
  state.edge = { away: null, heard_ms: Date.now() };
  const data = JSON.parse(event.data);
  if (kind === "all") {
    state.told = data;
    state.skew_s = data.now_s - Date.now() / 1000;
    limitText(data.limits.text_max_chars);
    redraw(...Object.keys(parts));
  } else if (state.told) {
    redraw("lights", ...changed[kind](data));
  }
}

function lost() {
  state.edge.away ??= Date.now();
  redraw("lights");
  // After an answer that is no stream (the edge starts, a proxy stands in its place) the browser does not try again.
  if (source.readyState === EventSource.CLOSED) setTimeout(follow, RETRY_MS);
}

function follow() {
  source?.close();
  source = new EventSource("/live");
  for (const kind of ["all", ...Object.keys(changed)]) source.addEventListener(kind, (event) => hear(kind, event));
  source.addEventListener("error", lost);
}

document.getElementById("app").hidden = false;
document.getElementById("lights").hidden = false;
startAsking((found) => {
  push(state.path, found.distances_rad, PATH_MAX);
  redraw("map");
});
follow();
setInterval(() => {
  if (Date.now() - state.edge.heard_ms > SILENT_MS && !state.edge.away) {
    state.edge.away = state.edge.heard_ms;
    follow();
  }
  redraw("lights", "kernels", "fleet", "charts", "map");
}, 1000);
window.addEventListener("resize", () => redraw("charts"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (dropCharts(), redraw("charts")));
