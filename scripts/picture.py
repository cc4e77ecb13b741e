"""Draws a dashboard of deploy/grafana as a PNG, with matplotlib, from a Prometheus that scrapes a constellation.

    python scripts/picture.py constellation docs/dashboard-constellation.png --url http://127.0.0.1:9090 --minutes 15

The queries, places, units, bands and colours are those that Grafana reads; the drawing is ours, not Grafana's.
"""

import argparse
import io
import json
import urllib.parse
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib import dates, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

BOARDS: Final = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards"
POINTS: Final = 240  # of a line
COLUMN_INCHES: Final = 0.62  # of Grafana's grid of 24
ROW_INCHES: Final = 0.3
PALETTE: Final = 128  # colours of the file: half of its size
HEAD_ROWS: Final = 2  # for the title of the board
COLOURS: Final = {
    "transparent": "none",
    "text": "#333333",
    "orange": "#ff9830",
    "yellow": "#e8c32e",
    "green": "#56a64b",
    "red": "#e02f44",
    "blue": "#3274d9",
    "purple": "#a352cc",
}
MARGINS: Final = {  # of a panel's axes: of the board's width to the left, in rows below and above
    "timeseries": (0.042, 2.1, 1.8),
    "heatmap": (0.042, 2.1, 1.8),
    "state-timeline": (0.085, 0.8, 1.8),
    "stat": (0.012, 0.3, 1.0),
}
UNITS: Final = {"s": "s", "Bps": "B/s", "reqps": "per second", "radian": "rad", "bytes": "bytes"}

Rows = list[tuple[str, np.ndarray, np.ndarray]]  # of a query: name, times as matplotlib counts, values


class Source:
    """A Prometheus, asked for the last minutes."""

    def __init__(self, url: str, minutes: float) -> None:
        self._url = url
        self.end_s = float(self._get("query", query="time()")["result"][1])
        self.start_s = self.end_s - 60 * minutes
        self._step_s = max(5.0, 60 * minutes / POINTS)
        self.step_days = self._step_s / 86_400

    def rows(self, target: dict[str, Any]) -> Rows:
        """What one query of a panel gives, each row under its legend's name."""
        expression = target["expr"].replace("$__rate_interval", "1m")
        found = self._get("query_range", query=expression, start=self.start_s, end=self.end_s, step=self._step_s)
        return [(named(target, row["metric"]), *_points(row["values"])) for row in found["result"]]

    def _get(self, path: str, **given: object) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(given)}", timeout=60) as answer:
            return json.load(answer)["data"]


def named(target: dict[str, Any], labels: dict[str, str]) -> str:
    """The legend's text, with the row's labels in it."""
    name = str(target.get("legendFormat") or "")
    for label, value in labels.items():
        name = name.replace("{{" + label + "}}", value)
    return name


def _points(values: Sequence[tuple[float, str]]) -> tuple[np.ndarray, np.ndarray]:
    at, value = np.array([(float(at), float(value)) for at, value in values]).T
    return dates.date2num([datetime.fromtimestamp(each, UTC) for each in at]), value


