// What stands in tables, the lights of the head, and the bundles' time line.

import { ago, byId, cell, draw, make, row, size, word } from "./dom.js";

const SHOWN_BUNDLES = 12;
const PHI_TOKENS = 512; // the estimator's least (common/constants.py); the page's tests hold the two together
const PHI_UNKNOWN = `Φ is not known before a kernel has gone through ${PHI_TOKENS} tokens since this edge started: some answers, or one long text.`;
let health = null; // what the news line said last: "" when all is well

export function drawLights(state, now_s) {
  const broker = state.told?.broker;
  const silent = state.told ? silentOf(state.told, now_s) : [];
  light("edge", state.edge.away ? "bad" : state.told?.bundle ? "good" : "warn", state.told?.node ?? "edge");
  light("broker", state.edge.away || !broker?.at_s ? "warn" : broker.away ? "bad" : "good", "broker");
  light("fleet", state.edge.away || broker?.away ? "warn" : silent.length ? "bad" : "good", "fleet");
  if (state.edge.away) say("This edge does not answer. Trying again.", "edge");
  else if (broker?.away)
    say(`The broker is away: ${broker.away}. Questions asked here are answered; those by stream wait.`, "broker");
  else if (silent.length) say(`No sign of life from ${silent.map((each) => each.node).join(", ")}.`, "fleet");
  else if (state.told && !state.told.bundle) say("Waits for the first bundle.", "bundle");
  else say(health ? "All is well again." : health === null ? "" : byId("news").textContent, "");
  if (state.told)
    byId("who").textContent = `${state.told.node}, bundle ${state.told.bundle}; of the last ${state.told.limits.kept_s / 60} minutes.`;
}

export function drawKernels(told, now_s) {
  const rows = Object.entries(told.series).map(([name, points]) => {
    const last = points[points.length - 1];
    const phi = cell(last?.phi, 2, PHI_UNKNOWN + soFar([[name, points]]));
    const [phase, kappa] =
      name === "constellation" ? ["", ""] : [last?.phase ?? "–", cell(last?.kappa, 1, "not known yet: too few tokens")];
    return row(word(name, `swatch ${name}`), word(phase), phi, kappa, last ? ago(now_s - last.at_s) : "none yet");
  });
  byId("kernels").replaceChildren(...rows);
  byId("phi-note").hidden = Object.values(told.series).every((points) => points[points.length - 1]?.phi != null);
  byId("phi-note").textContent = PHI_UNKNOWN + soFar(Object.entries(told.series));
  byId("phase-note").textContent = phaseNote(told.limits);
}

// How far the kernels are whose phi is not known yet.
function soFar(series) {
  const ends = series.map(([name, points]) => [name, points[points.length - 1]]);
  const counts = ends.filter(([, last]) => last?.phi === null && last.phi_n < PHI_TOKENS).map(([name, last]) => `${name} ${last.phi_n}`);
  return counts.length ? ` So far: ${counts.join(", ")}.` : "";
}

function phaseNote({ phases: [foam, tacking, crystal, fracture], phase_bounds: [loose, firm, fast], phi_window: [, most] }) {
  return (
    `Phase, how firmly κ says that a kernel holds its direction: ${foam} below ${loose}, it drifts; ${tacking} below ${firm}, ` +
    `it turns; ${crystal} to ${fast}, it holds; ${fracture} above that, or where Φ is above ${most}: too firmly, and it is ` +
    `loosened again. d-…: a domain that the fleet has opened for texts far from all others.`
  );
}

export function drawStreams(told) {
  const rows = told.broker.streams.map((each) => {
    const dead = make("td", { className: each.dead ? "n bad" : "n" }, ` ${each.dead}`);
    const lag = each.lag === null ? "?" : String(each.lag);
    return row(word(each.stream.replace("qig:", "")), String(each.length), lag, String(each.pending), dead, String(each.outbox));
  });
  byId("streams").replaceChildren(...(rows.length ? rows : [row(make("td", { colSpan: 6 }, "not read yet"))]));
}

export function drawFleet(told, now_s) {
  const late = silentOf(told, now_s);
  const rows = livelyOf(told, now_s)
    .sort((a, b) => a.node.localeCompare(b.node))
    .map((each) => {
      const [mark, text] = late.includes(each) ? ["bad", "silent"] : each.ready ? ["good", "ready"] : ["warn", "not ready"];
      const fresh = each.service === "edge" ? size(each.fresh_bytes) : "";
      return row(word(each.node, "name"), word(text, `mark ${mark}`), String(each.bundle), ago(now_s - each.at_s), fresh);
    });
  byId("fleet").replaceChildren(...(rows.length ? rows : [row(make("td", { colSpan: 5 }, none(told, "no heartbeat yet")))]));
}

