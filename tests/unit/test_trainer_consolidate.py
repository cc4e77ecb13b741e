"""A batch becomes a candidate: memories add, gates move, states train only where nobody is harmed."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from micro import MICRO, SENTENCES
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constants import ROLES
from common.constellation.parts import domains_part, load
from common.errors import Rejected
from common.geometry.means import drift
from common.geometry.simplex import to_float16, uniform
from common.kernels import gate, memory
from common.wire import crystals as codec
from common.wire.messages import Batch, Correction, DomainUpdate, PacketRef, batch_id, correction_id
from common.wire.ngrams import Crystals, Order
from services.trainer import consolidate as room
from services.trainer import dreams, updates
from services.trainer.consolidate import STATE_TOLERANCE, consolidate
from services.trainer.evaluate import Examiner, Score
from services.trainer.prune import WEIGHT_MAX

FRESH = "And it came to pass that the people went up unto the mountain, and the people saw the light. "
HELD_OUT = {role: [SENTENCES[role] * 2] for role in ROLES}
REPLAY = {role: [SENTENCES[role] * 12] for role in ROLES}


def crystals_from(ids, vocab=MICRO.vocab):
    """The plain form of a text's n-grams, orders 0 to 2."""
    tables = memory.count([ids], orders=3).tables
    return codec.encode(Crystals(tuple(Order(t.keys, t.counts, t.contexts, t.totals) for t in tables)), vocab)


def update(micro, name="d-new", role="percept", text=FRESH * 6, **fields):
    ids = micro.encoder.encode(text)
    given = {
        "name": name,
        "kernel": role,
        "opened": name not in micro.domains,
        "basin": to_float16(micro.basin(ids)).tobytes(),
        "crystals": crystals_from(ids),
        "packets": 3,
        "tokens": len(ids),
        "fresh_bytes": len(text),
        "fresh_bits": 4.0 * len(text),
    }
    return DomainUpdate(**(given | fields))


def batch(*updates, merges=()):
    refs = (PacketRef(key=b"\x01" * 8, epoch=1, sequence=1),)
    return Batch(id=batch_id(refs), base_version=1, base_digest="", domains=updates, packets=refs, merges=merges)


def run(parts, *updates, steps=0, seed=1, held_out=HELD_OUT, merges=(), **more):
    made = batch(*updates, merges=merges)
    return consolidate(parts, made, replay=REPLAY, held_out=held_out, steps=steps, seed=seed, **more)


def figures(made, name):
    return {f.domain: (f.before, f.after) for f in made.figures if f.name == name}


def test_a_batch_of_which_nothing_counts_yet_leaves_every_part_as_it_is(micro_parts):
    made = run(micro_parts, steps=4)
    assert (made.parts, made.figures, made.guards) == (micro_parts, (), ())


def test_a_new_domain_is_opened_beside_its_nearest_role(micro, micro_parts):
    opened = load(run(micro_parts, update(micro)).parts).domains["d-new"]
    assert (opened.role, opened.memories) == ("percept", ("percept", "d-new"))
    assert opened.radius_rad == max(micro.domains[role].radius_rad for role in ROLES)
    assert opened.bits_per_byte == 4.0
    assert np.array_equal(opened.gate_array, gate.prior(3))


def test_a_new_domain_s_text_is_routed_to_it_and_better_known(micro, micro_parts):
    made = run(micro_parts, update(micro))
    after = load(made.parts)
    ids = after.encoder.encode(FRESH * 2)
    assert after.route(after.basin(ids)).steps[0].name == "d-new"
    assert after.bits(ids, "d-new") < 0.6 * micro.bits(ids, "percept")
    before, now = figures(made, "crystal_bits")["d-new"]
    assert now < 0.6 * before


def test_a_new_domain_s_memory_holds_its_crystals_and_nothing_else(micro, micro_parts):
    made = load(run(micro_parts, update(micro)).parts)
    known = updates.crystals_of(update(micro), micro)
    assert all(
        np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)
        for a, b in zip(made.memories["d-new"].tables, known.tables, strict=True)
    )