def draw(board: dict[str, Any], source: Source) -> Figure:
    """The whole board."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"]) + HEAD_ROWS
    figure = Figure(figsize=(24 * COLUMN_INCHES, rows * ROW_INCHES), facecolor="#f4f5f5")
    figure.text(0.012, 1 - 0.6 * HEAD_ROWS / rows, board["title"], size=15, weight="bold", va="center")
    figure.text(0.14, 1 - 0.6 * HEAD_ROWS / rows, board["description"], size=9.5, color="#666666", va="center")
    notes = [row for note in board["annotations"]["list"] for row in source.rows(note)]
    released = [at for _, times, _ in notes for at in times[np.diff(times, prepend=-np.inf) > source.step_days * 1.5]]
    for panel in board["panels"]:
        place = panel["gridPos"]
        left, bottom = place["x"] / 24, 1 - (HEAD_ROWS + place["y"] + place["h"]) / rows
        if panel["type"] == "row":
            figure.text(left + 0.012, bottom + 0.35 / rows, panel["title"], size=11, weight="bold", color="#444444")
            continue
        frame = (place["w"] / 24 - 0.008, (place["h"] - 0.24) / rows)
        figure.patches.append(
            mpl.patches.Rectangle(
                (left + 0.004, bottom + 0.12 / rows), *frame, transform=figure.transFigure, facecolor="white",
                edgecolor="#dddddd", zorder=-1,
            )
        )  # fmt: skip
        top = bottom + place["h"] / rows
        figure.text(left + 0.01, top - 0.75 / rows, panel["title"], size=9.5, weight="bold", color="#333333")
        indent, foot, head = MARGINS[panel["type"]]
        width, height = place["w"] / 24 - indent - 0.012, place["h"] - foot - head
        axes = figure.add_axes((left + indent, bottom + foot / rows, width, height / rows))
        found = [row for target in panel["targets"] for row in source.rows(target)]
        DRAWN[panel["type"]](axes, panel, found, source)
        if panel["type"] in ("timeseries", "heatmap"):
            for at in released:
                axes.axvline(at, color=COLOURS["purple"], linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
    return figure


def _frame(axes: Axes, source: Source) -> None:
    axes.set_xlim(*dates.date2num([datetime.fromtimestamp(each, UTC) for each in (source.start_s, source.end_s)]))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=5))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))
    axes.tick_params(labelsize=7, length=2, color="#bbbbbb", labelcolor="#666666")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cccccc")


def _empty(axes: Axes, panel: dict[str, Any]) -> None:
    word = panel["fieldConfig"]["defaults"].get("noValue", "")
    axes.text(0.5, 0.5, word, transform=axes.transAxes, ha="center", va="center", size=9, color="#999999")
    axes.set_yticks([])


def _lines(axes: Axes, panel: dict[str, Any], found: Rows, source: Source) -> None:
    _frame(axes, source)
    defaults = panel["fieldConfig"]["defaults"]
    if not any(np.isfinite(values).any() for _, _, values in found):
        _empty(axes, panel)
        return
    for number, (name, times, values) in enumerate(found):
        gap = np.flatnonzero(np.diff(times) > 3 * np.median(np.diff(times)) if len(times) > 2 else [])
        at, shown = np.insert(times, gap + 1, np.nan), np.insert(values, gap + 1, np.nan)
        mark = "." if len(times) == 1 else None
        axes.plot(at, shown, linewidth=1.3, label=name, color=f"C{number % 10}", marker=mark, markersize=3, zorder=3)
    if defaults.get("custom", {}).get("scaleDistribution", {}).get("type") == "log":
        axes.set_yscale("log")
        _decades(axes, found)
    else:
        low, high = axes.get_ylim()
        is_flat = not np.nan_to_num(np.concatenate([values for _, _, values in found])).any()
        axes.set_ylim(defaults.get("min", low), defaults.get("max", 1.0 if is_flat else high))
        axes.yaxis.set_major_locator(ticker.MaxNLocator(4, min_n_ticks=2))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _short(value, defaults["unit"])))
    _bands(axes, defaults)
    unit = UNITS.get(defaults["unit"], defaults["unit"].removeprefix("suffix: "))
    if unit not in ("none", "short", "sci", "percentunit"):
        axes.set_title(unit, size=7, color="#888888", loc="left", pad=2)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.6)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Under the labels of time, in as many columns as there is room for, three rows at most."""
    handles, labels = axes.get_legend_handles_labels()
    room = axes.get_position().width * 24 * COLUMN_INCHES
    columns = max(1, int(room / (0.3 + 0.055 * max(map(len, labels)))))
    columns = min(columns, len(labels))
    shown = columns * 3
    axes.legend(
        handles[:shown], labels[:shown], loc="upper left", bbox_to_anchor=(-0.03, 0.0), bbox_transform=_below(axes),
        ncols=columns, fontsize=6.5, frameon=False, handlelength=1.1, columnspacing=0.9, borderaxespad=0.0,
        labelspacing=0.2,
    )  # fmt: skip


def _below(axes: Axes) -> mpl.transforms.Transform:
    """From the axes' own, as high as the labels of time are, downwards."""
    return axes.transAxes + mpl.transforms.ScaledTranslation(0, -0.22, axes.figure.dpi_scale_trans)


