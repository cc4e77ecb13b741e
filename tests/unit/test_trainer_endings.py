"""Domains end: two of one kind become one, one at its role's place goes home, what nobody uses goes."""

from dataclasses import replace

import numpy as np
import pytest
from micro import SENTENCES
from test_trainer_consolidate import HELD_OUT, brimming, figures, run, update

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.constellation.domains import FORMER_MAX, heirs
from common.constellation.parts import load
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, slerp, to_float16
from common.kernels import gate, memory
from common.wire.fields import MAX_DOMAINS
from services.trainer import endings
from services.trainer.endings import (
    CONVERGED_RAD,
    IDLE_BATCHES,
    IDLE_ENTRIES,
    READ_SHARE,
    ROOM,
    SAVED_MIN,
    ended,
    patience,
    read_share,
    saved_share,
)
from services.trainer.evaluate import Examiner
from services.trainer.prune import WEIGHT_MAX
from services.trainer.updates import crystals_of

WORDS = {
    "law": "and the priest shall take of the blood of the bullock unto the people before the altar of the tabernacle",
    "kitchen": "stir two cups of flour with butter then fold in sugar salt eggs warm milk until smooth bake golden",
}


def story(kind, seed, words=700):
    """Text of one kind: its words, each mostly followed by the one after it."""
    rng, known = np.random.default_rng(seed), WORDS[kind].split()
    at, said = 0, []
    for jump in rng.random(words):
        at = int(rng.integers(len(known))) if jump < 0.2 else (at + 1) % len(known)
        said.append(known[at])
    return " ".join(said) + ". "


def told(micro, name, kind="law", seed=0, role="percept", **fields):
    return update(micro, name, role, story(kind, seed), **fields)


def beside(basin, rad):
    """The point `rad` from a basin on the geodesic to a far corner."""
    end = 0.02 / 64 + 0.98 * np.eye(64)[5]
    return slerp(basin, end, rad / float(distance(basin, end)))


def packed(basin):
    return to_float16(basin).tobytes()


def test_one_kind_of_text_opened_twice_becomes_one_domain(micro, micro_parts):
    one, other = told(micro, "d-1"), told(micro, "d-2", seed=1)
    made = run(micro_parts, one, other)
    after = load(made.parts)
    assert [name for name in after.domains if name not in ROLES] == ["d-1"]
    assert after.domains["d-1"].formerly == ("d-2",)
    assert heirs(after.domains.values()) == {"d-2": "d-1"}
    assert "memories/d-2.bin" not in made.parts
    assert figures(made, "converged_rad")["d-2"][1] <= CONVERGED_RAD
    assert figures(made, "read_share")["d-2"][1] >= READ_SHARE


def test_a_batch_in_which_domains_end_gives_the_same_bytes_each_time(micro, micro_parts):
    given = [told(micro, f"d-{n}", seed=n) for n in range(3)]
    assert run(micro_parts, *given) == run(micro_parts, *given)


def test_the_counts_of_converged_domains_add_exactly(micro, micro_parts):
    one, other = told(micro, "d-1"), told(micro, "d-2", seed=1)
    found = load(run(micro_parts, one, other).parts).memories["d-1"]
    wanted = memory.merge([crystals_of(each, micro) for each in (one, other)])
    for table, expected in zip(found.tables, wanted.tables, strict=True):
        assert np.array_equal(table.keys, expected.keys)
        assert np.array_equal(table.counts, expected.counts)
        assert np.array_equal(table.totals, expected.totals)


def test_the_counts_of_converged_domains_of_billions_of_tokens_are_halved(micro, micro_parts, monkeypatch):
    full = []

    def without(constellation, ending, real=endings._without):
        full.append({**constellation.memories, ending.heir: brimming(constellation.memories[ending.heir])})
        return real(replace(constellation, memories=full[-1]), ending)

    monkeypatch.setattr(endings, "_without", without)
    found = load(run(micro_parts, told(micro, "d-1"), told(micro, "d-2", seed=1)).parts).memories["d-1"]
    assert full[0]["d-1"].tokens == WEIGHT_MAX
    assert found.tokens == pytest.approx(WEIGHT_MAX / 2, rel=1e-6)


def test_two_kinds_of_text_stay_two_domains_wherever_they_lie(micro, micro_parts):
    there = packed(micro.basin(micro.encoder.encode(story("law", 0))))
    made = run(micro_parts, told(micro, "d-1", basin=there), told(micro, "d-2", "kitchen", basin=there))
    after = load(made.parts)
    assert {"d-1", "d-2"} <= set(after.domains)
    shares = [read_share(after, *pair) for pair in (("d-1", "d-2"), ("d-2", "d-1"))]
    assert max(shares) < READ_SHARE


