"""Dashboards and the scrape file: every name in them exists, and every panel can be read by somebody new to it."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.constants import PHASE_BOUNDS, PHASES
from common.runtime import metrics, settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in (DEPLOY / "grafana" / "dashboards").glob("*.json")
}
PANELS = [
    pytest.param(panel, id=f"{name}-{panel['title']}")
    for name, board in BOARDS.items()
    for panel in board["panels"]
    if panel["type"] != "row"
]
SCRAPE: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
PROMETHEUS_LABELS = {"job", "instance"}  # what Prometheus adds to each sample


def samples() -> dict[str, set[str]]:
    """Labels by sample name: a histogram has three, of which one has `le`."""
    found: dict[str, set[str]] = {}
    for name, kind, labels, _ in metrics.DECLARED:
        own = set(labels) | PROMETHEUS_LABELS
        if kind == "histogram":
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


def expressions() -> list[str]:
    """Every query of the dashboards, and of the rules where there are some."""
    asked = [
        target["expr"] for board in BOARDS.values() for panel in board["panels"] for target in panel.get("targets", [])
    ]
    for path in (DEPLOY / "prometheus").glob("**/*.rules.yml"):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            asked += [rule["expr"] for rule in group["rules"]]
    return asked


def selectors(expression: str) -> dict[str, dict[str, str]]:
    """Label matchers by sample name."""
    return {
        name: dict(re.findall(r'(\w+)\s*[=!]~?\s*"([^"]*)"', matchers))
        for name, matchers in re.findall(r"\b(qig_\w+)(\{[^}]*\})?", expression)
    }


def grouped(expression: str) -> set[str]:
    """Labels named by `by (...)` and `without (...)`."""
    return set(re.findall(r"\w+", " ".join(re.findall(r"\b(?:by|without)\s*\(([^)]*)\)", expression))))


def test_there_is_a_dashboard() -> None:
    assert "constellation" in BOARDS
    assert len(PANELS) >= 12


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_and_label_in_a_query_is_declared(expression: str) -> None:
    known = samples()
    asked = selectors(expression)
    assert set(asked) <= set(known)
    for name, matchers in asked.items():
        assert set(matchers) <= known[name]
        assert grouped(expression) <= known[name]


@pytest.mark.parametrize("expression", expressions())
def test_every_job_and_phase_in_a_query_exists(expression: str) -> None:
    for matchers in selectors(expression).values():
        assert matchers.get("job", "edge") in settings.SERVICES
    assert set(re.findall(r'phase="(\w+)"', expression)) <= set(PHASES)


@pytest.mark.parametrize("panel", PANELS)
def test_every_legend_shows_labels_that_the_query_keeps(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert shown <= grouped(target["expr"]) - {"phase"}


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_a_unit_and_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 30
    assert panel["description"].endswith(".")
    assert panel["targets"]


@pytest.mark.parametrize("name", BOARDS)
def test_panel_ids_are_unique(name: str) -> None:
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", BOARDS)
def test_panels_lie_on_the_grid_and_on_no_other_panel(name: str) -> None:
    places = [panel["gridPos"] for panel in BOARDS[name]["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for a, b in combinations(places, 2):
        apart_x = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart_y = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart_x or apart_y


@pytest.mark.parametrize("name", BOARDS)
def test_panels_ask_the_data_source_that_is_provisioned(name: str) -> None:
    path = DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
    known = {source["uid"] for source in yaml.safe_load(path.read_text(encoding="utf-8"))["datasources"]}
    text = json.dumps(BOARDS[name])
    assert set(re.findall(r'"type": "prometheus", "uid": "(\w+)"', text)) == known


def thresholds(title: str) -> tuple[float, ...]:
    panel = next(panel for panel in BOARDS["constellation"]["panels"] if panel["title"] == title)
    return tuple(step["value"] for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"][1:])


def test_the_bands_of_phi_and_kappa_are_those_of_the_code() -> None:
    assert thresholds("Φ by kernel") == (0.70, 0.75, 0.85)
    assert thresholds("κ by kernel") == PHASE_BOUNDS


def test_every_service_is_scraped_under_its_own_name_and_on_its_port() -> None:
    jobs = {job["job_name"]: json.dumps(job) for job in SCRAPE["scrape_configs"]}
    assert set(jobs) == set(settings.SERVICES)
    for name, job in jobs.items():
        assert name in COMPOSE["services"]
        assert f'"{name}:8000"' in job or (f'["{name}"]' in job and '"port": 8000' in job)
