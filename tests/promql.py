"""What is asked of Prometheus: the expressions of dashboards and rules, read without one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from common.runtime import metrics

DEPLOY = Path(__file__).parents[1] / "deploy"
BOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
}
RULE_FILES = sorted((DEPLOY / "prometheus" / "rules").glob("*.rules.yml"))
RULES: list[dict[str, Any]] = [
    rule
    for path in RULE_FILES
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
TARGET = {"job", "instance"}  # what Prometheus adds to each sample
ITS_OWN = {"up": TARGET, "ALERTS": {"alertname", "alertstate", "severity"}}
NO_LABELS = {"scalar", "time", "vector"}  # functions whose result has none


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """What of a board shows something."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def parsed(expression: str) -> Any:
    """Grafana's variable is no PromQL."""
    return promql_parser.parse(expression.replace("$__rate_interval", "5m"))


def asked() -> dict[str, list[str]]:
    """Every expression by where it stands: a panel, an annotation or a rule."""
    found = {
        f"{name}: {panel['title']}": [target["expr"] for target in panel["targets"]]
        for name, board in BOARDS.items()
        for panel in panels(board)
    }
    found |= {f"{name}: releases": [note["expr"] for note in b["annotations"]["list"]] for name, b in BOARDS.items()}
    return found | {rule.get("alert") or rule["record"]: [rule["expr"]] for rule in RULES}


def selectors(expression: str) -> list[Any]:
    """Every metric that an expression reads, with its matchers."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(parsed(expression), visit)
    return found


def _declared() -> Iterator[tuple[str, set[str]]]:
    for name, kind, labels, _ in metrics.DECLARED:
        own = set(labels) | TARGET
        if kind == "histogram":
            yield from ((f"{name}_bucket", own | {"le"}), (f"{name}_sum", own), (f"{name}_count", own))
        else:
            yield name, own


SAMPLES: dict[str, set[str]] = dict(_declared()) | ITS_OWN
"""Labels by the name of what may be read; recorded names join in the order of the files."""


def labels(node: Any) -> set[str]:
    """The labels of what an expression gives. Raises AssertionError for a name or label that nobody has."""
    kind = type(node).__name__
    if kind == "VectorSelector":
        return _read(node)
    if kind == "AggregateExpr":
        return _aggregated(node, labels(node.expr))
    if kind == "BinaryExpr":
        return _combined(node, labels(node.lhs), labels(node.rhs))
    if kind == "Call":
        return _called(node.func.name, set().union(*map(labels, node.args)))
    # A number; or what stands in parentheses, is negated, or has a range.
    return set() if kind == "NumberLiteral" else labels(node.vector_selector if kind == "MatrixSelector" else node.expr)


def _read(node: Any) -> set[str]:
    assert node.name in SAMPLES, f"nobody has {node.name}"
    known, used = SAMPLES[node.name], {each.name for each in node.matchers.matchers}
    assert used <= known, f"{node.name} has no {used - known}"
    return set(known)


def _called(name: str, inner: set[str]) -> set[str]:
    if name in NO_LABELS:
        return set()
    return inner - {"le"} if name == "histogram_quantile" else inner


def _aggregated(node: Any, inner: set[str]) -> set[str]:
    if node.modifier is None:
        return set()
    named = set(node.modifier.labels)
    assert named <= inner, f"{node.expr} has no {named - inner}"
    return named if node.modifier.type == promql_parser.AggModifierType.By else inner - named


def _combined(node: Any, left: set[str], right: set[str]) -> set[str]:
    matching = node.modifier.matching if node.modifier is not None else None
    if matching is not None:
        named = set(matching.labels)
        assert named <= left & right, f"{node} matches on {named - (left & right)}, which one side has not"
    return left or right


for _rule in sorted((rule for rule in RULES if "record" in rule), key=lambda rule: "fleet:" in rule["record"]):
    SAMPLES[_rule["record"]] = labels(parsed(_rule["expr"]))
