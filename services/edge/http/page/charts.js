// Φ and κ of the last quarter of an hour, a line a kernel.

import { byId } from "./dom.js";

const KAPPA_TOP = 100; // a loop reads thousands: its line leaves the chart, where an arrow with its figure stands
const KAPPA_FAR = 1e6; // what a canvas can still draw a line to
const ARROW_PX = 5;
const HEIGHT = 200;
const SPAN_MIN_S = 60;
const GAP_S = 60;
let charts = null;

export function drawCharts(told, now_s) {
  charts ??= { phi: chart("phi", told, phiHooks(told)), kappa: chart("kappa", told, kappaHooks(told)) };
  for (const [name, plot] of Object.entries(charts)) {
    const width = byId(name).clientWidth;
    if (width !== plot.width) plot.setSize({ width, height: HEIGHT });
    plot.batch(() => {
      plot.setData(columns(told, name), false);
      plot.setScale("x", { min: beginning(told, now_s), max: now_s });
    });
  }
}

// From the first answer on, a minute at least: a young edge's curves are not pressed against the right end.
function beginning(told, now_s) {
  const firsts = Object.values(told.series).map((points) => points[0]?.at_s ?? now_s);
  return Math.max(now_s - told.limits.kept_s, Math.min(now_s - SPAN_MIN_S, ...firsts));
}

export function dropCharts() {
  for (const plot of Object.values(charts ?? {})) plot.destroy();
  charts = null;
}

function columns(told, quantity) {
  const shown = (value) => (value === null || quantity === "phi" ? value : Math.min(value, KAPPA_FAR));
  const tables = Object.values(told.series).map((points) => {
    const [times, values] = [[], []];
    for (const point of points) {
      if (times.length && point.at_s - times[times.length - 1] > GAP_S) {
        times.push(times[times.length - 1] + 1);
        values.push(null); // the line ends here: nothing was answered for a while
      }
      times.push(point.at_s);
      values.push(shown(point[quantity]));
    }
    return [times, values];
  });
  return uPlot.join(tables);
}

function chart(name, told, hooks) {
  const ink = colour("--soft");
  const grid = { stroke: colour("--line"), width: 1 };
  const series = Object.keys(told.series).map((kernel) => ({
    label: kernel,
    stroke: colour(kernel === "constellation" ? "--ink" : `--${kernel}`),
    width: kernel === "constellation" ? 1 : 2,
    dash: kernel === "constellation" ? [4, 4] : undefined,
    points: { show: true, size: 4 },
  }));
  const options = {
    width: byId(name).clientWidth,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: true }, y: { range: name === "phi" ? (_, least) => [least < 0.5 ? 0 : 0.5, 1] : [0, KAPPA_TOP] } },
    axes: [
      { stroke: ink, grid, ticks: grid, size: 34, space: 70, values: [[60, "{HH}:{mm}"], [1, "{HH}:{mm}:{ss}"]] },
      { stroke: ink, grid, ticks: grid, size: 48 },
      ...(name === "kappa" ? [phases(told, ink)] : []),
    ],
    series: [{}, ...series],
    hooks,
  };
  return new uPlot(options, uPlot.join(Object.keys(told.series).map(() => [[], []])), byId(name));
}

function phiHooks(told) {
  const [low, high] = told.limits.phi_window;
  return {
    drawClear: [
      (plot) => {
        const { left, width } = plot.bbox;
        const top = plot.valToPos(high, "y", true);
        plot.ctx.fillStyle = colour("--band");
        plot.ctx.fillRect(left, top, width, plot.valToPos(low, "y", true) - top);
      },
    ],
  };
}

function kappaHooks(told) {
  return {
    drawClear: [
      (plot) => {
        const { left, width } = plot.bbox;
        plot.ctx.fillStyle = colour("--soft");
        for (const bound of told.limits.phase_bounds) {
          plot.ctx.fillRect(left, Math.round(plot.valToPos(bound, "y", true)), width, Math.ceil(devicePixelRatio));
        }
      },
    ],
    draw: [drawArrows],
  };
}

// What is above the chart: an arrow at its top, and below the last of each kernel how much it is.
function drawArrows(plot) {
  const { ctx, bbox, data } = plot;
  const px = ARROW_PX * devicePixelRatio;
  const middle = bbox.left + bbox.width / 2;
  ctx.save();
  ctx.font = `${2.2 * px}px system-ui, sans-serif`;
  ctx.textBaseline = "top";
  let lines = 0;
  plot.series.slice(1).forEach((series, n) => {
    const values = data[n + 1];
    ctx.fillStyle = series.stroke();
    const last = values.findLastIndex((value) => value !== null && value !== undefined);
    values.forEach((value, i) => {
      const x = plot.valToPos(data[0][i], "x", true);
      if (!(value > KAPPA_TOP) || x < bbox.left) return;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x - px, bbox.top + 1.6 * px);
      ctx.lineTo(x + px, bbox.top + 1.6 * px);
      ctx.fill();
      if (i !== last) return;
      ctx.textAlign = x > middle ? "right" : "left";
      ctx.fillText(Math.round(value).toLocaleString("en"), x + (x > middle ? px : -px), bbox.top + (2 + 2.4 * lines) * px);
      lines += 1;
    });
  });
  ctx.restore();
}

// The names of the phases at the right, each in the middle of its range.
function phases(told, ink) {
  const bounds = [0, ...told.limits.phase_bounds, KAPPA_TOP];
  const middles = told.limits.phases.map((_, index) => (bounds[index] + bounds[index + 1]) / 2);
  return {
    side: 1,
    scale: "y",
    stroke: ink,
    size: 78,
    font: "11px system-ui, sans-serif",
    grid: { show: false },
    ticks: { show: false },
    splits: () => middles,
    values: () => told.limits.phases,
  };
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
