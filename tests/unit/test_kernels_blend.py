import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.geometry.concentration import heading
from common.kernels import gate as gates
from common.kernels import memory as m
from common.kernels import weights as w
from common.kernels.blend import draw, mix, steered
from common.kernels.engine import State
from common.kernels.kernel import Kernel, read, reread
from common.kernels.spec import Spec

VOCAB = 40
SPEC = Spec("test", vocab=VOCAB, width=16, layers=1, loops=2, heads=2, context=32)
texts = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=60).map(lambda ids: np.array(ids, np.int32))


def kernel_of(learned, seed=0):
    rng = np.random.default_rng(seed)
    tensors = {k: np.asarray(rng.normal(0, 0.3, s), np.float32) for k, s in w.shapes(SPEC).items()}
    state = State(SPEC, tensors, np.sqrt(rng.dirichlet(np.ones(64), VOCAB)))
    gate = rng.dirichlet(np.ones(1 + len(learned)), gates.BUCKETS)
    return Kernel(state, tuple(m.count([ids]) for ids in learned), gate)


def spoken(kernel, logits, context, share=1.0):
    p = np.zeros(VOCAB)
    mix(logits, kernel.addresses, kernel.bases, kernel.gate, np.asarray(context, np.int32), share, p)
    return p


@given(st.lists(texts, min_size=1, max_size=3), texts)
@settings(max_examples=40)
def test_the_compiled_mixture_equals_the_sum_of_its_experts(learned, context):
    kernel, context = kernel_of(learned), context[-3:].tolist()
    logits = np.random.default_rng(1).normal(0, 3, VOCAB).astype(np.float32)
    state = np.exp(logits.astype(np.float64))
    said = [m.distribution(one, context, floor) for one, floor in zip(kernel.memories, kernel.floors(), strict=True)]
    weights = kernel.gate[int(gates.bucket(said[-1][1], said[-1][2]))]
    expected = weights @ np.stack([state / state.sum(), *(p for p, _, _ in said)])
    found = spoken(kernel, logits, context)
    assert np.allclose(found, expected, rtol=2e-6, atol=0)
    assert np.isclose(found.sum(), 1, rtol=1e-6)


@given(texts, texts)
@settings(max_examples=40)
def test_voices_add_by_their_shares(one, other):
    logits = np.random.default_rng(1).normal(0, 3, VOCAB).astype(np.float32)
    p = np.zeros(VOCAB)
    for learned, share in ((one, 0.3), (other, 0.7)):
        kernel = kernel_of([learned])
        mix(logits, kernel.addresses, kernel.bases, kernel.gate, one[-3:], share, p)
    alone = [spoken(kernel_of([learned]), logits, one[-3:]) for learned in (one, other)]
    assert np.allclose(p, 0.3 * alone[0] + 0.7 * alone[1], rtol=1e-6)


@given(texts)
@settings(max_examples=20)
def test_what_a_kernel_says_is_what_it_reads(text):
    kernel = kernel_of([text, text[::2]])
    text = text[: SPEC.context]
    bits, cache = read(kernel, text).bits(kernel.gate), kernel.state.start()
    for place in range(1, len(text)):
        hidden, basins = kernel.state.extend(cache, text[place - 1 : place])
        logits = kernel.state.speak(hidden[0], basins[0])
        said = spoken(kernel, logits, text[max(0, place - 3) : place])[text[place]]
        assert np.isclose(-np.log2(said), bits[place], atol=1e-4)


@given(texts)
@settings(max_examples=20)
def test_a_text_read_again_by_other_memories_is_read_as_they_would_have(text):
    other = kernel_of([text[::2], text])
    reading = read(kernel_of([text]), text)
    again, expected = reread(other, text, reading), read(other, text)
    assert np.array_equal(again.experts, expected.experts)
    assert np.array_equal(again.buckets, expected.buckets)
    assert again.basins is reading.basins


@pytest.mark.parametrize("total", [0, 1, 2, 3, 127, 128, 255, 256, 2**31, 2**32 - 1])
@pytest.mark.parametrize("order", range(3))
def test_the_compiled_bucket_is_the_gates(order, total):
    context = np.arange(order, dtype=np.int32)
    keys = [
        np.array([sum(t << 15 * (n - 1 - i) for i, t in enumerate(range(order - n, order)))], np.uint64)
        for n in range(order + 1)
    ]
    tables = [
        m.Table.of(np.zeros(0, np.uint64), np.zeros(0, np.uint32), key, np.array([max(total, 1)], np.uint32))
        for key in keys
    ]
    gate = np.zeros((gates.BUCKETS, 2))
    gate[:, 0] = np.arange(gates.BUCKETS) / 64
    gate[:, 1] = 1 - gate[:, 0]
    memory, logits, p = m.Memory(tuple(tables)), np.full(VOCAB, -50, np.float32), np.zeros(VOCAB)
    logits[7] = 50
    mix(logits, memory.addresses[None], np.zeros((1, VOCAB)), gate, context, 1.0, p)
    assert p[7] * 64 == gates.bucket(order, max(total, 1))


def steered_before(gain, reach):
    rng = np.random.default_rng(2)
    p, roots = rng.dirichlet(np.full(300, 0.05)), rng.uniform(-1, 1, (64, 300)).astype(np.float32)
    held = rng.normal(size=(9, 64))
    held /= np.linalg.norm(held, axis=1, keepdims=True)
    along = heading(held) @ roots
    found = np.empty(300, np.float32)
    steered(p, roots, held, gain, reach, found)
    return p, along, found, np.log(np.maximum(p, 1e-30)) + gain * along


@given(st.floats(-24, 24))
def test_gain_times_along_is_added_to_the_logarithm(gain):
    _, _, found, expected = steered_before(gain, 0.0)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("reach", [0.03, 0.5])
def test_a_positive_gain_raises_no_token_below_its_reach_and_lowers_any(reach):
    p, along, found, expected = steered_before(9.0, reach)
    held = (p < reach * p.max()) & (along > 0)
    assert held.any()
    assert np.allclose(found, np.where(held, np.log(np.maximum(p, 1e-30)), expected), rtol=1e-6, atol=1e-5)


def test_a_negative_gain_reaches_every_token():
    _, _, found, expected = steered_before(-9.0, 0.03)
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-5)


@given(st.integers(1, 300), st.floats(0, 1, exclude_max=True), st.floats(0.1, 3))
def test_a_draw_is_where_the_mass_reaches_the_share(size, share, temperature):
    log_p = np.random.default_rng(size).normal(0, 2, size).astype(np.float32)
    mass = np.cumsum(np.exp((log_p - log_p.max()).astype(np.float64) / temperature))
    token = draw(log_p, temperature, share)
    wanted, slack = share * mass[-1], 1e-5 * mass[-1]
    assert (mass[token - 1] if token else 0) - slack <= wanted <= mass[token] + slack


@pytest.mark.parametrize("share", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_mass_is_never_drawn(share):
    log_p = np.full(200, -1e4, np.float32)
    log_p[[3, 70, 130]] = 0
    assert draw(log_p, 0.7, share) in {3, 70, 130}


def test_a_draw_from_no_distribution_ends():
    assert draw(np.full(200, np.nan, np.float32), 0.7, 0.5) == 0