def _decades(axes: Axes, found: Rows) -> None:
    """At least one whole decade, so that a flat line has an axis."""
    values = np.concatenate([values[values > 0] for _, _, values in found])
    low, high = np.floor(np.log10(values.min())), np.ceil(np.log10(values.max()))
    axes.set_ylim(10 ** (low if low < high else low - 1), 10**high * (1 if low < high else 10))


def _bands(axes: Axes, defaults: dict[str, Any]) -> None:
    if "thresholdsStyle" not in defaults.get("custom", {}):
        return
    low, high = axes.get_ylim()
    steps = defaults["thresholds"]["steps"]
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        start = low if step["value"] is None else step["value"]
        end = high if after is None else after["value"]
        colour = COLOURS[step["color"]]
        if colour != "none" and start < high and end > low:
            axes.axhspan(max(start, low), min(end, high), color=colour, alpha=0.09, linewidth=0, zorder=0)
        if step["value"] is not None and low < start < high and colour != "none":
            axes.axhline(start, color=colour, linewidth=0.6, alpha=0.7, zorder=2)
    axes.set_ylim(low, high)


def _short(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit == "s" and 0 < value < 1:
        return f"{1000 * value:.3g} m"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g} k"
    return f"{value:.4g}"


def _number(axes: Axes, panel: dict[str, Any], found: Rows, _: Source) -> None:
    axes.axis("off")
    if not found:
        _empty(axes, panel)
        return
    value = float(found[0][2][-1])
    colour = "text"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    axes.text(
        0.5,
        0.45,
        f"{value:.3g}",
        transform=axes.transAxes,
        size=24,
        weight="bold",
        color=COLOURS[colour],
        ha="center",
        va="center",
    )


def _states(axes: Axes, panel: dict[str, Any], found: Rows, source: Source) -> None:
    _frame(axes, source)
    if not found:
        _empty(axes, panel)
        return
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    words = {float(value): each for value, each in mapping["options"].items()}
    step = np.median(np.diff(found[0][1])) if len(found[0][1]) > 1 else 1e-4
    for row, (_, times, values) in enumerate(found):
        for at, value in zip(times, values, strict=True):
            axes.broken_barh(
                [(at, step * 1.02)], (row - 0.4, 0.8), facecolor=COLOURS[words[value]["color"]], alpha=0.85
            )
    axes.set_yticks(range(len(found)), [name for name, _, _ in found], size=6.5)
    axes.set_ylim(len(found) - 0.4, -0.6)
    handles = [mpl.patches.Patch(color=COLOURS[each["color"]], label=each["text"]) for each in words.values()]
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize=6.5, frameon=False)


def _heat(axes: Axes, panel: dict[str, Any], found: Rows, source: Source) -> None:
    _frame(axes, source)
    ordered = sorted(found, key=lambda row: float(row[0]))
    if not ordered:
        _empty(axes, panel)
        return
    times = sorted({at for _, row, _ in ordered for at in row})
    table = np.zeros((len(ordered), len(times)))
    for row, (_, at, values) in enumerate(ordered):
        table[row, np.searchsorted(times, at)] = np.nan_to_num(values)
    each = np.diff(table, axis=0, prepend=0.0)
    axes.pcolormesh(
        times, range(len(ordered)), np.ma.masked_less(each, 1e-9), cmap="Oranges", shading="nearest", vmin=0
    )
    axes.set_yticks(range(len(ordered)), [name.removesuffix(".0") for name, _, _ in ordered])


DRAWN: Final = {"timeseries": _lines, "stat": _number, "state-timeline": _states, "heatmap": _heat}


def main() -> None:
    """The command line above."""
    asked = argparse.ArgumentParser(description="Draws a dashboard from a Prometheus.")
    asked.add_argument("board", choices=sorted(path.stem for path in BOARDS.glob("*.json")))
    asked.add_argument("file", type=Path)
    asked.add_argument("--url", default="http://127.0.0.1:9090")
    asked.add_argument("--minutes", type=float, default=15.0)
    given = asked.parse_args()
    board = json.loads((BOARDS / f"{given.board}.json").read_text(encoding="utf-8"))
    held = io.BytesIO()
    draw(board, Source(given.url, given.minutes)).savefig(held, dpi=100)
    Image.open(held).convert("RGB").quantize(PALETTE).save(given.file, optimize=True)
    print(f"wrote {given.file}")


if __name__ == "__main__":
    main()