def test_crystals_of_a_known_domain_are_added_to_its_memory(micro, micro_parts):
    one = update(micro, "heart", "heart", SENTENCES["heart"] * 3)
    after = load(run(micro_parts, one).parts)
    wanted = memory.merge([micro.memories["heart"], updates.crystals_of(one, micro)])
    assert list(after.domains) == list(micro.domains)
    for found, table in zip(after.memories["heart"].tables, wanted.tables, strict=True):
        assert np.array_equal(found.counts, table.counts)
        assert np.array_equal(found.totals, table.totals)
    assert after.memories["heart"].tokens > micro.memories["heart"].tokens


def test_a_batch_for_a_domain_opened_by_the_batch_before_is_added_to_it(micro, micro_parts):
    first = run(micro_parts, update(micro)).parts
    second = load(run(first, update(micro, opened=False)).parts)
    twice = memory.merge([load(first).memories["d-new"], updates.crystals_of(update(micro), micro)])
    assert second.memories["d-new"].tokens == twice.tokens
    assert list(second.domains).count("d-new") == 1


def test_gate_statistics_are_one_step_of_em(micro, micro_parts):
    sums = np.random.default_rng(1).uniform(0, 200, (gate.BUCKETS, 2))
    packed = gate.to_bytes(sums)
    after = load(run(micro_parts, update(micro, "heart", "heart", gate=packed)).parts)
    wanted = gate.update(micro.domains["heart"].gate_array, gate.from_bytes(packed, 2))
    assert np.allclose(after.domains["heart"].gate_array, wanted)
    assert not np.allclose(wanted, micro.domains["heart"].gate_array)
    assert np.array_equal(after.domains["vocab"].gate_array, micro.domains["vocab"].gate_array)


def test_a_gate_of_another_number_of_experts_is_rejected(micro, micro_parts):
    with pytest.raises(Rejected) as error:
        run(micro_parts, update(micro, gate=gate.to_bytes(np.ones((gate.BUCKETS, 2)))))
    assert error.value.code == "bad_gate"


def test_without_steps_everything_but_memories_and_domains_stays_byte_for_byte(micro, micro_parts):
    made = run(micro_parts, update(micro), update(micro, "heart", "heart"))
    changed = {path for path, data in made.parts.items() if micro_parts.get(path) != data}
    assert changed == {"memories/d-new.bin", "memories/heart.bin", "domains.json"}
    assert made.guards == ()
    assert set(figures(made, "drift_rad").values()) == {(None, 0.0)}


@pytest.mark.parametrize(("room_left", "pruned"), [(0, False), (-1, True), (-100, True)])
def test_a_memory_that_has_grown_too_large_loses_what_saves_the_fewest_bits(
    micro, micro_parts, monkeypatch, room_left, pruned
):
    one = update(micro, "heart", "heart", SENTENCES["percept"] * 3)
    whole = memory.merge([micro.memories["heart"], updates.crystals_of(one, micro)])
    monkeypatch.setattr(updates, "MEMORY_MAX_ENTRIES", whole.entries + room_left)
    after = load(run(micro_parts, one).parts).memories["heart"]
    assert (after.entries < whole.entries) is pruned
    assert after.entries <= whole.entries + room_left
    assert after.tokens == whole.tokens  # contexts keep their totals
    assert np.isin(after.tables[2].keys, whole.tables[2].keys).all()


@pytest.fixture(scope="module")
def trained(micro, micro_parts):
    """A batch consolidated with a few steps of state training, twice."""
    return [run(micro_parts, update(micro), steps=3) for _ in range(2)]


def test_a_batch_consolidated_twice_gives_the_same_bytes(trained):
    assert trained[0] == trained[1]


def test_a_trained_state_moves_and_its_home_with_it(micro, micro_parts, trained):
    parts = trained[0].parts
    assert trained[0].guards == ()
    assert parts["kernels/percept.safetensors"] != micro_parts["kernels/percept.safetensors"]
    assert parts["kernels/heart.safetensors"] == micro_parts["kernels/heart.safetensors"]
    after = load(parts)
    drifts = figures(trained[0], "drift_rad")
    assert drifts["percept"] == (None, pytest.approx(drift(micro.homes["percept"], after.homes["percept"])))
    assert drifts["percept"][1] > 0 == drifts["heart"][1]


