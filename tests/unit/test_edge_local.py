from dataclasses import replace

import numpy as np
import pytest

from common.constellation.constellation import MARGIN_MIN_RAD
from common.kernels import gate
from common.kernels.kernel import Reading
from common.kernels.memory import count, merge
from services.edge.local import GAIN_KEPT, TERRITORY, Tuned, absorb, open_new, tune, within

NEW = "The king spake unto the people, and the people answered the king. "
EMPTY = count([], 3)


@pytest.fixture
def residue(micro):
    return count([micro.encoder.encode(NEW * 3)], 3)


@pytest.fixture
def basin(micro):
    return micro.basin(micro.encoder.encode(NEW))


def same(one, other):
    return all(
        np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts) and np.array_equal(a.totals, b.totals)
        for a, b in zip(one.tables, other.tables, strict=True)
    )


def reading(first, places=100):
    """A text that the first of two experts gives this probability, the second one half."""
    experts = np.column_stack([np.full(places, first), np.full(places, 0.5)])
    return Reading(experts, np.zeros(places, np.int64), np.zeros((places, 64), np.float32))


def leaning(first):
    """A gate whose rows all give the first of two experts this weight."""
    return np.tile([first, 1 - first], (gate.BUCKETS, 1))


# Memory


def test_a_local_memory_is_the_bundle_s_and_the_residue_as_the_centre_would_add_them(micro, residue):
    local = absorb(micro, micro, "heart", residue, None)
    assert same(local.memories["heart"], merge([micro.memories["heart"], residue]))
    assert all(local.memories[name] is micro.memories[name] for name in micro.memories if name != "heart")


def test_learning_twice_from_the_same_residue_is_learning_once(micro, residue):
    once = absorb(micro, micro, "heart", residue, None)
    twice = absorb(once, micro, "heart", residue, None)
    assert same(once.memories["heart"], twice.memories["heart"])


def test_a_residue_that_is_gone_leaves_the_bundle_s_own_memory(micro, residue):
    local = absorb(absorb(micro, micro, "heart", residue, None), micro, "heart", EMPTY, None)
    assert local.memories["heart"] is micro.memories["heart"]


def test_what_was_read_is_read_better_and_the_other_domains_as_before(micro, residue):
    ids = micro.encoder.encode(NEW)
    local = absorb(micro, micro, "heart", residue, None)
    assert local.bits(ids, "heart") < 0.6 * micro.bits(ids, "heart")
    assert local.bits(ids, "percept") == micro.bits(ids, "percept")


def test_a_domain_that_the_bundle_does_not_know_changes_nothing(micro, residue):
    assert absorb(micro, micro, "atlantis", residue, None) is micro


# New territory


def test_new_territory_is_a_domain_of_its_own_beside_its_nearest_role(micro, residue, basin):
    local = open_new(micro, residue, None, basin)
    role = micro.route(basin).steps[0].name
    opened = local.domains[TERRITORY]
    assert (opened.role, opened.memories) == (role, (role, TERRITORY))
    assert local.route(basin).steps[0].name == TERRITORY
    assert np.array_equal(opened.gate_array, gate.prior(3))
    ids = micro.encoder.encode(NEW)
    assert local.bits(ids, TERRITORY) < 0.6 * micro.bits(ids, role)
    assert all(local.memories[name] is micro.memories[name] for name in micro.memories)


def test_new_territory_closes_when_nothing_of_it_is_counted_any_more(micro, residue, basin):
    closed = open_new(open_new(micro, residue, None, basin), EMPTY, None, basin)
    assert (set(closed.domains), set(closed.memories)) == (set(micro.domains), set(micro.memories))
    assert open_new(micro, EMPTY, None, basin) is micro
    assert open_new(micro, residue, None, None) is micro


def test_new_territory_that_moved_is_opened_where_it_is_now(micro, residue, basin):
    other = micro.domains["vocab"].basin_array
    moved = open_new(open_new(micro, residue, None, basin), residue, None, other)
    assert moved.domains[TERRITORY].role == "vocab"
    assert np.allclose(moved.domains[TERRITORY].basin_array, other)


def test_only_text_of_the_territory_s_role_goes_there(micro, residue, basin):
    local = open_new(micro, residue, None, basin)
    kept = within(local.route(basin), local.domains, margin_min_rad=MARGIN_MIN_RAD)
    assert kept == local.route(basin)
    role = local.domains[TERRITORY].role
    for other in set(micro.domains) - {role}:
        at = micro.domains[other].basin_array
        found, known = within(local.route(at), local.domains, margin_min_rad=MARGIN_MIN_RAD), micro.route(at)
        assert [step.name for step in found.steps] == [step.name for step in known.steps]
        assert [step.weight for step in found.steps] == pytest.approx([step.weight for step in known.steps])
        assert (found.margin_rad, found.abstained) == (known.margin_rad, known.abstained)


# The gate


@pytest.mark.parametrize(("gain", "serves"), [(-1e-9, False), (0.0, False), (1e-9, True)])
def test_a_gate_serves_only_while_it_saves(micro, residue, gain, serves):
    tuned = Tuned(leaning(0.9), gain)
    assert tuned.serves == serves
    found = absorb(micro, micro, "heart", residue, tuned).domains["heart"].gate_array
    assert np.array_equal(found, tuned.gate if serves else micro.domains["heart"].gate_array)


def test_the_first_text_teaches_a_gate_and_proves_nothing():
    tuned = tune(None, leaning(0.5), [reading(0.9, places=10_000)])
    assert tuned.gain_bits == 0.0
    assert tuned.gate[0, 0] > 0.9
    assert np.array_equal(tuned.gate[1:], leaning(0.5)[1:])


@pytest.mark.parametrize(("next_text", "better"), [(0.9, True), (0.5, None), (0.1, False)])
def test_a_gate_is_judged_on_text_that_it_has_not_learned_from(next_text, better):
    tuned = tune(tune(None, leaning(0.5), [reading(0.9)]), leaning(0.5), [reading(next_text)])
    assert (tuned.gain_bits > 1e-9, tuned.gain_bits < -1e-9) == (better is True, better is False)


def test_little_text_moves_a_gate_little():
    little, much = (tune(None, leaning(0.5), [reading(0.9, places)]).gate[0, 0] for places in (10, 10_000))
    assert 0.5 < little < 0.55
    assert much > 0.9


def test_what_a_gate_saved_long_ago_fades():
    tuned = Tuned(leaning(0.5), 64.0)
    for _ in range(6):
        tuned = tune(replace(tuned, gate=leaning(0.5)), leaning(0.5), [reading(0.5)])
    assert tuned.gain_bits == pytest.approx(64.0 * GAIN_KEPT**6)


def test_a_gate_of_other_experts_is_not_used_and_learned_anew(micro, residue):
    old = Tuned(gate.prior(3), 100.0)
    assert np.array_equal(
        absorb(micro, micro, "heart", residue, old).domains["heart"].gate_array, micro.domains["heart"].gate_array
    )
    assert tune(old, leaning(0.5), [reading(0.9)]).gain_bits == 0.0


def test_a_learned_gate_is_a_gate_that_a_bundle_could_hold(micro, residue, basin):
    tuned = tune(None, gate.prior(3), [Reading(np.tile([0.1, 0.2, 0.3], (50, 1)), np.arange(50) % 33, None)])
    opened = open_new(micro, residue, replace(tuned, gain_bits=1.0), basin).domains[TERRITORY]
    assert type(opened).model_validate(opened.model_dump()) == opened
