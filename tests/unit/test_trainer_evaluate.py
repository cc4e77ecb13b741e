"""Scores are what a user would meet, and a control behaves as a control."""

from dataclasses import replace

import numpy as np
import pytest
from micro import MICRO, SENTENCES

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.errors import Rejected
from common.geometry.integration import integration, moments
from common.geometry.routing import Route, Step
from common.kernels import gate
from common.kernels.engine import State
from common.kernels.kernel import read
from common.kernels.memory import count, merge
from services.trainer import evaluate
from services.trainer.evaluate import (
    Examiner,
    by_reader,
    gram_bits,
    gram_interval,
    home,
    instruments,
    moved,
    whole_windows,
)
from services.trainer.intervals import Interval

PASSAGES = {role: [SENTENCES[role], SENTENCES[role] * 2 + "More of it."] for role in ROLES}


def with_gate(constellation, domain, rows):
    changed = constellation.domains[domain].model_copy(update={"gate": tuple(map(tuple, rows.tolist()))})
    return replace(constellation, domains={**constellation.domains, domain: changed})


@pytest.fixture
def reads(monkeypatch):
    """The kernels that read a passage, in order."""
    seen = []
    real = evaluate.read

    def spy(kernel, ids):
        seen.append(kernel)
        return real(kernel, ids)

    monkeypatch.setattr(evaluate, "read", spy)
    return seen


@pytest.mark.parametrize("role", ROLES)
def test_routed_bits_equal_those_of_the_constellation(micro, role):
    found = Examiner({role: PASSAGES[role]}).scores(micro)[role]
    texts = [(micro.encoder.encode(text), len(text.encode())) for text in PASSAGES[role]]
    chosen = [micro.route(micro.basin(ids)).steps[0].name for ids, _ in texts]
    bits = sum(micro.bits(ids, domain) for (ids, _), domain in zip(texts, chosen, strict=True))
    assert found.bits_per_byte == pytest.approx(bits / sum(size for _, size in texts))
    assert found.routed == chosen.count(role) / 2


def test_a_passage_is_read_by_the_domain_it_is_routed_to_and_not_by_its_own(micro):
    strange = Examiner({"heart": PASSAGES["strategy"]}).scores(micro)["heart"]
    own = Examiner({"strategy": PASSAGES["strategy"]}).scores(micro)["strategy"]
    assert strange.routed == 0.0
    assert own.routed == 1.0
    assert strange.bits_per_byte == own.bits_per_byte


def test_bytes_are_counted_and_not_characters(micro):
    found = Examiner({"heart": ["é" * 40]}).scores(micro)["heart"]
    ids = micro.encoder.encode("é" * 40)
    domain = micro.route(micro.basin(ids)).steps[0].name
    assert found.bits_per_byte == pytest.approx(micro.bits(ids, domain) / 80)


def test_no_passage_is_read_twice_and_the_figures_stay(micro, reads):
    examiner = Examiner(PASSAGES)
    first, after = examiner.scores(micro), len(reads)
    assert examiner.scores(replace(micro)) == first
    assert after == len(reads) == 8


def test_another_gate_or_memory_asks_no_state_again_and_changes_its_own_figure_alone(micro, reads):
    examiner = Examiner(PASSAGES)
    before = examiner.scores(micro)
    reads.clear()
    changed = with_gate(micro, "heart", np.tile([0.9, 0.1], (gate.BUCKETS, 1)))
    more = merge([micro.memories["heart"], count([micro.encoder.encode(SENTENCES["heart"] * 3)])])
    changed = replace(changed, memories={**changed.memories, "heart": more})
    after = examiner.scores(changed)
    assert reads == []
    assert after == Examiner(PASSAGES).scores(changed)
    assert after["heart"] != before["heart"]
    reads.clear()
    another = State(micro.states["heart"].spec, micro.states["heart"].weights, micro.states["heart"].sqrt_basins)
    examiner.scores(replace(changed, states={**changed.states, "heart": another}))
    assert len(reads) == 2  # another state is asked
    assert all(after[role] == before[role] for role in ROLES if role != "heart")


