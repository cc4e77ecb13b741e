import re

import yaml
from drill_rules import DRILLED, DURATION, FACTOR, NOT_DRILLED, UNITS_MS, shortened
from promql import RULE_FILES, RULES, parsed


def drilled():
    """The shortened rules, in the order of the shipped ones."""
    texts = [shortened(path.read_text(encoding="utf-8")) for path in RULE_FILES]
    return [rule for text in texts for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_alert_is_drilled_or_it_is_said_why_not():
    alerts = [rule["alert"] for rule in RULES if "alert" in rule]
    assert sorted([*DRILLED, *NOT_DRILLED]) == sorted(alerts)


def milliseconds(rule):
    ranges = re.findall(r"\[([^\]]+)\]", rule["expr"])
    return [
        int(n) * UNITS_MS[unit] for text in [*ranges, rule.get("for", "")] for n, unit in re.findall(DURATION, text)
    ]


def test_every_duration_is_divided_and_nothing_else_changes():
    for short, shipped in zip(drilled(), RULES, strict=True):
        assert [FACTOR * each for each in milliseconds(short)] == milliseconds(shipped)
        rest = [re.sub(r"\[[^\]]+\]", "[]", rule["expr"]) for rule in (short, shipped)]
        assert rest[0] == rest[1]
        parsed(short["expr"])
