"""How a panel looks, and how a board is laid out: rows of panels of equal width. Where a panel has no data it says so.

Each takes a title, a text that says what is shown, a unit and queries; ids and places follow from the order.
"""

import json
from collections.abc import Sequence
from itertools import count
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common as looks
from grafana_foundation_sdk.builders import dashboard, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    ScaleDistribution,
    SortOrder,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    FieldColorModeId,
    GridPos,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

SOURCE: Final = DataSourceRef("prometheus", "prometheus")
TAG: Final = "qig"
WIDTH: Final = 24  # of Grafana's grid
NOTHING: Final = "no traffic"

Panel = timeseries.Panel | stat.Panel | statetimeline.Panel | heatmap.Panel
Kind = TypeVar("Kind", timeseries.Panel, stat.Panel, statetimeline.Panel, heatmap.Panel)
Query = tuple[str, str]  # an expression, and what its lines are called
Steps = Sequence[tuple[float | None, str]]  # from where on which colour; None: from below
Row = tuple[str, int, Sequence[Panel]]  # the heading above it ("" none), its height, its panels


def _panel(kind: Kind, title: str, text: str, unit: str, queries: Sequence[Query]) -> Kind:
    kind = kind.title(title).description(text).datasource(SOURCE).unit(unit).no_value(NOTHING)
    for place, (expression, name) in enumerate(queries):
        asked = prometheus.Dataquery().expr(expression).legend_format(name).ref_id("ABCDEFGH"[place])
        asked = asked.datasource(SOURCE).editor_mode(QueryEditorMode.CODE).range()
        kind = kind.with_target(asked.format(PromQueryFormat.HEATMAP) if isinstance(kind, heatmap.Panel) else asked)
    return kind


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def lines(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    bands: Steps = (),
    floor: float | None = 0.0,
    ceiling: float | None = None,
    log: bool = False,
) -> timeseries.Panel:
    """Lines over time. bands: coloured behind them; floor, ceiling: of the axis, None for the data's own; log: its
    scale.
    """
    panel = _panel(timeseries.Panel(), title, text, unit, queries)
    panel = panel.line_width(1).fill_opacity(0).show_points(VisibilityMode.AUTO).span_nulls(False)
    legend = looks.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = panel.legend(legend.show_legend(True))
    panel = panel.tooltip(looks.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if bands:
        style = looks.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.LINE_AND_AREA)
        panel = panel.thresholds(_thresholds(bands)).thresholds_style(style)
    if log:
        return panel.scale_distribution(looks.ScaleDistributionConfig().type(ScaleDistribution.LOG).log(10))
    panel = panel if ceiling is None else panel.max(ceiling)
    return panel if floor is None else panel.min(floor)


def number(title: str, text: str, unit: str, expression: str, *, steps: Steps = ((None, "text"),)) -> stat.Panel:
    """One number now, coloured by where it lies, over its line. Grafana shows the last that there was: what may end
    needs `or vector(0)`.
    """
    panel = _panel(stat.Panel(), title, text, unit, [(expression, title)])
    panel = panel.reduce_options(looks.ReduceDataOptions().calcs(["lastNotNull"])).thresholds(_thresholds(steps))
    return panel.color_mode(BigValueColorMode.VALUE).graph_mode(BigValueGraphMode.AREA)


def states(title: str, text: str, query: Query, words: Sequence[str], colours: Sequence[str]) -> statetimeline.Panel:
    """Bars over time. words: of the values 0, 1, 2, ..., each in its colour."""
    panel = _panel(statetimeline.Panel(), title, text, "none", [query])
    panel = panel.fill_opacity(80).line_width(0).row_height(0.8).merge_values(True).show_value(VisibilityMode.AUTO)
    named = {str(n): ValueMappingResult(word, colours[n], index=n) for n, word in enumerate(words)}
    steps = [(float(n) if n else None, colour) for n, colour in enumerate(colours)]
    panel = panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    return panel.mappings([ValueMap(named)]).thresholds(_thresholds(steps))


def heat(title: str, text: str, unit: str, expression: str) -> heatmap.Panel:
    """How often each bucket of a histogram, over time."""
    panel = _panel(heatmap.Panel(), title, text, unit, [(expression, "{{le}}")])
    panel = panel.y_axis(heatmap.YAxisConfig().unit(unit)).filter_values(heatmap.FilterValueRange().le(1e-9))
    return panel.color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))


def quantiles(bucket: str, by: str = "") -> list[Query]:
    """The middle and the slow end of a histogram's rate by `le`, the expression `bucket`."""
    return [
        (f"histogram_quantile({q}, {bucket})", name + by) for q, name in ((0.5, "half"), (0.95, "95 %"), (0.99, "99 %"))
    ]


def row(heading: str, height: int, *panels: Panel) -> Row:
    """Panels of equal width beside each other, under a heading, or with "" under the row before."""
    return heading, height, panels


def board(uid: str, title: str, text: str, *rows: Row) -> bytes:
    """A dashboard as JSON, its panels laid out from left to right and from top to bottom."""
    link = dashboard.DashboardLink("Dashboards").type(DashboardLinkType.DASHBOARDS).tags([TAG]).keep_time(True)
    releases = dashboard.AnnotationQuery().name("Releases").datasource(SOURCE).enable(True).icon_color("purple")
    made = dashboard.Dashboard(title).uid(uid).description(text).tags([TAG]).readonly().timezone("browser")
    made = made.refresh("10s").time("now-1h", "now").tooltip(DashboardCursorSync.CROSSHAIR).link(link)
    made = made.annotation(releases.expr('changes(qig_bundle_version{job="publisher"}[1m]) > 0'))
    ids, y = count(1), 0
    for heading, height, panels in rows:
        if heading:
            made = made.with_row(dashboard.Row(heading).id(next(ids)).grid_pos(GridPos(1, WIDTH, 0, y)))
            y += 1
        width = WIDTH // len(panels)
        for place, panel in enumerate(panels):
            made = made.with_panel(panel.id(next(ids)).grid_pos(GridPos(height, width, place * width, y)))
        y += height
    made_json = json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False)
    return made_json.encode() + b"\n"
