"""A constellation over a vocabulary that grew says what it said before, in fewer tokens."""

from dataclasses import replace

import numpy as np
import pytest
from micro import MICRO, SENTENCES
from test_trainer_consolidate import FRESH, HELD_OUT, REPLAY, batch, crystals_from, figures, run, update
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constants import ROLES
from common.constellation.parts import domains_part, load
from common.coordizer.artifacts import lineage, pairs_from, token_bytes
from common.coordizer.growth import EDGES_MIN, grow, propose
from common.errors import Rejected
from common.kernels.memory import merge
from common.kernels.recount import recount
from common.wire.messages import Merge
from services.trainer import consolidate as room
from services.trainer import growth, updates
from services.trainer import proposals as trying
from services.trainer.consolidate import consolidate
from services.trainer.evaluate import Examiner


@pytest.fixture(scope="module")
def proposals(micro):
    return propose(micro.coordizer, [SENTENCES["percept"] * 12, FRESH * 12], limit=16)


@pytest.fixture(scope="module")
def larger(micro, proposals):
    return growth.grown(micro, grow(micro.coordizer, {f"edge-{n}": proposals for n in range(EDGES_MIN)}).coordizer)


def merges(proposals, edges=EDGES_MIN):
    """What a batch has of the same proposals of several edges."""
    said = [(bytes([n] * 8), 50) for n in range(edges)]
    return tuple(Merge(left=left, right=right, edges=tuple(said)) for left, right, _ in proposals)


def test_text_takes_fewer_tokens_and_decodes_to_itself(micro, larger):
    text = SENTENCES["percept"] + FRESH
    ids = larger.encoder.encode(text)
    assert len(ids) < len(micro.encoder.encode(text))
    assert ids.max() >= MICRO.vocab
    assert larger.encoder.decode(ids) == text.encode()


def test_a_half_and_what_it_makes_share_what_the_half_had(micro, larger):
    pairs = pairs_from(larger.coordizer.merges, MICRO.vocab)
    for role in ROLES:
        before, after = micro.states[role].weights["bias"], larger.states[role].weights["bias"]
        for half in {left for left, _ in pairs}:
            made = [MICRO.vocab + number for number, (left, _) in enumerate(pairs) if left == half]
            assert np.exp(after[[half, *made]]).sum() == pytest.approx(np.exp(before[half]), rel=2e-3)


def test_everything_but_rows_and_counts_stays(micro, larger):
    for role in ROLES:
        old, new = micro.states[role].weights, larger.states[role].weights
        assert all(np.allclose(old[name], new[name], rtol=2**-10) for name in old.keys() - {"embed", "bias"})
        assert np.allclose(old["embed"], new["embed"][: MICRO.vocab], rtol=2**-10)
        assert larger.homes[role] is micro.homes[role]
    assert (larger.integrator, larger.domains) == (micro.integrator, micro.domains)


def test_a_text_costs_no_more_bits_than_a_hundredth_more(micro, larger):
    before, after = Examiner(HELD_OUT).scores(micro), Examiner(HELD_OUT).scores(larger)
    for role in ROLES:
        assert after[role].bits_per_byte < 1.01 * before[role].bits_per_byte
        assert after[role].tokens_per_byte <= before[role].tokens_per_byte
    assert after["percept"].tokens_per_byte < 0.95 * before["percept"].tokens_per_byte


def test_its_parts_are_a_bundle_s(micro_parts, larger):
    back = load({**micro_parts, **growth.parts(larger)})
    assert token_bytes(back.coordizer.merges) == token_bytes(larger.coordizer.merges)
    ids = back.encoder.encode(FRESH)
    assert back.bits(ids, "heart") == larger.bits(ids, "heart")


