import json
from dataclasses import replace

import numpy as np
import pytest

from common.constants import FACULTIES, ROLES
from common.coordizer.build import build
from common.geometry.integration import Integration
from common.geometry.routing import Route, Step
from services.cli import gates, route
from services.trainer.evaluate import Instruments, Score
from services.trainer.whole import Foresight, Whole


def known(phi, p=0.0):
    return Integration(phi, None, None if phi is None else p, 1000.0, "degenerate" if phi is None else None)


def verdicts(phi=0.8, rolled=0.0, shuffled=0.3, noise=0.2, untrained=0.0, p=0.0):
    """The verdict on each of the checks of phi, by its last word."""
    seen = Instruments(
        known(phi, p), 0.01, known(rolled), known(shuffled), known(noise), known(untrained), known(0.3), 30.0, 3.0
    )
    checks = gates.kernel_checks("heart", Score(2.0, 1.0, 0.3), seen)
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


@pytest.mark.parametrize(("p", "ok"), [(0.99e-6, True), (1e-6, False)])
def test_a_phi_that_may_be_chance_fails(p, ok):
    assert verdicts(p=p)[""] is ok


@pytest.mark.parametrize(("value", "ok"), [(0.149, True), (0.15, True), (0.151, False), (None, False)])
def test_an_untrained_state_must_read_near_nothing(value, ok):
    assert verdicts(untrained=value)["untrained"] is ok


@pytest.mark.parametrize(("value", "ok"), [(0.599, True), (0.601, False), (None, False)])
def test_shuffled_tokens_must_read_well_below_text(value, ok):
    assert verdicts(phi=0.8, shuffled=value)["shuffled"] is ok


def test_shuffled_tokens_have_nothing_to_be_below_when_phi_is_not_known():
    assert verdicts(phi=None, shuffled=0.0)["shuffled"] is False


def test_what_has_no_threshold_has_no_verdict():
    shown = ("bits per byte heart", "random weights", "dimensions heart")
    assert [verdicts()[name] for name in shown] == [None] * 3


@pytest.mark.parametrize(("routed", "ok"), [(0.89, False), (0.9, True), (1.0, True)])
def test_routing_is_judged_over_all_passages(routed, ok):
    scores = {role: Score(2.0, routed, 0.3) for role in ROLES}
    check = gates.routing_check(scores, dict.fromkeys(ROLES, 10))
    assert (check.ok, check.value) == (ok, pytest.approx(routed))


def test_routing_weighs_a_role_by_its_passages():
    scores = {role: Score(2.0, float(role == "vocab"), 0.3) for role in ROLES}
    check = gates.routing_check(scores, dict.fromkeys(ROLES, 1) | {"vocab": 7})
    assert (check.value, check.control) == (0.7, "chance 0.70")


def home_of(*names):
    basin = np.full((8, 8), 1.0)
    basin[[FACULTIES.index(name) for name in names]] = 5.0
    return (basin / basin.sum()).ravel()


def test_a_home_that_does_not_lean_to_its_own_faculties_fails():
    right = {"vocab": home_of("MEM", "ACT"), "strategy": home_of("PRD", "META"), "percept": home_of("PER")}
    assert gates.mass_check("heart", right | {"heart": home_of("HRT")}).ok is True
    assert gates.mass_check("heart", right | {"heart": home_of("PER")}).ok is False


def test_the_mass_of_all_faculties_is_one():
    assert gates.faculty_mass(home_of("PER"), FACULTIES) == pytest.approx(1.0)


def test_a_route_with_one_domain_has_no_margin_to_tell():
    alone = Route((Step("heart", 0.5, 1.0),), float("inf"), abstained=False)
    assert json.loads(route.as_json(alone, {"HRT": 1.0}, 3))["margin_rad"] is None
    assert route._verdict(alone, 3) == "3 tokens, heart: the only domain\n"


def together(phi=0.9, best=0.75, p=0.0, kl=0.04, least=0.07, **controls):
    """The verdict on each check of a constellation, by name."""
    members = dict.fromkeys(ROLES, known(0.6)) | {"heart": known(best)}
    names = ("rolled", "shuffled", "noise", "swapped", "untrained")
    single = {name: known(controls.get(name, 0.05)) for name in names}
    without = dict.fromkeys(ROLES, known(0.7)) | {"percept": known(controls.get("without", 0.7))}
    alone = dict.fromkeys(ROLES, known(0.7)) | {"vocab": known(controls.get("alone", 0.7))}
    told = Foresight(kl, dict.fromkeys(ROLES, 0.1) | {"strategy": least}, 0.07, 0.05)
    seen = Whole(
        members,
        known(phi, p),
        0.01,
        known(0.8),
        **single,
        without=without,
        alone=alone,
        foresight=told,
        participation=2.0,
    )
    return {check.check: check.ok for check in gates.whole_checks(seen)}