def test_the_figures_are_those_of_the_parts_that_are_released(trained):
    found = Examiner(HELD_OUT).scores(load(trained[0].parts))
    told = figures(trained[0], "bits_per_byte")
    assert {domain: after for domain, (_, after) in told.items()} == {d: s.bits_per_byte for d, s in found.items()}


def told(made, name, domain):
    (found,) = [f for f in made.figures if (f.name, f.domain) == (name, domain)]
    return found


LONG = {role: [SENTENCES[role][7 * number :] * 4 for number in range(8)] for role in ROLES}


def test_every_figure_tells_how_sure_its_change_is(micro_parts, micro):
    one = update(micro)
    made = run(micro_parts, one, steps=3, held_out=LONG)
    sure = {(f.name, f.domain): (f.low, f.after - (f.before or 0.0), f.high) for f in made.figures}
    for domain in ROLES:
        for name in ("bits_per_byte", "routed", "drift_rad"):
            low, change, high = sure[name, domain]
            assert low <= change + 1e-9, (name, domain)
            assert (
                change - 1e-9 <= high or name == "drift_rad"
            )  # a home moves as replayed text moves, not held-out text
    assert sure["crystal_bits", "d-new"][2] < 0
    assert (sure["kappa", "percept"][0] is None) is (sure["kappa", "percept"][2] is None)
    assert {domain for name, domain in sure if name == "kappa"} == {"percept"}


def test_what_no_training_touched_has_moved_by_nothing_for_sure(micro, micro_parts):
    made = run(micro_parts, update(micro), held_out=LONG)
    assert {(told(made, "drift_rad", role).low, told(made, "drift_rad", role).high) for role in ROLES} == {(0.0, 0.0)}
    assert not [f for f in made.figures if f.name in {"phi_ratio", "kappa"}]


