"""The shipped rules with their patience divided: what takes an hour takes a minute. And which alerts are drilled."""

import re

import yaml
from promql import RULE_FILES

FACTOR = 60
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = r"(\d+)(ms|[smhd])"
AGE = re.compile(r"(time\(\) - .*? > )(\d+)")  # in seconds, which a rule gives as a number

DRILLED = {
    "serving": (
        "NotReady", "ConsumerDead", "StreamFilling", "StreamFull", "GroupRemade", "DeadLetters", "QueriesRefused",
        "PacketRejectRatio", "TrustEnds", "BundleSkew", "ServiceDown", "NoEdgeReady", "EdgeGone", "BundleRolledBack",
        "LearningStuck",
    ),
    "state": ("PhiCollapse", "NoEmergence", "FractureStuck", "KappaOutOfBand"),
    "learning": ("CandidatesRefused", "GuardRestored", "TrainerStuck"),
    "slots": ("OutboxFull",),
}  # fmt: skip
"""By the file of tests/drill that provokes them."""


def shortened(text: str) -> str:
    """A file of rules, its ranges, waits and ages divided by FACTOR."""
    groups = yaml.safe_load(text)["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        expression = re.sub(r"\[[^\]]+\]", lambda found: _divided(found[0]), rule["expr"])
        rule["expr"] = AGE.sub(lambda found: f"{found[1]}{int(found[2]) // FACTOR}", expression)
        if "for" in rule:
            rule["for"] = _divided(rule["for"])
    return yaml.safe_dump({"groups": groups}, sort_keys=False)


def _divided(durations: str) -> str:
    return re.sub(DURATION, lambda found: f"{int(found[1]) * UNITS_MS[found[2]] // FACTOR}ms", durations)


def write(folder):
    """The rule files, shortened, in a folder; where they lie."""
    made = [folder / path.name for path in RULE_FILES]
    for path, shipped in zip(made, RULE_FILES, strict=True):
        path.write_text(shortened(shipped.read_text(encoding="utf-8")), encoding="utf-8")
    return made
