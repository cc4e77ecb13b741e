// The map of the basins: the homes where the edge's atlas has them, and texts where their distances put them
// (services/edge/atlas.py says how, and how much of the homes' spread two axes show).

import { byId, draw } from "./dom.js";

const WIDTH = 400;
const HEIGHT = 320;
const EDGE = 40;

export function drawMap(told, path, now_s) {
  const map = told.map;
  if (!map) {
    byId("map").replaceChildren();
    byId("map-note").textContent = "No bundle serves yet.";
    return;
  }
  const far = (answer) => Object.fromEntries(answer.route.map((step) => [step.domain, step.distance_rad]));
  const lately = told.answers.filter((each) => now_s - each.at_s <= told.limits.kept_s);
  const others = lately.map((each) => ({ kernel: each.kernel, at: place(map, far(each)) })).filter((each) => each.at);
  const own = path.map((distances) => place(map, distances)).filter(Boolean);
  const view = viewOf([...map.places, ...others.map((each) => each.at), ...own]);
  const roles = rolesOf(told);
  byId("map").replaceChildren(
    scale(view),
    ...others.map(({ kernel, at }) => dot(view, at, `dot ${kernel}`, 3)),
    draw("polyline", { class: "path", points: own.map((at) => view.to(at).join(" ")).join(" ") }),
    ...own.slice(0, -1).map((at) => dot(view, at, "step", 3)),
    ...map.places.flatMap((at, n) => home(view, at, map.names[n], roles[map.names[n]] ?? map.names[n])),
    ...own.slice(-1).map((at) => dot(view, at, "here", 6)),
  );
  byId("map-note").textContent =
    `Large: homes of the domains. Small: what was lately asked here. ` +
    (own.length > 1 ? `Line: your ${own.length} questions. ` : "") +
    (own.length ? `${ink()} dot: your ${own.length > 1 ? "last " : ""}question. ` : "") +
    `Fisher-Rao distances on two axes, which show ${Math.round(100 * map.shown)} % of the homes’ spread.`;
}

// A text's place: -1/2 A (d^2 - mean d^2); null where a home's distance is not told, as after a new domain.
function place(map, far) {
  if (map.names.some((name) => !(name in far))) return null;
  const lean = map.names.map((name, n) => far[name] ** 2 - map.mean_square[n]);
  return map.axes.map((weights) => -0.5 * weights.reduce((sum, weight, n) => sum + weight * lean[n], 0));
}

function ink() {
  return matchMedia("(prefers-color-scheme: dark)").matches ? "White" : "Black";
}

function rolesOf(told) {
  return Object.fromEntries(told.answers.flatMap((each) => each.route.map((step) => [step.domain, step.kernel])));
}

function viewOf(points) {
  const [xs, ys] = [0, 1].map((axis) => points.map((at) => at[axis]));
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const unit = Math.min((WIDTH - 2 * EDGE) / Math.max(right - left, 0.1), (HEIGHT - 2 * EDGE) / Math.max(high - low, 0.1));
  const to = ([x, y]) => [
    Math.round(WIDTH / 2 + (x - (left + right) / 2) * unit),
    Math.round(HEIGHT / 2 - (y - (low + high) / 2) * unit),
  ];
  return { unit, to };
}

function dot(view, at, className, r) {
  const [cx, cy] = view.to(at);
  return draw("circle", { class: className, cx, cy, r });
}

function home(view, at, name, role) {
  const [x, y] = view.to(at);
  return [
    draw("circle", { class: `home ${role}`, cx: x, cy: y, r: 8 }),
    draw("text", { x, y: y - 13, "text-anchor": "middle" }, name),
  ];
}

function scale(view) {
  const length = 0.1 * view.unit;
  const y = HEIGHT - 8;
  return draw("g", {}, draw("path", { class: "axis", d: `M8 ${y}h${length}` }), draw("text", { class: "soft", x: 14 + length, y: y + 4 }, "0.1 rad"));
}