def test_passages_of_few_documents_make_a_change_less_sure(micro, micro_parts):
    given = batch(update(micro, "heart", "heart"))
    common = {"replay": REPLAY, "held_out": LONG, "steps": 0, "seed": 1}
    alone = consolidate(micro_parts, given, **common)
    halves = {role: [str(number // 2) for number in range(8)] for role in ROLES}
    twos = consolidate(micro_parts, given, **common, parents={**halves})
    threes = consolidate(micro_parts, given, **common, parents={role: ["a"] * 8 for role in ROLES})
    assert told(alone, "bits_per_byte", "heart").low != told(twos, "bits_per_byte", "heart").low
    assert told(threes, "bits_per_byte", "heart").low is None


def test_another_seed_dreams_and_trains_another_state(micro, micro_parts, trained):
    path = "kernels/percept.safetensors"
    assert run(micro_parts, update(micro), steps=3, seed=2).parts[path] != trained[0].parts[path]


@pytest.fixture
def harmful(monkeypatch):
    """State training that teaches a state to say nothing but byte 0."""

    def ruin(model, *_, **__):
        with torch.no_grad():
            model.tensors["bias"][0] = 60.0
        return iter(())

    monkeypatch.setattr(dreams, "train", ruin)


def test_a_state_that_harms_a_domain_is_dropped(micro, micro_parts, harmful):
    made = run(micro_parts, update(micro), steps=3)
    assert "state-dropped-percept" in made.guards
    assert made.parts["kernels/percept.safetensors"] == micro_parts["kernels/percept.safetensors"]
    assert made.parts["homes.npy"] == micro_parts["homes.npy"]
    assert figures(made, "crystal_bits")["d-new"][1] < figures(made, "crystal_bits")["d-new"][0]


class Scripted:
    """An examiner whose figures are given, call by call."""

    figures = ()

    def __init__(self, _passages, _parents):
        self._calls = iter(self.figures)
        self.intervals = Examiner({"heart": []}).intervals

    def scores(self, _constellation):
        return {"heart": Score(next(self._calls), 1.0, 0.3)}


@pytest.mark.parametrize(
    ("first", "second", "dropped"),
    [
        (STATE_TOLERANCE, STATE_TOLERANCE, 0),
        (STATE_TOLERANCE + 1e-9, 1.0, 1),
        (STATE_TOLERANCE, STATE_TOLERANCE**2, 1),
        (0.9, STATE_TOLERANCE + 1e-9, 1),
    ],
    ids=["at", "above", "compounded", "above what was merged"],
)
def test_all_states_of_a_batch_together_stay_in_the_tolerance(micro, micro_parts, monkeypatch, first, second, dropped):
    monkeypatch.setattr(Scripted, "figures", (1.0, 1.0, first, second))
    monkeypatch.setattr(room, "Examiner", Scripted)
    monkeypatch.setattr(dreams, "learned", lambda state, *_: (state, []))
    made = run(micro_parts, update(micro), update(micro, "heart", "heart"), steps=1)
    assert sum(word.startswith("state-dropped") for word in made.guards) == dropped
    assert figures(made, "bits_per_byte")["heart"][1] <= STATE_TOLERANCE


def test_a_state_that_a_guard_put_back_is_dropped(micro, micro_parts, monkeypatch):
    monkeypatch.setattr(dreams, "learned", lambda state, *_: (state, ["restore"]))
    made = run(micro_parts, update(micro), steps=1)
    assert made.guards == ("restore-percept", "state-dropped-percept")
    assert made.parts["kernels/percept.safetensors"] == micro_parts["kernels/percept.safetensors"]


def test_a_token_id_outside_the_vocabulary_is_rejected(micro, micro_parts):
    beyond = crystals_from(np.array([3, MICRO.vocab, 4], np.int32), MICRO.vocab + 1)
    with pytest.raises(Rejected):
        run(micro_parts, update(micro, crystals=beyond))
    forged = beyond[:5] + MICRO.vocab.to_bytes(2, "little") + beyond[7:]
    with pytest.raises(Rejected):
        run(micro_parts, update(micro, crystals=forged))


@pytest.mark.parametrize("crystals", [b"", b"\x01", b"\xff" * 64])
def test_what_are_no_crystals_is_rejected(micro, micro_parts, crystals):
    with pytest.raises(Rejected):
        run(micro_parts, update(micro, crystals=crystals))


@pytest.mark.parametrize(
    "fields",
    [{"name": "Sea.Stories"}, {"fresh_bits": 1e9}, {"basin": np.zeros(64, np.float16).tobytes()}],
    ids=["name", "bits", "basin"],
)
def test_a_domain_that_cannot_be_opened_is_rejected(micro, micro_parts, fields):
    with pytest.raises(Rejected):
        run(micro_parts, update(micro, **({"name": "d-new"} | fields)))


def test_a_domain_opened_without_a_crystal_has_nothing_to_dream_of(micro, micro_parts):
    made = run(micro_parts, update(micro, crystals=crystals_from(np.empty(0, np.int32))), steps=1)
    assert made.parts["kernels/percept.safetensors"] == micro_parts["kernels/percept.safetensors"]
    assert load(made.parts).memories["d-new"].entries == 0


def test_a_domain_far_from_all_text_changes_no_old_figure(micro, micro_parts):
    basin = to_float16(0.02 * uniform() + 0.98 * np.eye(64)[0]).tobytes()
    made = run(micro_parts, update(micro, basin=basin))
    assert all(before == after for before, after in figures(made, "bits_per_byte").values())


def test_a_domain_that_draws_old_text_away_shows_in_the_old_figure(micro, micro_parts):
    thief = update(micro, basin=to_float16(micro.basin(micro.encoder.encode(HELD_OUT["heart"][0]))).tobytes())
    before, after = figures(run(micro_parts, thief), "bits_per_byte")["heart"]
    assert after != before


def test_the_constellation_that_was_given_is_not_touched(micro, micro_parts):
    before = dict(micro_parts)
    run(micro_parts, update(micro))
    assert micro_parts == before
    assert replace(micro).domains == load(micro_parts).domains


def brimming(known):
    """A memory of as many tokens as its counts have room for."""
    table = known.tables[0]
    counts = table.counts * np.uint32(WEIGHT_MAX // int(table.counts.sum()))
    counts[0] += WEIGHT_MAX - int(counts.sum())
    return memory.Memory((memory.Table.complete(table.keys, counts), *known.tables[1:]))


def test_a_memory_of_billions_of_tokens_goes_on_learning(micro):
    full = replace(micro, memories={**micro.memories, "heart": brimming(micro.memories["heart"])})
    assert full.memories["heart"].tokens == WEIGHT_MAX
    ids = micro.encoder.encode(SENTENCES["heart"] * 3)
    told = update(micro, "heart", "heart", crystals=crystals_from(ids))
    for after in (updates.merged(full, [told]), updates.corrected(full, [correction("heart", ids[:0], ids)])):
        assert after.memories["heart"].tokens == pytest.approx(WEIGHT_MAX / 2, rel=1e-6)


# Corrections


def correcting(*corrections):
    return Batch(
        id=correction_id(corrections), base_version=0, base_digest="", domains=(), packets=(), corrections=corrections
    )


def correction(name, was, now):
    return Correction(batch="ab" * 32, name=name, was=crystals_from(was), now=crystals_from(now))


def corrected(parts, *corrections):
    made = consolidate(parts, correcting(*corrections), replay=REPLAY, held_out=HELD_OUT, steps=5, seed=1)
    return load(made.parts), made


def same_memory(one, other):
    return all(
        np.array_equal(mine, theirs)
        for a, b in zip(one.tables, other.tables, strict=True)
        for mine, theirs in zip(a[:4], b[:4], strict=True)
    )


def test_a_correction_leaves_the_memory_that_the_batch_without_the_node_would_have_made(micro, micro_parts):
    whole, less = (micro.encoder.encode(SENTENCES["heart"] * times) for times in (3, 2))
    with_all = run(micro_parts, update(micro, "heart", "heart", crystals=crystals_from(whole))).parts
    wanted = load(run(micro_parts, update(micro, "heart", "heart", crystals=crystals_from(less))).parts)
    found, made = corrected(with_all, correction("heart", whole, less))
    assert same_memory(found.memories["heart"], wanted.memories["heart"])
    assert made.guards == ()
    assert {f.after for f in made.figures if f.name == "drift_rad"} == {0.0}


def test_a_correction_takes_no_count_below_zero_and_brings_no_domain_anything(micro, micro_parts):
    ids = micro.encoder.encode(FRESH * 3)
    opened = run(micro_parts, update(micro)).parts
    found, _ = corrected(opened, correction("d-new", np.tile(ids, 9), ids[:0]))
    assert found.memories["d-new"].entries == 0
    assert found.domains["d-new"].idle == load(opened).domains["d-new"].idle


def test_what_an_ended_domain_s_batch_said_is_corrected_in_its_heir(micro, micro_parts):
    heir = micro.domains["heart"].model_copy(update={"formerly": ("d-gone",)})
    parts = micro_parts | domains_part({**micro.domains, "heart": heir})
    ids = micro.encoder.encode(SENTENCES["heart"] * 3)
    with_it = run(parts, update(micro, "heart", "heart", crystals=crystals_from(ids))).parts
    found, _ = corrected(with_it, correction("d-gone", ids, ids[:0]))
    assert same_memory(found.memories["heart"], load(parts).memories["heart"])


def test_of_a_domain_that_is_not_known_there_is_nothing_to_correct(micro, micro_parts):
    ids = micro.encoder.encode(FRESH)
    found, _ = corrected(micro_parts, correction("d-never", ids, ids[:0]))
    assert all(same_memory(found.memories[name], each) for name, each in micro.memories.items())


def test_a_trainer_that_merges_alone_loads_no_torch_and_a_publisher_no_compiler():
    code = """
import sys
import services.publisher.app
assert "numba" not in sys.modules
import services.trainer.app
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