@pytest.mark.parametrize(("rad", "one"), [(0.97, True), (1.03, False)])
def test_one_kind_of_text_stays_two_domains_that_lie_apart(micro, micro_parts, rad, one):
    here = beside(micro.domains["percept"].basin_array, 0.5)
    there = beside(here, rad * CONVERGED_RAD)
    made = run(micro_parts, told(micro, "d-1", basin=packed(here)), told(micro, "d-2", seed=1, basin=packed(there)))
    assert ("d-2" not in load(made.parts).domains) is one


def test_domains_of_two_roles_stay_two(micro, micro_parts):
    made = run(micro_parts, told(micro, "d-1"), told(micro, "d-2", seed=1, role="heart"))
    assert {"d-1", "d-2"} <= set(load(made.parts).domains)


def test_of_two_domains_the_older_stays_whatever_their_names(micro, micro_parts):
    first = run(micro_parts, told(micro, "d-9")).parts
    after = load(run(first, told(micro, "d-1", seed=1)).parts)
    assert after.domains["d-9"].formerly == ("d-1",)


def test_the_heir_lies_between_weighs_both_gates_and_bears_all_former_names(micro, micro_parts):
    sums = np.random.default_rng(1).uniform(0, 200, (gate.BUCKETS, 3))
    given = [told(micro, "d-1"), told(micro, "d-2", seed=1, gate=gate.to_bytes(sums))]
    both = load(run(micro_parts, given[0]).parts)
    both = replace(both, memories={**both.memories, "d-2": crystals_of(given[1], micro)})
    one = both.domains["d-1"].model_copy(update={"formerly": ("d-a",)})
    learned = tuple(map(tuple, gate.update(one.gate_array, sums).tolist()))
    basin = tuple(beside(one.basin_array, 0.05).tolist())
    two = one.model_copy(
        update={"name": "d-2", "memories": ("percept", "d-2"), "gate": learned, "basin": basin, "formerly": ("d-b",)}
    )
    both = replace(both, domains={**both.domains, "d-1": one, "d-2": two})
    found = end(both)[0].domains["d-1"]
    tokens = [both.memories[name].tokens for name in ("d-1", "d-2")]
    assert found.formerly == ("d-a", "d-b", "d-2")
    mean = frechet_mean(np.stack([one.basin_array, two.basin_array]), np.array(tokens, float))
    assert np.allclose(found.basin_array, mean)
    assert np.allclose(found.gate_array, np.average([one.gate_array, two.gate_array], 0, tokens))


def test_a_domain_bears_the_newest_of_too_many_former_names(micro, micro_parts):
    both = apart(micro, micro_parts)
    many = tuple(f"d-x{n}" for n in range(FORMER_MAX))
    one = both.domains["d-1"].model_copy(update={"formerly": many})
    found = end(replace(both, domains={**both.domains, "d-1": one}))[0].domains["d-1"]
    assert found.formerly == (*many[1:], "d-2")


def end(constellation, held_out=HELD_OUT, tolerance=1.001):
    examiner = Examiner(held_out)
    scores = examiner.scores(constellation)
    return ended(constellation, examiner, scores, {d: s.bits_per_byte * tolerance for d, s in scores.items()})


def apart(micro, micro_parts):
    """Two domains of one kind, as a bundle holds them that nobody looked at since."""
    one = load(run(micro_parts, told(micro, "d-1")).parts)
    two = one.domains["d-1"].model_copy(update={"name": "d-2", "memories": ("percept", "d-2")})
    memories = {**one.memories, "d-2": crystals_of(told(micro, "d-2", seed=1), micro)}
    return replace(one, memories=memories, domains={**one.domains, "d-2": two})


def test_an_update_under_a_former_name_goes_to_the_heir(micro, micro_parts):
    first = run(micro_parts, told(micro, "d-1"), told(micro, "d-2", seed=1)).parts
    late = told(micro, "d-2", seed=2, opened=True, gate=gate.to_bytes(np.ones((gate.BUCKETS, 3))))
    made = run(first, late)
    after = load(made.parts)
    assert "d-2" not in after.domains
    assert after.memories["d-1"].tokens == load(first).memories["d-1"].tokens + crystals_of(late, micro).tokens
    assert figures(made, "crystal_bits").keys() == {"d-1"}