export function drawBundles(told, now_s) {
  const bundles = told.bundles.slice(-SHOWN_BUNDLES);
  drawLine(bundles.map((bundle) => ({ version: bundle.version, figures: [...bundle.figures, ...ownOf(told, bundle)] })));
  const rows = bundles.reverse().flatMap((bundle) => [
    ...bundle.figures.map((each, n) =>
      row(n ? "" : String(bundle.version), word(`${each.domain}, held out`, `swatch name ${shade(each.domain)}`), bits(each.before), bits(each.after), n ? "" : ago(now_s - bundle.at_s)),
    ),
    ...told.applied
      .filter((each) => each.version === bundle.version)
      .map((each) => {
        const good = ["applied", "good"].includes(each.verdict);
        const text = `${each.node}: ${each.verdict}${good ? "" : `, ${each.reason}`}`;
        const what = word(text, good ? "mark good name" : "mark bad reason");
        return row("", what, bits(each.probe_before), bits(each.probe_after), ago(now_s - each.at_s));
      }),
  ]);
  byId("bundles").replaceChildren(...(rows.length ? rows : [row("", word(none(told, "none yet")))]));
}

// Before the first look at the broker nobody knows that there is none.
function none(told, words) {
  return told.broker.at_s ? words : "not read yet";
}

// What edges read on their own text: for them alone, so it stands beside the held-out figures of all.
function ownOf(told, bundle) {
  const tried = told.applied.filter((each) => each.version === bundle.version && ["applied", "refused"].includes(each.verdict) && each.probe_after !== null);
  return tried.map((each) => ({ domain: `own text of ${each.node}`, before: each.probe_before, after: each.probe_after }));
}

function bits(value) {
  return value === null ? "" : value.toFixed(3);
}

function drawLine(bundles) {
  const [width, height, left, foot] = [400, 200, 40, 24];
  const values = bundles.flatMap((bundle) => bundle.figures.flatMap((each) => [each.before, each.after])).filter((v) => v !== null);
  byId("bundle-line").style.display = byId("bundles-note").style.display = values.length ? "" : "none";
  if (!values.length) return;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = Math.max(0.1 * (high - low), 0.05);
  const y = (value) => 10 + ((high + margin - value) / (high - low + 2 * margin)) * (height - foot - 10);
  const x = (n, k, count) => left + ((n + 0.5 + (count > 1 ? 0.5 * (k / (count - 1) - 0.5) : 0)) * (width - left)) / bundles.length;
  const marks = ticks(low - margin, high + margin).flatMap((value) => [
    draw("path", { class: "axis", d: `M${left} ${y(value)}H${width}` }),
    draw("text", { class: "soft", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)),
  ]);
  const drawn = bundles.flatMap((bundle, n) => [
    draw("text", { class: "soft", x: x(n, 0, 1), y: height - 6, "text-anchor": "middle" }, `bundle ${bundle.version}`),
    ...bundle.figures.flatMap((each, k) => {
      const at = x(n, k, bundle.figures.length);
      const after = draw("circle", { class: "after", cx: at, cy: y(each.after), r: 4 });
      const before = each.before === null ? [] : [
        draw("path", { class: "change", d: `M${at} ${y(each.before)}V${y(each.after)}` }),
        draw("circle", { class: "before", cx: at, cy: y(each.before), r: 4 }),
      ];
      const told = `bundle ${bundle.version}, ${each.domain}: ${bits(each.before)} to ${bits(each.after)} bits per byte`;
      return [draw("g", { class: shade(each.domain) }, ...before, after, draw("title", {}, told))];
    }),
  ]);
  byId("bundle-line").replaceChildren(...marks, ...drawn);
}

function ticks(low, high) {
  const step = [0.1, 0.2, 0.5, 1, 2].find((each) => (high - low) / each <= 6) ?? 5;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, n) => (first + n) * step);
}

function shade(domain) {
  return ["vocab", "strategy", "percept", "heart"].includes(domain) ? domain : "constellation";
}

// Services that were heard of at all: one that was taken away is no longer missed.
function livelyOf(told, now_s) {
  return told.services.filter((each) => now_s - each.at_s <= told.limits.kept_s);
}

function silentOf(told, now_s) {
  return livelyOf(told, now_s).filter((each) => now_s - each.at_s > told.limits.silent_s);
}

function light(id, className, text) {
  byId(`light-${id}`).className = className;
  const words = { good: "", warn: " not known", bad: " down" };
  const shown = text + (id === "edge" && className === "warn" ? " waits" : words[className]);
  if (byId(`light-${id}`).textContent !== shown) byId(`light-${id}`).textContent = shown;
}

function say(text, what) {
  const line = byId("news");
  line.className = what ? "bad" : "";
  // A count of seconds is no news: a screen reader hears of a change, not of every second.
  if (health !== what) line.textContent = text;
  health = what;
}
