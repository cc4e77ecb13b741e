import re
from pathlib import Path

import pytest
import yaml
from drill_rules import AGE, DRILLED, DURATION, FACTOR, UNITS_MS, shortened
from promql import RULE_FILES, RULES, parsed

THEMES = Path(__file__).parents[1] / "drill"


def drilled():
    """The shortened rules, in the order of the shipped ones."""
    texts = [shortened(path.read_text(encoding="utf-8")) for path in RULE_FILES]
    return [rule for text in texts for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_alert_is_drilled_in_one_theme():
    alerts = [rule["alert"] for rule in RULES if "alert" in rule]
    assert sorted(alert for theme in DRILLED.values() for alert in theme) == sorted(alerts)


@pytest.mark.parametrize("theme", DRILLED)
@pytest.mark.parametrize("what", ["fires", "clears"])
def test_a_theme_waits_for_each_of_its_alerts_to_fire_and_to_clear(theme, what):
    text = (THEMES / f"{theme}.py").read_text(encoding="utf-8")
    calls = re.findall(rf"drill\.{what}\(([^)]*)\)", text)
    assert sorted(re.findall(r'"(\w+)"', " ".join(calls))) == sorted(DRILLED[theme])


def milliseconds(rule):
    ranges = re.findall(r"\[([^\]]+)\]", rule["expr"])
    return [
        int(n) * UNITS_MS[unit] for text in [*ranges, rule.get("for", "")] for n, unit in re.findall(DURATION, text)
    ]


def ages(rule):
    return [int(seconds) for _, seconds in AGE.findall(rule["expr"])]


def without_times(rule):
    return AGE.sub(r"\1", re.sub(r"\[[^\]]+\]", "[]", rule["expr"]))


def test_every_duration_is_divided_and_nothing_else_changes():
    for short, shipped in zip(drilled(), RULES, strict=True):
        assert [FACTOR * each for each in milliseconds(short)] == milliseconds(shipped)
        assert [FACTOR * each for each in ages(short)] == ages(shipped)
        assert without_times(short) == without_times(shipped)
        parsed(short["expr"])


def test_an_age_that_a_rule_gives_in_seconds_is_among_them():
    assert {rule["alert"]: ages(rule) for rule in RULES if "alert" in rule and ages(rule)} == {"TrainerStuck": [1800]}