def test_going_back_to_an_old_gate_gives_the_old_figure(micro):
    examiner = Examiner(PASSAGES)
    before = examiner.scores(micro)
    examiner.scores(with_gate(micro, "heart", np.tile([0.9, 0.1], (gate.BUCKETS, 1))))
    assert examiner.scores(micro) == before


def test_readers_are_every_kernel_the_router_and_all_of_them_fused(micro):
    found = by_reader(micro, PASSAGES)
    routed = Examiner(PASSAGES).scores(micro)
    for role in ROLES:
        assert set(found[role]) == {*ROLES, "routed", "fused"}
        assert found[role]["routed"] == pytest.approx(routed[role].bits_per_byte)
        texts = [(micro.encoder.encode(text), len(text.encode())) for text in PASSAGES[role]]
        alone = sum(micro.bits(ids, "heart") for ids, _ in texts) / sum(size for _, size in texts)
        assert found[role]["heart"] == pytest.approx(alone)


def test_fused_is_the_mixture_by_the_router_s_weights(micro):
    text = PASSAGES["percept"][0]
    ids = micro.encoder.encode(text)
    weights = {step.name: step.weight for step in micro.route(micro.basin(ids)).steps}
    probability = sum(
        weight * np.exp2(-micro.read(ids, name).bits(micro.domains[name].gate_array))
        for name, weight in weights.items()
    )
    expected = -np.log2(probability).sum() / len(text.encode())
    assert by_reader(micro, {"percept": [text]})["percept"]["fused"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def long_texts():
    rng = np.random.default_rng(3)
    return [" ".join(rng.permutation(SENTENCES["percept"].split() * 25)) for _ in range(3)]


def test_instruments_measure_the_state_and_its_controls(micro, long_texts):
    found = instruments(micro, "percept", long_texts)
    windows = whole_windows([micro.encoder.encode(t) for t in long_texts], MICRO.context)
    expected = windows.shape[0] * (MICRO.context - 1)
    measured = (found.phi, found.rolled, found.shuffled, found.noise, found.untrained, found.random)
    assert {each.n for each in measured} == {expected}
    assert all(each.phi is not None for each in measured)
    assert found.kappa >= 0
    assert 1 <= found.participation <= 8


def test_instruments_repeat(micro, long_texts):
    assert instruments(micro, "percept", long_texts) == instruments(micro, "percept", long_texts)


def test_the_rolled_control_loses_what_couples_faculties(micro, long_texts, monkeypatch):
    rng = np.random.default_rng(4)
    coupled = rng.dirichlet(np.ones(64), (40, MICRO.context))
    for t in range(1, MICRO.context):
        coupled[:, t] = 0.7 * np.roll(coupled[:, t - 1], 8, -1) + 0.3 * coupled[:, t]
    monkeypatch.setattr(evaluate, "_basins", lambda *_: coupled)
    found = instruments(micro, "percept", long_texts)
    assert found.phi.phi > 0.5
    assert found.rolled.phi < 0.15


def test_shuffled_and_random_tokens_are_really_shuffled_and_random(micro, long_texts, monkeypatch):
    seen = []
    real = evaluate._basins

    def spy(state, windows):
        seen.append(windows)
        return real(state, windows)

    monkeypatch.setattr(evaluate, "_basins", spy)
    instruments(micro, "percept", long_texts)
    text, shuffled, noise, *blank = seen
    assert all(np.array_equal(text, each) for each in blank)
    assert np.array_equal(np.sort(text, 1), np.sort(shuffled, 1))
    assert (text != shuffled).mean() > 0.5
    assert len(np.unique(noise)) > 0.9 * MICRO.vocab
    assert text.shape == noise.shape


def test_phi_of_too_little_text_is_not_known(micro):
    found = instruments(micro, "percept", ["The sea was cold and grey. " * 8])
    assert (found.phi.phi, found.phi.reason) == (None, "few_transitions")


def test_text_that_fills_no_window_is_rejected(micro):
    with pytest.raises(Rejected, match="fill no window of 32") as error:
        instruments(micro, "percept", ["Sea."])
    assert error.value.code == "text_too_short"


@pytest.mark.parametrize(("lengths", "count"), [((32,), 1), ((31, 1), 1), ((63,), 1), ((40, 24), 2), ((70, 1), 2)])
def test_windows_are_cut_from_the_joined_texts(lengths, count):
    texts = np.split(np.arange(sum(lengths), dtype=np.int32), np.cumsum(lengths)[:-1])
    windows = whole_windows(texts, 32)
    assert np.array_equal(windows.ravel(), np.arange(32 * count))


def test_a_home_is_a_basin_in_the_middle_of_the_state_s_own(micro):
    ids = [micro.encoder.encode(SENTENCES["heart"] * 8)]
    found = home(micro.states["heart"], ids)
    _, basins = micro.states["heart"].read(whole_windows(ids, MICRO.context))
    assert found.sum() == pytest.approx(1)
    assert integration(moments(np.zeros((1, 2, 8)))).phi is None
    assert basins.reshape(-1, 64).min(0)[found.argmax()] <= found.max() <= basins.max()


@pytest.mark.parametrize("abstained", [False, True])
def test_a_passage_is_read_as_an_edge_reads_it_by_both_of_the_nearest_where_the_router_abstains(
    micro, monkeypatch, abstained
):
    text = "the whale of the sea"
    ids = micro.encoder.encode(text)
    steps = (Step("heart", 0.1, 0.45), Step("vocab", 0.11, 0.15), Step("percept", 1.0, 0.4))
    monkeypatch.setattr(Constellation, "route", lambda *_: Route(steps, 0.01, abstained=abstained))
    heart, vocab = (read(micro.kernel(name), ids).bits(micro.kernel(name).gate) for name in ("heart", "vocab"))
    both = -np.log2(0.75 * np.exp2(-heart) + 0.25 * np.exp2(-vocab))
    (score,) = Examiner({"heart": [text]}).scores(micro).values()
    assert score.bits_per_byte == pytest.approx((both if abstained else heart).sum() / len(text))
    assert score.routed == 1


# Before and after

LONG = [(SENTENCES["heart"][9 * n :] + SENTENCES["percept"][5 * n :]) * 8 for n in range(6)]


@pytest.fixture(scope="module")
def nudged(micro):
    """HEART's state with other biases of its basin head, and a home a little off."""
    state = micro.states["heart"]
    tensors = {**state.weights, "basin.bias": state.weights["basin.bias"] + np.linspace(0, 0.4, 64, dtype=np.float32)}
    other = State(state.spec, tensors, state.sqrt_basins)
    return replace(micro, states={**micro.states, "heart": other})


def test_the_gauges_of_another_state_are_read_before_and_after_on_the_same_windows(micro, nudged):
    found = moved(micro, nudged, "heart", LONG)
    for seen, constellation in ((found.phi.before, micro), (found.phi.after, nudged)):
        assert seen == instruments(constellation, "heart", LONG).phi.phi
    for seen, constellation in ((found.kappa.before, micro), (found.kappa.after, nudged)):
        assert seen == pytest.approx(instruments(constellation, "heart", LONG).kappa)
    change = found.kappa.after - found.kappa.before
    assert found.kappa.interval.low < change < found.kappa.interval.high
    assert 0.05 < found.drift.low <= found.drift.high < 0.5


def test_the_same_state_has_not_moved_and_one_of_another_vocabulary_has_no_interval(micro, micro_larger):
    found = moved(micro, micro, "heart", LONG)
    assert (found.kappa.interval, found.drift) == (Interval(0.0, 0.0), Interval(0.0, 0.0))
    larger = moved(micro, micro_larger, "heart", LONG)
    assert (larger.kappa.interval, larger.drift) == (None, None)


def test_text_that_fills_no_window_tells_nothing(micro, nudged):
    assert moved(micro, nudged, "heart", ["O sing"]) is None
    assert moved(micro, nudged, "heart", []) is None


def test_what_was_just_counted_in_is_surely_better_known(micro):
    grams = count([micro.encoder.encode(SENTENCES["vocab"] * 4)], 3)
    after = replace(micro, memories={**micro.memories, "heart": merge([micro.memories["heart"], grams])})
    found = gram_interval(micro.kernel("heart"), after.kernel("heart"), grams)
    change = gram_bits(after.kernel("heart"), grams) - gram_bits(micro.kernel("heart"), grams)
    assert found.low < change < found.high < 0
    assert gram_interval(micro.kernel("heart"), after.kernel("heart"), count([], 3)) is None
