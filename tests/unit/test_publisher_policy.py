"""The gate: each rule just below, at and above its threshold, and every reason in words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from common.constants import DRIFT_LIMIT_RAD, ROLES
from common.constellation.domains import Domain, to_json
from common.geometry.simplex import uniform
from common.kernels import gate
from common.wire import bundle
from common.wire.messages import Candidate, Evidence, Figure, PacketRef, Part
from services.publisher.policy import REQUIRED, Limits, judge, without_heir

KEY = SigningKey(bytes(32))
LIMITS = Limits(regress_limit=0.01)
REF = PacketRef(key=b"edge-key", epoch=1, sequence=7)
PATHS = (*REQUIRED, "memories/heart.bin")


def part(name):
    return Part(digest=name.encode().hex().ljust(64, "0")[:64], size_bytes=len(name))


def figure(before, after, domain="heart", name="bits_per_byte", unit="bit/B"):
    return Figure(name=name, domain=domain, before=before, after=after, unit=unit)


GAIN = figure(3.0, 2.0, "d-1")


def candidate(figures=(GAIN,), parent=None, guards=(), parts=None, **change):
    fields = {
        "id": "c-1",
        "parent": parent.version if parent else 0,
        "parent_digest": bundle.digest(parent) if parent else "",
        "parts": parts or {path: part(path) for path in PATHS},
        "evidence": Evidence(figures=tuple(figures), guards=tuple(guards), seconds=1.0),
    }
    return Candidate(**{**fields, **change})


CURRENT = bundle.sign(candidate(), version=7, released_at_s=1.0, signing_key=KEY)


def verdict(*figures, current=CURRENT, **change):
    change.setdefault("parent", current)
    return judge(candidate([GAIN, *figures], **change), current=current, limits=LIMITS)


def why(found):
    assert not found.accepted
    (reason,) = found.reasons
    return reason


def test_a_whole_candidate_that_gains_on_the_current_bundle_is_accepted():
    assert verdict().accepted
    assert verdict().reasons == ()


def test_what_changes_nothing_is_no_gain_unless_it_settles_packets():
    same = {"parent": CURRENT, "parts": CURRENT.parts}
    assert judge(candidate((), packets=(REF,), **same), current=CURRENT, limits=LIMITS).accepted
    assert "nothing got better" in why(judge(candidate((), **same), current=CURRENT, limits=LIMITS))
    other = same | {"parts": {**CURRENT.parts, "notes.bin": part("notes")}}
    assert "nothing got better" in why(judge(candidate((), packets=(REF,), **other), current=CURRENT, limits=LIMITS))


@pytest.mark.parametrize(("after", "accepted"), [(2.019999, True), (2.02, True), (2.020001, False)])
def test_a_domain_may_lose_one_percent_and_no_more(after, accepted):
    found = verdict(figure(2.0, after))
    assert found.accepted is accepted
    assert accepted or "bits_per_byte of heart is 1.00% worse, 2.0000 -> 2.0200" in why(found)


@given(st.floats(0.1, 8.0))
@settings(max_examples=100)
def test_the_limit_met_exactly_is_met_whatever_the_figure(before):
    assert verdict(figure(before, before * 1.01)).accepted


def test_a_domain_without_a_before_cannot_get_worse():
    assert verdict(figure(None, 9.0, "d-2")).accepted


def test_a_domain_that_cost_nothing_and_now_costs_something_is_worse():
    assert "worse" in why(verdict(figure(0.0, 0.1)))


@pytest.mark.parametrize(("after", "accepted"), [(1.999999, True), (2.0, False), (2.000001, False)])
@pytest.mark.parametrize("name", ["bits_per_byte", "crystal_bits"])
def test_something_must_get_better(name, after, accepted):
    found = judge(candidate([figure(2.0, after, name=name)], CURRENT), current=CURRENT, limits=LIMITS)
    assert found.accepted is accepted
    assert accepted or "nothing got better" in why(found)


def test_a_correction_need_gain_nothing_and_may_lose_no_more_than_others():
    told = {"id": "correction-abc"}
    assert judge(candidate([figure(2.0, 2.0)], CURRENT, **told), current=CURRENT, limits=LIMITS).accepted
    worse = judge(candidate([figure(2.0, 2.1)], CURRENT, **told), current=CURRENT, limits=LIMITS)
    assert "worse" in why(worse)


def test_a_figure_that_is_no_code_length_is_no_gain():
    found = judge(candidate([figure(0.9, 0.1, name="phi")], CURRENT), current=CURRENT, limits=LIMITS)
    assert "none of 0 figures" in why(found)


@pytest.mark.parametrize(
    ("name", "high", "accepted"),
    [
        ("bits_per_byte", -1e-9, True),
        ("bits_per_byte", 0.0, False),
        ("bits_per_byte", 1e-9, False),
        ("bits_per_byte", None, True),
        ("crystal_bits", 1e-9, True),
    ],
)
def test_held_out_text_that_got_better_got_so_by_more_than_chance(name, high, accepted):
    sure = {} if high is None else {"low": -0.2, "high": high}
    gain = figure(2.0, 1.9, name=name).model_copy(update=sure)
    found = judge(candidate([gain], CURRENT), current=CURRENT, limits=LIMITS)
    assert found.accepted is accepted
    assert accepted or "nothing got better: none of 1 figures" in why(found)


@pytest.mark.parametrize(("after", "accepted"), [(4.0399, True), (4.04, True), (4.0401, False)])
def test_the_crystals_of_a_domain_that_learned_are_not_read_worse(after, accepted):
    found = verdict(figure(4.0, after, "d-2", name="crystal_bits"))
    assert found.accepted is accepted
    assert accepted or "crystal_bits of d-2 is 1.00% worse" in why(found)


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [
        (0.80, 0.75, True),
        (0.80, 0.7499, False),
        (0.80, 0.85, True),
        (0.80, 0.8501, False),
        (0.75, 0.7499, False),
        (0.85, 0.8501, False),
        (0.7499, 0.6, True),
        (0.8501, 0.9, True),
        (None, 0.1, True),
    ],
)
def test_a_role_s_phi_stays_in_the_window_that_it_was_in(before, after, accepted):
    found = verdict(figure(before, after, "heart", "phi_ratio", "1"))
    assert found.accepted is accepted
    assert accepted or "phi_ratio of heart left 0.75 to 0.85" in why(found)


@pytest.mark.parametrize(
    ("before", "after", "accepted"),
    [(0.8501, 0.8501, True), (0.8501, 0.85, False), (0.8501, 0.84, False), (0.85, 0.5, True), (None, 0.1, True)],
)
def test_the_constellation_s_phi_stays_above_its_gate_once_it_is(before, after, accepted):
    found = verdict(figure(before, after, None, "phi_ratio", "1"))
    assert found.accepted is accepted
    assert accepted or "phi_ratio of the constellation fell" in why(found)


@pytest.mark.parametrize(("drift", "accepted"), [(0.0999, True), (DRIFT_LIMIT_RAD, False), (0.1001, False)])
def test_the_home_of_a_role_stays_within_the_drift_limit(drift, accepted):
    found = verdict(figure(None, drift, "vocab", "drift_rad", "rad"))
    assert found.accepted is accepted
    assert accepted or "drift_rad of vocab" in why(found)


def test_a_domain_that_is_no_role_may_drift():
    assert verdict(figure(None, 0.5, "d-1", "drift_rad", "rad")).accepted


def test_only_the_current_bundle_can_be_the_parent():
    older = bundle.sign(candidate(), version=6, released_at_s=1.0, signing_key=KEY)
    assert "parent is bundle 6, the current one is 7" in why(verdict(parent=older))
    assert "parent digest" in why(verdict(parent_digest="ab" * 32))
    assert "genesis" in why(verdict(parent=None))


def test_a_genesis_is_accepted_without_gain_while_nothing_was_released():
    assert judge(candidate([]), current=None, limits=LIMITS).accepted
    assert "none was released" in why(judge(candidate([], CURRENT), current=None, limits=LIMITS))


@pytest.mark.parametrize("path", REQUIRED)
def test_a_constellation_without_one_of_its_parts_is_refused(path):
    parts = {name: part(name) for name in PATHS if name != path}
    assert path in why(verdict(parts=parts))


def test_a_constellation_without_any_memory_is_refused():
    assert "memories/" in why(verdict(parts={name: part(name) for name in REQUIRED}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_not_finite_is_refused(value):
    odd = GAIN.model_copy(update={"after": value, "name": "phi"})
    assert "not finite" in why(verdict(odd))
    assert "not finite" in why(verdict(GAIN.model_copy(update={"before": value, "name": "phi"})))


def changed(role):
    return {path: part(path + "!" if path == f"kernels/{role}.safetensors" else path) for path in PATHS}


@pytest.mark.parametrize("guard", ["restore-heart", "RESTORE", "restore-of-old"])
def test_changed_weights_of_a_kernel_whose_training_was_undone_are_refused(guard):
    assert "training of heart was undone" in why(verdict(guards=[guard], parts=changed("heart")))


@pytest.mark.parametrize("guard", ["renew-heart", "restore-vocab", "state-dropped-heart"])
def test_other_guards_refuse_nothing_by_themselves(guard):
    assert verdict(guards=[guard], parts=changed("heart")).accepted


@pytest.mark.parametrize("role", ROLES)
def test_a_restore_that_left_the_parents_weights_refuses_nothing(role):
    assert verdict(guards=[f"restore-{role}", "restore"]).accepted


def test_every_reason_is_given_not_only_the_first():
    found = verdict(figure(1.0, 2.0), figure(None, 0.2, "heart", "drift_rad"), parent=None)
    assert len(found.reasons) == 3


# Domains that end


def domains(*names, formerly=()):
    """domains.json of domains of these names; the last bears the former ones."""
    rows = tuple(map(tuple, gate.prior(2).tolist()))
    every = [
        Domain(
            name=name,
            role="heart",
            memories=(name,),
            basin=tuple(uniform().tolist()),
            radius_rad=0.2,
            bits_per_byte=None,
            gate=rows,
            formerly=formerly if name == names[-1] else (),
        )
        for name in names
    ]
    return to_json(tuple(every))


@pytest.mark.parametrize(
    ("after", "gone"),
    [
        (domains("heart", "d-1"), []),
        (domains("heart", "d-2", "d-1"), []),
        (domains("heart", formerly=("d-1",)), []),
        (domains("heart"), ["d-1"]),
        (domains("d-2"), ["d-1", "heart"]),
    ],
    ids=["stays", "stays among others", "has an heir", "has none", "two have none"],
)
def test_a_domain_that_is_gone_without_an_heir_is_a_reason(after, gone):
    reasons = without_heir(domains("heart", "d-1"), after)
    assert [reason.split()[1] for reason in reasons] == gone