@pytest.mark.parametrize(("phi", "ok"), [(0.849, False), (0.85, False), (0.851, True), (0.99, True), (None, False)])
def test_a_constellation_s_phi_has_a_lower_bound_and_no_upper_one(phi, ok):
    assert together(phi=phi)["phi"] is ok


@pytest.mark.parametrize(("best", "ok"), [(0.899, True), (0.9, False), (0.91, False), (None, False)])
def test_a_constellation_reads_above_every_member(best, ok):
    assert together(phi=0.9, best=best)["phi above the best member"] is ok


@pytest.mark.parametrize("control", ["swapped", "without", "alone"])
@pytest.mark.parametrize(("value", "ok"), [(0.849, True), (0.8501, False), (None, False)])
def test_cut_or_swapped_members_must_bring_it_down_to_their_level(control, value, ok):
    name = {"swapped": "phi, members swapped", "without": "phi, percept cut", "alone": "phi, vocab alone"}[control]
    assert together(best=0.75, **{control: value})[name] is ok


@pytest.mark.parametrize(
    ("control", "name", "limit"),
    [
        ("rolled", "phi, rolled", 0.25),
        ("noise", "phi, random tokens", 0.4),
        ("untrained", "phi, untrained members", 0.15),
        ("shuffled", "phi, shuffled", 0.7),
    ],
)
def test_a_constellation_s_controls_have_their_limits(control, name, limit):
    assert [together(**{control: value})[name] for value in (limit - 0.001, limit + 0.001, None)] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(("kl", "ok"), [(0.069, True), (0.07, False), (0.08, False)])
def test_a_constellation_foresees_more_than_every_member(kl, ok):
    assert together(kl=kl)["next 16 tokens' basin, KL"] is ok


@pytest.fixture(scope="module")
def small():
    return build([(role, "the heron waded through the cold marsh. " * 9) for role in ROLES], vocab_size=280)


def coordizer(made):
    checks = gates.coordizer_checks(made, ["the heron", "κ ≤ 70"], np.random.default_rng(0))
    return {check.check: check for check in checks}


def test_a_coordizer_of_another_size_or_without_a_trace_fails(small):
    checks = coordizer(replace(small, trace=()))
    assert [checks[name].ok for name in ("vocabulary", "phi of the token stream")] == [False, False]
    assert checks["round trip, share exact"].ok
    assert checks["geodesics add up, worst error"].ok


def looks(*phis, p=1e-9):
    return tuple((300 + n, 0.1, phi, p) for n, phi in enumerate(phis))


@pytest.mark.parametrize(("last", "ok"), [(0.05, True), (0.0499, True), (0.071, False)])
def test_the_token_stream_s_phi_must_be_steady_in_the_second_half(small, last, ok):
    checks = coordizer(replace(small, trace=looks(0.2, 0.1, 0.05, last)))
    assert checks["its change over the second half"].ok is ok


@pytest.mark.parametrize(("p", "ok"), [(0.0009, True), (0.001, False)])
def test_a_token_stream_that_cannot_be_told_from_chance_fails(small, p, ok):
    assert coordizer(replace(small, trace=looks(0.05, 0.05, 0.05, p=p)))["phi of the token stream"].ok is ok


def test_a_token_that_comes_back_otherwise_is_a_failed_round_trip(small, monkeypatch):
    monkeypatch.setattr(gates.Encoder, "decode", lambda *_: b"the heron")
    share, count = gates.round_trips(small, ["the heron", "another"])
    assert (share, count) == (1 / 7, 7)


def test_a_distance_that_is_no_geodesic_is_seen(monkeypatch):
    basins = np.random.default_rng(1).dirichlet(np.ones(64), 50)
    assert gates.worst_geodesic(basins, np.random.default_rng(2)) <= 1e-9
    monkeypatch.setattr(gates, "distance", lambda p, q: np.sqrt(np.square(p - q).sum(-1)))
    assert gates.worst_geodesic(basins, np.random.default_rng(2)) > 1e-3