@pytest.mark.parametrize(("edges", "grows"), [(EDGES_MIN - 1, False), (EDGES_MIN, True)])
def test_a_batch_in_which_three_edges_propose_merges_makes_a_larger_vocabulary(
    micro, micro_parts, proposals, edges, grows
):
    made = run(micro_parts, update(micro), merges=merges(proposals, edges))
    after = load(made.parts)
    assert (after.coordizer.vocab_size > MICRO.vocab) == grows
    assert figures(made, "vocabulary") == ({None: (MICRO.vocab, after.coordizer.vocab_size)} if grows else {})
    if grows:
        before, now = figures(made, "tokens_per_byte")["percept"]
        assert now < before
        told = {domain: told for domain, (_, told) in figures(made, "bits_per_byte").items()}
        assert told == {d: s.bits_per_byte for d, s in Examiner(HELD_OUT).scores(after).items()}


def test_a_vocabulary_that_harms_a_domain_is_dropped_and_the_batch_is_not(micro, micro_parts, proposals, monkeypatch):
    monkeypatch.setattr(trying, "GROWTH_TOLERANCE", -10.0)
    made = run(micro_parts, update(micro), merges=merges(proposals))
    assert made.guards == ("growth-dropped",)
    assert load(made.parts).coordizer.vocab_size == MICRO.vocab
    assert made.parts == run(micro_parts, update(micro)).parts


LOSS = {"percept": 0.004, "vocab": -0.2}


class Losing(Examiner):
    """Reads a larger vocabulary so much worse, by domain."""

    def scores(self, constellation):
        found = super().scores(constellation)
        lost = LOSS if constellation.coordizer.vocab_size > MICRO.vocab else {}
        return {d: replace(s, bits_per_byte=3.0 + lost.get(d, 0.0)) for d, s in found.items()}


def with_paid(parts, paid):
    """The parts with what earlier growths have cost PERCEPT."""
    domains = {d.name: d for d in load(parts).domains.values()}
    domains["percept"] = domains["percept"].model_copy(update={"grown_bits_per_byte": paid})
    return parts | domains_part(domains)


@pytest.mark.parametrize(
    ("paid", "grows"), [(0.0, True), (0.0259, True), (0.026, True), (0.0261, False), (0.03, False), (0.5, False)]
)
def test_what_growths_cost_a_domain_all_together_is_bounded(micro, micro_parts, proposals, monkeypatch, paid, grows):
    monkeypatch.setattr(room, "Examiner", Losing)
    made = run(with_paid(micro_parts, paid), update(micro), merges=merges(proposals))
    after = load(made.parts)
    assert (after.coordizer.vocab_size > MICRO.vocab) is grows
    assert after.domains["percept"].grown_bits_per_byte == pytest.approx(paid + (LOSS["percept"] if grows else 0.0))
    assert after.domains["vocab"].grown_bits_per_byte == 0.0  # what a growth gained pays for no other
    assert (made.grown != (), made.dropped != ()) == (grows, not grows)


def test_merges_are_held_back_by_the_strings_that_they_join(micro, micro_parts, proposals):
    made = run(micro_parts, update(micro), merges=merges(proposals))
    assert len(made.grown) == load(made.parts).coordizer.vocab_size - MICRO.vocab
    some = made.grown[:2]
    fewer = run(micro_parts, update(micro), merges=merges(proposals), held_back=some)
    assert set(fewer.grown) == set(made.grown) - set(some)
    none = run(micro_parts, update(micro), merges=merges(proposals), held_back=made.grown)
    assert (none.grown, none.dropped, none.guards) == ((), (), ())
    assert none.parts == run(micro_parts, update(micro)).parts


HOUR = 3600.0


def test_each_failure_of_a_merge_doubles_its_wait_up_to_a_week():
    notes, now = {}, 1_000_000.0
    waits = []
    for _ in range(12):
        notes |= trying.noted(notes, ["a"], now)
        after = next(
            hours for hours in (2**n for n in range(12)) if "a" not in trying.waiting(notes, now + hours * HOUR)
        )
        waits.append(after)
        assert "a" in trying.waiting(notes, now + min(after * HOUR, trying.WAIT_MAX_S) - 1.0)
        now += after * HOUR
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256]


