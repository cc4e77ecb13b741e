"""Dashboards and the scrape file: every name in them exists, and every panel can be read by somebody new to it."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import BOARDS, DEPLOY, RULES, asked, labels, panels, parsed, selectors

from common.constants import DRIFT_LIMIT_RAD, PHASE_BOUNDS, PHASES, PHI_COLLAPSE, PHI_WINDOW
from common.runtime import metrics, settings

ROOT = Path(__file__).parents[2]
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}") for name, board in BOARDS.items() for panel in panels(board)
]
EXPRESSIONS = sorted({expression for expressions in asked().values() for expression in expressions})
SCRAPE: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_there_are_four_dashboards() -> None:
    assert set(BOARDS) == {"fleet", "constellation", "learning", "streams"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_name_and_label_in_a_query_exists(expression: str) -> None:
    labels(parsed(expression))


@pytest.mark.parametrize("expression", ["sum by (client) (qig_queue)", "qig_nothing", 'qig_queue{client="a"}'])
def test_a_name_or_label_that_nobody_has_is_found(expression: str) -> None:
    with pytest.raises(AssertionError):
        labels(parsed(expression))


def test_every_metric_is_on_a_dashboard_or_in_a_rule_and_every_recorded_one_is_used() -> None:
    read = {each.name for expression in EXPRESSIONS for each in selectors(expression)}
    read |= {name.removesuffix(end) for name in read for end in ("_bucket", "_count", "_sum")}
    assert {name for name, *_ in metrics.DECLARED} <= read
    assert {rule["record"] for rule in RULES if "record" in rule} <= read


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_job_and_phase_in_a_query_exists(expression: str) -> None:
    for selector in selectors(expression):
        matched = {each.name: each.value for each in selector.matchers.matchers}
        assert matched.get("job", "edge") in settings.SERVICES
        assert matched.get("phase", PHASES[0]) in PHASES


@pytest.mark.parametrize("panel", PANELS)
def test_every_legend_shows_labels_that_the_query_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        kept = labels(parsed(target["expr"]))
        assert shown <= (kept | {"le"} if panel["type"] == "heatmap" else kept)


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_a_unit_says_what_it_shows_and_says_when_it_has_nothing_to_show(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["noValue"] == "no traffic"
    assert len(panel["description"]) > 30
    assert panel["description"].endswith(".")
    assert panel["targets"]


@pytest.mark.parametrize("name", BOARDS)
def test_panel_ids_are_unique_and_so_are_the_letters_of_a_panels_queries(name: str) -> None:
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(BOARDS[name]):
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_on_the_grid_and_on_no_other_panel(name: str) -> None:
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y


@pytest.mark.parametrize("name", BOARDS)
def test_boards_lead_to_each_other_by_their_tag(name: str) -> None:
    (link,) = BOARDS[name]["links"]
    assert (link["type"], link["tags"]) == ("dashboards", BOARDS[name]["tags"]) == ("dashboards", ["qig"])
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)


@pytest.mark.parametrize("name", BOARDS)
def test_panels_ask_the_data_source_that_is_provisioned(name: str) -> None:
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    known = {source["uid"] for source in yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"]}
    text = json.dumps(BOARDS[name])
    assert set(re.findall(r'"type": "prometheus", "uid": "(\w+)"', text)) == known


def test_grafana_looks_for_the_boards_where_compose_mounts_them() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    given = yaml.safe_load((provisioning / "dashboards" / "constellation.yml").read_text(encoding="utf-8"))
    (provider,) = given["providers"]
    mounted = [volume.split(":")[:2] for volume in COMPOSE["services"]["grafana"]["volumes"]]
    assert ["./deploy/grafana/provisioning", "/etc/grafana/provisioning"] in mounted
    assert ["./deploy/grafana/dashboards", provider["options"]["path"]] in mounted


def test_the_board_that_grafana_opens_with_is_one_of_them() -> None:
    first = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(first).stem in BOARDS


def thresholds(board: str, title: str) -> tuple[float, ...]:
    panel = next(panel for panel in BOARDS[board]["panels"] if panel["title"] == title)
    return tuple(step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:])


def test_the_bands_are_those_of_the_code() -> None:
    assert thresholds("constellation", "Φ by kernel") == (PHI_COLLAPSE, *PHI_WINDOW)
    assert thresholds("constellation", "κ by kernel") == PHASE_BOUNDS
    assert thresholds("constellation", "Drift") == (DRIFT_LIMIT_RAD,)


NUMBERS = [panel for board in BOARDS.values() for panel in panels(board) if panel["type"] == "stat"]


@pytest.mark.parametrize("panel", NUMBERS, ids=lambda panel: panel["title"])
def test_a_number_does_not_stand_still_when_what_it_counts_is_gone(panel: dict[str, Any]) -> None:
    """Grafana shows the last value of the range: of edges that are all gone, how many were ready an hour ago."""
    (target,) = panel["targets"]
    assert target["expr"].endswith(" or vector(0)") or panel["title"] == "Bundle"  # what was released last, it stays


def test_every_service_is_scraped_under_its_own_name_and_on_its_port_and_each_replica_as_a_target_of_its_own() -> None:
    jobs = {job["job_name"]: job for job in SCRAPE["scrape_configs"]}
    assert set(jobs) == set(settings.SERVICES) <= set(COMPOSE["services"])
    for name, job in jobs.items():
        (found,) = job["dns_sd_configs"]
        assert (found["names"], found["type"], found["port"]) == ([name], "A", 8000)
        assert "static_configs" not in job


def test_prometheus_finds_every_file_of_rules() -> None:
    folder = DEPLOY / "prometheus"
    found = {path for pattern in SCRAPE["rule_files"] for path in folder.glob(pattern)}
    assert found == set(folder.glob("**/*.rules.yml")) != set()
