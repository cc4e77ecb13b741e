import json

import numpy as np
import pytest

from common.constants import FACULTIES, ROLES
from common.geometry.integration import Integration
from common.geometry.routing import Route, Step
from services.cli import route, validate
from services.trainer.evaluate import Instruments, Score


def known(phi):
    return Integration(phi, None, None if phi is None else 0.0, 1000.0, "degenerate" if phi is None else None)


def verdicts(phi=0.8, rolled=0.0, shuffled=0.3, noise=0.2):
    """The verdict on each of the four checks of phi, by its last word."""
    seen = Instruments(known(phi), known(rolled), known(shuffled), known(noise), 30.0)
    checks = validate.kernel_checks("heart", Score(2.0, 1.0), seen)
    return {check.check.removeprefix("phi heart").strip(", "): check.ok for check in checks}


@pytest.mark.parametrize(("phi", "ok"), [(0.749, False), (0.75, True), (0.85, True), (0.851, False), (None, False)])
def test_phi_is_in_its_window_or_the_gate_fails(phi, ok):
    assert verdicts(phi=phi, shuffled=0.0)[""] is ok


@pytest.mark.parametrize(("value", "ok"), [(0.149, True), (0.15, True), (0.151, False), (None, False)])
def test_rolled_faculties_must_read_as_independent(value, ok):
    assert verdicts(rolled=value)["rolled"] is ok


@pytest.mark.parametrize(("value", "ok"), [(0.4, True), (0.401, False), (None, False)])
def test_random_tokens_must_read_low(value, ok):
    assert verdicts(noise=value)["random tokens"] is ok


@pytest.mark.parametrize(("value", "ok"), [(0.599, True), (0.601, False), (None, False)])
def test_shuffled_tokens_must_read_well_below_text(value, ok):
    assert verdicts(phi=0.8, shuffled=value)["shuffled"] is ok


def test_shuffled_tokens_have_nothing_to_be_below_when_phi_is_not_known():
    assert verdicts(phi=None, shuffled=0.0)["shuffled"] is False


def test_what_has_no_threshold_has_no_verdict():
    assert [verdicts()[name] for name in ("bits per byte heart", "kappa heart")] == [None, None]


@pytest.mark.parametrize(("routed", "ok"), [(0.89, False), (0.9, True), (1.0, True)])
def test_routing_is_judged_over_all_passages(routed, ok):
    scores = {role: Score(2.0, routed) for role in ROLES}
    check = validate.routing_check(scores, dict.fromkeys(ROLES, 10))
    assert (check.ok, check.value) == (ok, pytest.approx(routed))


def test_routing_weighs_a_role_by_its_passages():
    scores = {role: Score(2.0, float(role == "vocab")) for role in ROLES}
    check = validate.routing_check(scores, dict.fromkeys(ROLES, 1) | {"vocab": 7})
    assert (check.value, check.control) == (0.7, "chance 0.70")


def home_of(*names):
    basin = np.full((8, 8), 1.0)
    basin[[FACULTIES.index(name) for name in names]] = 5.0
    return (basin / basin.sum()).ravel()


def test_a_home_that_does_not_lean_to_its_own_faculties_fails():
    right = {"vocab": home_of("MEM", "ACT"), "strategy": home_of("PRD", "META"), "percept": home_of("PER")}
    assert validate.mass_check("heart", right | {"heart": home_of("HRT")}).ok is True
    assert validate.mass_check("heart", right | {"heart": home_of("PER")}).ok is False


def test_the_mass_of_all_faculties_is_one():
    assert validate.faculty_mass(home_of("PER"), FACULTIES) == pytest.approx(1.0)


def test_a_route_with_one_domain_has_no_margin_to_tell():
    alone = Route((Step("heart", 0.5, 1.0),), float("inf"), abstained=False)
    assert json.loads(route.as_json(alone, {"HRT": 1.0}, 3))["margin_rad"] is None
    assert route._verdict(alone, 3) == "3 tokens, heart: the only domain\n"