def test_what_nobody_proposes_any_more_is_forgotten():
    notes = trying.noted({}, ["a", "b"], 0.0)
    until = trying.WAIT_FIRST_S + trying.WAIT_MAX_S
    assert trying.outdated(notes, until) == []
    assert sorted(trying.outdated(notes, until + 1)) == ["a", "b"]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_after_a_long_pause_a_batch_forgets_what_a_transaction_has_room_for_the_oldest_first(more):
    notes = {}
    for number in range(trying.OUTDATED_MAX + more):
        notes |= trying.noted({}, [f"{number:04}"], 1e6 - number)
    assert trying.outdated(notes, 1e9) == sorted(notes, reverse=True)[: trying.OUTDATED_MAX]


@pytest.fixture
def taken_back(micro, micro_parts, larger):
    """A batch cut for a vocabulary that was taken back, and a bundle with as many tokens, some of them others."""
    other = propose(micro.coordizer, [SENTENCES["heart"] * 12, SENTENCES["vocab"] * 12], limit=64)
    known = {tuple(pair) for pair in larger.coordizer.merges[-16:].tolist()}
    chosen = [each for each in other if each[:2] not in known][: larger.coordizer.vocab_size - MICRO.vocab]
    found = growth.grown(micro, grow(micro.coordizer, {f"edge-{n}": chosen for n in range(EDGES_MIN)}).coordizer)
    assert found.coordizer.vocab_size == larger.coordizer.vocab_size
    one = update(larger, "heart", "heart", SENTENCES["heart"] * 3, crystals=crystals_from(
        larger.encoder.encode(SENTENCES["heart"] * 3), larger.coordizer.vocab_size
    ))  # fmt: skip
    return batch(one), {**micro_parts, **growth.parts(found)}, {**micro_parts, **growth.parts(larger)}


def consolidated(parts, given):
    return consolidate(parts, given, replay=REPLAY, held_out=HELD_OUT, steps=0, seed=1)


def test_a_batch_over_a_growth_that_was_taken_back_is_not_read_in_another_of_its_size(taken_back, larger):
    made, other, own = taken_back
    told = made.model_copy(update={"vocabulary": lineage(larger.coordizer.merges)})
    with pytest.raises(Rejected, match="other_vocabulary"):
        consolidated(other, told)
    assert consolidated(own, told).parts == consolidated(own, made).parts


def test_a_batch_over_the_vocabulary_before_a_growth_is_read_in_the_larger_one(micro, micro_parts, larger):
    bundle = {**micro_parts, **growth.parts(larger)}
    one = update(micro, "heart", "heart", SENTENCES["heart"] * 3)
    told = batch(one).model_copy(update={"vocabulary": lineage(micro.coordizer.merges)})
    assert consolidated(bundle, told).parts == consolidated(bundle, batch(one)).parts


def test_a_batch_that_waited_while_the_vocabulary_grew_is_counted_anew(micro, micro_parts, larger):
    bundle = {**micro_parts, **growth.parts(larger)}
    late = update(micro, "heart", "heart", SENTENCES["heart"] * 3)
    after = load(run(bundle, late).parts)
    old = updates.crystals_of(late, micro)
    pairs = pairs_from(larger.coordizer.merges, MICRO.vocab)
    wanted = merge([larger.memories["heart"], recount(old, pairs, MICRO.vocab)])
    assert [t.keys.tolist() for t in after.memories["heart"].tables] == [t.keys.tolist() for t in wanted.tables]
    assert after.memories["heart"].tokens < micro.memories["heart"].tokens + old.tokens


def test_a_state_trains_on_in_the_larger_vocabulary(micro, micro_parts, proposals):
    batch = {"merges": merges(proposals)}
    made = [run(micro_parts, update(micro), steps=3, **batch) for _ in range(2)]
    assert made[0] == made[1]
    after = load(made[0].parts)
    untrained = load(run(micro_parts, update(micro), **batch).parts)
    assert after.states["percept"].spec.vocab == after.coordizer.vocab_size > MICRO.vocab
    old, new = (each.states["percept"].weights["embed"] for each in (untrained, after))
    assert not np.array_equal(old[MICRO.vocab :], new[MICRO.vocab :])
