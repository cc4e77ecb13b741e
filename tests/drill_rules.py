"""The shipped rules with their patience divided: what takes an hour takes a minute. And which alerts are drilled."""

import re

import yaml
from promql import RULE_FILES

FACTOR = 60
UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
DURATION = r"(\d+)(ms|[smhd])"

DRILLED = (
    "NotReady", "ConsumerDead", "StreamFilling", "StreamFull", "GroupRemade", "DeadLetters", "QueriesRefused",
    "PacketRejectRatio", "BundleSkew", "ServiceDown", "NoEdgeReady", "EdgeGone", "BundleRolledBack", "LearningStuck",
)  # fmt: skip
NOT_DRILLED = {
    "OutboxFull": "5,000 messages that wait for a stream that is full take a fleet of hundreds",
    "PhiCollapse": "a kernel that was integrated and is no more has to be trained first",
    "FractureStuck": "untrained kernels do not stay in FRACTURE; the rule is held by recorded series",
    "KappaOutOfBand": "untrained kernels read what noise reads, from the beginning on: nothing would clear it",
    "NoEmergence": "the same",
    "TrustEnds": "what the offline keys sign lasts two years, whatever happens to a fleet",
    "CandidatesRefused": "within its six hours nothing may be released, and the drill releases",
    "TrainerStuck": "its half hour is a number in the rule, and no duration that could be divided",
    "GuardRestored": "a guard speaks in training, and the drill trains nothing",
}
"""Held by unit tests over recorded series alone (tests/unit/test_deploy_rules.py)."""


def shortened(text: str) -> str:
    """A file of rules, its ranges and waits divided by FACTOR."""
    groups = yaml.safe_load(text)["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        rule["expr"] = re.sub(r"\[[^\]]+\]", lambda found: _divided(found[0]), rule["expr"])
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
