"""The gates are measured in order, whatever the constellation, and told to people and to programs."""

import json
from dataclasses import asdict

import pytest
from micro import SENTENCES

from common.constants import ROLES
from services.cli import gates, validate
from services.trainer.steering import Conversations

TEXTS = {role: [SENTENCES[role] * 8] * 2 for role in ROLES}


@pytest.fixture(scope="module")
def measured(micro):
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "TALKS", 2)
        patch.setattr(validate, "TALK_TOKENS", 40)
        checks = validate.measure(micro.coordizer, micro, TEXTS, lambda stage, done: told.append((stage, done)))
    return checks, told


def test_gates_come_in_order_and_no_check_twice(measured):
    checks, _ = measured
    order = ["coordizer", "kernels", "constellation"]
    assert [check.gate for check in checks] == sorted((check.gate for check in checks), key=order.index)
    assert len({(check.gate, check.check) for check in checks}) == len(checks)


def test_every_stage_ends(measured):
    stages = {
        "coordizer",
        "bits per byte",
        "phi constellation",
        *(f"{q} {role}" for q in ("phi", "kappa") for role in ROLES),
    }
    assert {stage for stage, done in measured[1] if done == 1.0} == stages


def test_an_untrained_constellation_fails_its_gates(measured):
    failed = {check.check for check in measured[0] if check.ok is False}
    assert {"phi", "phi heart", "next 16 tokens' basin, KL", "vocabulary"} <= failed


def test_a_check_is_a_line_that_a_program_can_read(measured):
    for check in measured[0]:
        line = json.loads(json.dumps(asdict(check)))
        assert list(line) == ["gate", "check", "value", "threshold", "control", "ok"]
        assert line["ok"] is None or line["threshold"]


def test_a_person_sees_every_check(measured):
    assert validate.table(measured[0]).row_count == len(measured[0])


@pytest.mark.parametrize(
    ("kappa", "longest", "foam", "verdicts"),
    [
        (50.0, 128, 0.1, [True, True, True]),
        (49.9, 129, 0.0, [False, False, False]),
        (70.1, 0, 0.1, [False, True, True]),
    ],
)
def test_steering_is_judged_by_kappa_phases_and_renewals(kappa, longest, foam, verdicts):
    phases = {"FOAM": foam, "TACKING": 0.4, "CRYSTAL": 0.3, "FRACTURE": 0.3 - foam}
    held = Conversations(kappa, 0.5, phases, 3, longest, 4.0, 0.9, 5)
    assert [check.ok for check in gates.steering_checks("heart", held, 15.3)] == verdicts