def test_what_a_former_name_says_of_a_gate_of_other_experts_is_left_out(micro, micro_parts):
    domains = load(micro_parts).domains
    percept = domains["percept"].model_copy(update={"formerly": ("d-2",)})
    parts = micro_parts | bundle_parts.domains_part({**domains, "percept": percept})
    late = told(micro, "d-2", opened=False, gate=gate.to_bytes(np.ones((gate.BUCKETS, 3))))
    after = load(run(parts, late).parts)
    assert np.array_equal(after.domains["percept"].gate_array, percept.gate_array)
    assert after.memories["percept"].tokens > micro.memories["percept"].tokens


# At its role's place


def at_home(micro, micro_parts, rad=0.0):
    """A domain of PERCEPT's own text, some way from PERCEPT."""
    known = update(micro, "d-1", "percept", SENTENCES["percept"] * 3)
    grown = crystals_of(known, micro)
    rows = tuple(map(tuple, gate.prior(3).tolist()))
    percept = micro.domains["percept"]
    own = {"name": "d-1", "memories": ("percept", "d-1"), "gate": rows}
    there = tuple(beside(percept.basin_array, rad).tolist()) if rad else percept.basin
    opened = percept.model_copy(update=own | {"basin": there})
    return replace(micro, memories={**micro.memories, "d-1": grown}, domains={**micro.domains, "d-1": opened})


def settled(constellation, own_bits=float("inf")):
    """What ends where all other text may get worse. own_bits: of PERCEPT's text, before."""
    examiner = Examiner(HELD_OUT)
    scores = examiner.scores(constellation)
    scores["percept"] = replace(scores["percept"], bits_per_byte=own_bits)
    return ended(constellation, examiner, scores, dict.fromkeys(scores, float("inf")))


@pytest.fixture
def little(monkeypatch, micro, micro_parts):
    """Sets how little a memory has to save: this much more, as a factor, than that of PERCEPT's own text does."""
    monkeypatch.setattr(endings, "READ_MIN_ENTRIES", 16)
    saved = saved_share(at_home(micro, micro_parts), "d-1")

    def set_to(factor):
        monkeypatch.setattr(endings, "SAVED_MIN", factor * saved)

    set_to(1.001)
    return set_to


@pytest.mark.parametrize(("rad", "goes"), [(0.97, True), (1.03, False)])
def test_a_domain_of_its_role_s_own_text_at_its_role_s_place_goes_home(micro, micro_parts, little, rad, goes):
    given = at_home(micro, micro_parts, rad * CONVERGED_RAD)
    after, _, why = settled(given)
    assert ("d-1" not in after.domains) is goes
    assert [each.name for each in why] == (["converged_rad", "saved_share"] if goes else [])


def test_its_counts_and_its_name_go_to_the_role_whose_place_stays(micro, micro_parts, little):
    given = at_home(micro, micro_parts)
    after = settled(given)[0]
    assert after.domains["percept"] == micro.domains["percept"].model_copy(update={"formerly": ("d-1",)})
    wanted = memory.merge([given.memories["percept"], given.memories["d-1"]])
    for found, table in zip(after.memories["percept"].tables, wanted.tables, strict=True):
        assert np.array_equal(found.counts, table.counts)


@pytest.mark.parametrize(("factor", "goes"), [(1.0, False), (1.001, True)])
def test_a_domain_whose_memory_saves_enough_stays(micro, micro_parts, little, factor, goes):
    little(factor)
    assert ("d-1" not in settled(at_home(micro, micro_parts))[0].domains) is goes


@pytest.mark.parametrize(("less", "goes"), [(0.0, True), (1e-9, False)])
def test_a_role_becomes_an_heir_only_where_its_own_text_is_read_no_worse(micro, micro_parts, little, less, goes):
    given = at_home(micro, micro_parts)
    own = Examiner(HELD_OUT).scores(settled(given)[0])["percept"].bits_per_byte
    assert ("d-1" not in settled(given, own - less)[0].domains) is goes


def test_other_text_at_a_role_s_place_stays_a_domain(micro, micro_parts):
    there = packed(micro.domains["percept"].basin_array)
    after = load(run(micro_parts, told(micro, "d-1", basin=there)).parts)
    assert saved_share(after, "d-1") > SAVED_MIN


def test_an_ending_that_makes_held_out_text_worse_does_not_happen(micro, micro_parts):
    both = apart(micro, micro_parts)
    examiner = Examiner(HELD_OUT)
    scores = examiner.scores(both)
    assert set(end(both)[0].domains) == {*ROLES, "d-1"}
    strict = {domain: score.bits_per_byte - 1e-9 for domain, score in scores.items()}
    assert ended(both, examiner, scores, strict)[0] is both


# What nobody uses


def idle(micro, micro_parts, batches):
    """A constellation with a domain that the last `batches` batches brought nothing to."""
    found = load(run(micro_parts, told(micro, "d-1")).parts)
    unused = found.domains["d-1"].model_copy(update={"idle": batches})
    return replace(found, domains={**found.domains, "d-1": unused})


@pytest.mark.parametrize(
    ("entries", "batches"),
    [
        (0, IDLE_BATCHES),
        (IDLE_ENTRIES - 1, IDLE_BATCHES),
        (IDLE_ENTRIES, 2 * IDLE_BATCHES),
        (10 * IDLE_ENTRIES, 11 * IDLE_BATCHES),
    ],
)
def test_what_knows_more_is_waited_for_longer(entries, batches):
    assert patience(entries) == batches


@pytest.mark.parametrize(("short", "goes"), [(1, False), (0, True), (-1, True)])
def test_a_domain_that_nobody_uses_goes_when_patience_ends(micro, micro_parts, short, goes):
    given = idle(micro, micro_parts, 0)
    limit = patience(given.memories["d-1"].entries)
    after, _, why = end(idle(micro, micro_parts, limit - short))
    assert ("d-1" not in after.domains) is goes
    assert [(each.name, each.domain, each.after) for each in why] == (
        [("idle_batches", "d-1", limit - short)] if goes else []
    )


def test_what_an_unused_domain_knew_goes_with_it_and_the_nearest_bears_its_name(micro, micro_parts):
    given = idle(micro, micro_parts, 10_000)
    after = end(given)[0]
    nearest = given.route(given.domains["d-1"].basin_array).steps[1].name
    assert after.domains[nearest].formerly == ("d-1",)
    assert set(after.memories) == set(ROLES)
    assert all(after.memories[role] is given.memories[role] for role in ROLES)


def test_each_batch_that_brings_a_domain_nothing_is_counted_until_one_does(micro, micro_parts):
    parts = run(micro_parts, told(micro, "d-1")).parts
    counted = []
    for one in (("heart", "heart"), ("vocab", "vocab")):
        parts = run(parts, update(micro, *one)).parts
        counted.append(load(parts).domains["d-1"].idle)
    parts = run(parts, told(micro, "d-1", seed=3, opened=False)).parts
    assert [*counted, load(parts).domains["d-1"].idle] == [1, 2, 0]
    assert {load(parts).domains[role].idle for role in ROLES} == {0}


@pytest.mark.parametrize(
    ("domains", "stay"), [(MAX_DOMAINS - ROOM, MAX_DOMAINS - ROOM), (MAX_DOMAINS, MAX_DOMAINS - ROOM)]
)
def test_places_stay_free_for_new_territory_and_the_least_used_go_first(micro, micro_parts, domains, stay):
    given = idle(micro, micro_parts, 1)
    rng = np.random.default_rng(1)
    many = {
        name: given.domains["d-1"].model_copy(update={"name": name, "idle": n % 7, "basin": tuple(basin.tolist())})
        for n, (name, basin) in enumerate((f"d-{n}", rng.dirichlet(np.ones(64))) for n in range(2, domains - 3))
    }
    crowd = replace(given, domains={**given.domains, **many})
    assert len(crowd.domains) == domains
    after = end(crowd)[0]
    waited = {name: crowd.domains[name].idle for name in crowd.domains if name not in ROLES}
    gone = sorted(waited[name] for name in waited if name not in after.domains)
    assert len(after.domains) == stay
    assert gone == sorted(waited.values())[len(waited) - len(gone) :]


# Where text lies


def test_an_opened_domain_lies_in_the_middle_of_what_it_was_brought(micro, micro_parts):
    here = beside(micro.domains["percept"].basin_array, 0.5)
    there = beside(here, 0.2)
    first = run(micro_parts, told(micro, "d-1", basin=packed(here), tokens=500)).parts
    known = load(first).memories["d-1"].tokens
    late = told(micro, "d-1", seed=1, opened=False, basin=packed(there), tokens=3 * known)
    found = load(run(first, late).parts).domains["d-1"].basin_array
    assert float(distance(found, here)) == pytest.approx(0.15, abs=2e-3)


def test_a_role_stays_where_its_text_was_measured(micro, micro_parts):
    far = packed(beside(micro.domains["heart"].basin_array, 0.5))
    after = load(run(micro_parts, update(micro, "heart", "heart", basin=far)).parts)
    assert after.domains["heart"].basin == micro.domains["heart"].basin
