import tracemalloc

import hypothesis.extra.numpy as hnp
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba.core import types
from numba.extending import intrinsic

from common.errors import Rejected
from common.kernels import compiled
from common.kernels import weights as w
from common.kernels.compiled import exp32, log32
from common.kernels.engine import State, halved
from common.kernels.kernel import read
from common.kernels.spec import MAX_CONTEXT, MAX_DEPTH, SIZES, Spec

assembling = intrinsic(lambda _, x: (types.float32(x), compiled._assemble))


@numba.njit
def widened(x):
    return np.array([compiled.widen(v) for v in x])


@numba.njit
def assembled(x):
    return np.array([assembling(v) for v in x])


SPEC = Spec("test", vocab=50, width=16, layers=2, loops=2, heads=2, context=16)


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.default_rng(1)
    return {k: rng.normal(0, 0.2, s).astype(np.float32) for k, s in w.shapes(SPEC).items()}


@pytest.fixture(scope="module")
def state(tensors):
    return State(SPEC, tensors, np.sqrt(np.random.default_rng(2).dirichlet(np.ones(64), SPEC.vocab)))


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(3).integers(0, SPEC.vocab, 60).astype(np.int32)


def test_a_token_at_a_time_equals_the_whole_window_at_once(state, ids):
    whole, basins = state.read(ids[None, :16])
    cache = state.start()
    single = [state.extend(cache, ids[i : i + 1]) for i in range(16)]
    assert np.allclose(np.concatenate([h for h, _ in single]), whole[0], atol=1e-5)
    assert np.allclose(np.concatenate([b for _, b in single]), basins[0], atol=1e-6)


@pytest.mark.parametrize("length", [1, 8, 16, 17, 20, 23, 24, 25, 31, 32, 33, 47, 48, 49, 60])
@pytest.mark.parametrize("last", [1, 7, 8, 9, 20])
def test_the_tail_of_a_text_leaves_a_state_as_the_whole_text_does(state, ids, length, last):
    whole, end = state.start(), state.start()
    _, expected = state.extend(whole, ids[:length])
    tail = state.tail(ids[:length], last)
    _, found = state.extend(end, tail)
    assert len(tail) <= last + 3 * SPEC.context // 2
    assert np.array_equal(found[-last:], expected[-last:])
    read = whole.lengths[0]
    assert read == end.lengths[0]
    assert np.array_equal(end.ids[0, :read], whole.ids[0, :read])
    assert np.array_equal(end.keys[..., :read], whole.keys[..., :read])
    assert np.array_equal(end.values[..., :read], whole.values[..., :read])


def test_no_token_sees_the_future(state, ids):
    changed = ids[:16].copy()
    changed[9:] = (changed[9:] + 1) % SPEC.vocab
    one, _ = state.read(ids[None, :16])
    other, _ = state.read(changed[None])
    assert np.allclose(one[0, :9], other[0, :9], atol=1e-6)
    assert not np.allclose(one[0, 9], other[0, 9], atol=1e-3)


@pytest.mark.parametrize("token", [-1, SPEC.vocab])
def test_an_id_outside_the_vocabulary_is_refused(state, token):
    state.extend(state.start(), np.array([0, SPEC.vocab - 1], np.int32))
    with pytest.raises(AssertionError):
        state.extend(state.start(), np.array([0, token], np.int32))


def test_a_place_outside_the_window_is_refused(state):
    cache = state.start()
    state._advance(cache, np.array([0]), np.array([SPEC.context - 1]), np.array([0], np.int32))
    with pytest.raises(AssertionError):
        state._advance(cache, np.array([0]), np.array([SPEC.context]), np.array([0], np.int32))


def test_basins_are_points_of_the_simplex(state, ids):
    _, basins = state.read(ids[None, :16])
    assert np.allclose(basins.sum(-1), 1, atol=1e-6)
    assert (basins > 0).all()


@pytest.mark.parametrize("length", [15, 16, 17, 24, 25, 60])
def test_a_text_longer_than_the_window_is_read_to_its_end(state, ids, length):
    cache = state.start()
    hidden, _ = state.extend(cache, ids[:length])
    assert len(hidden) == length
    kept = int(cache.lengths[0])
    assert kept <= SPEC.context
    assert cache.ids[0, :kept].tolist() == ids[length - kept : length].tolist()


def test_after_sliding_the_state_equals_one_that_read_only_the_kept_half(state, ids):
    cache = state.start()
    state.extend(cache, ids[:16])
    after, _ = state.extend(cache, ids[16:17])
    fresh = state.start()
    expected, _ = state.extend(fresh, ids[8:17])
    assert np.allclose(after[-1], expected[-1], atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_texts_read_on_together_equal_each_text_alone(state, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.permutation([1, 7, 15, 16, 12])  # two of them roll over on the way
    texts = [rng.integers(0, SPEC.vocab, n + 3).astype(np.int32) for n in lengths]
    cache = state.start(len(texts))
    for slot, (text, n) in enumerate(zip(texts, lengths, strict=True)):
        state.extend(cache, text[:n], slot)
    slots = rng.permutation(len(texts))
    steps = [state.step(cache, np.array([texts[s][lengths[s] + i] for s in slots], np.int32), slots) for i in range(3)]
    for row, slot in enumerate(slots):
        alone, basins = state.extend(state.start(), texts[slot])
        assert np.allclose([h[row] for h, _ in steps], alone[-3:], atol=1e-5)
        assert np.allclose([b[row] for _, b in steps], basins[-3:], atol=1e-6)


def test_a_step_touches_no_other_text(state, ids):
    cache = state.start(2)
    state.extend(cache, ids[:5], 0)
    state.extend(cache, ids[:5], 1)
    before = cache.keys[1, ..., :5].copy()
    state.step(cache, ids[5:6], np.array([0]))
    assert cache.lengths.tolist() == [6, 5]
    assert np.array_equal(cache.keys[1, ..., :5], before)


@given(hnp.arrays(np.float32, st.integers(1, 70), elements=st.floats(-87, 88, width=32)))
def test_the_compiled_exponential_is_exact_to_single_precision(x):
    assert np.allclose([exp32(v) for v in x], np.exp(x.astype(np.float64)), rtol=3e-7, atol=0)


@pytest.mark.parametrize(("x", "value"), [(-87.1, 0), (-np.inf, 0), (1e9, np.exp(88.0))])
def test_the_compiled_exponential_ends_where_single_precision_does(x, value):
    assert np.isclose(exp32(np.float32(x)), value, rtol=1e-6, atol=0)


def test_half_precision_is_widened_exactly():
    halves = np.arange(2**16, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    for convert in (widened, assembled):
        assert np.array_equal(convert(halves), halves.view(np.float16).astype(np.float32))
    assert np.array_equal(widened(halves.astype(np.float32)), halves)


def logits_of(state, hidden, basins):
    """As numpy has them, in single precision, from the weights as they were given."""
    w = state.weights
    pull = 10 * w["coupling"] * np.sqrt(basins) @ halved(state.sqrt_basins).T
    return hidden @ w["leave"].T @ w["embed"].T + w["bias"] + pull


def test_listening_rates_each_token_as_what_came_next_and_expects_the_next(state, ids):
    cache = state.start()
    state.extend(cache, ids[3:12])  # whatever the cache held before
    found, rates, following = state.listen(cache, ids[:12])
    hidden, basins = state.read(ids[None, :12])
    logits = logits_of(state, hidden, basins)[0].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert np.array_equal(found, basins[0])
    assert np.allclose(rates, expected[np.arange(11), ids[1:12]], atol=1e-5)
    assert np.allclose(following, logits[-1], atol=1e-5)
    assert np.array_equal(state.extend(cache, ids[12:16])[1], state.read(ids[None, :16])[1][0, 12:])


def test_more_than_a_window_is_not_listened_to(state):
    with pytest.raises(AssertionError):
        state.listen(state.start(), np.zeros(SPEC.context + 1, np.int32))


def test_a_state_of_half_precision_numbers_steps_as_it_reads(tensors, ids):
    halves = {k: v.astype(np.float16).astype(np.float32) for k, v in tensors.items()}
    state = State(SPEC, halves, np.sqrt(np.random.default_rng(2).dirichlet(np.ones(64), SPEC.vocab)))
    assert state.body.qkv.dtype == state.head.table.dtype == np.uint16
    cache, (whole, basins) = state.start(), state.read(ids[None, :16])
    for t in range(16):
        hidden, basin = state.extend(cache, ids[t : t + 1])
        assert np.allclose(hidden[0], whole[0, t], atol=1e-5)
        assert np.allclose(state.speak(hidden[0], basin[0]), logits_of(state, whole, basins)[0, t], atol=2e-5)


@given(hnp.arrays(np.float32, st.integers(1, 70), elements=st.floats(2**-126, 2**127, width=32)))
def test_the_compiled_logarithm_is_exact_to_single_precision(x):
    assert np.allclose([log32(v) for v in x], np.log(x.astype(np.float64)), rtol=2e-7, atol=2e-7)


def test_the_coupling_is_part_of_the_logits(state, ids):
    hidden, basins = state.read(ids[None, :4])
    plain = State(SPEC, {**state.weights, "coupling": np.float32(0)}, state.sqrt_basins)
    for t in range(4):
        logits = state.speak(hidden[0, t], basins[0, t])
        pull = 10 * state.weights["coupling"] * np.sqrt(basins[0, t]) @ halved(state.sqrt_basins).T
        assert np.allclose(logits, logits_of(state, hidden, basins)[0, t], atol=1e-5)
        assert np.allclose(logits - pull, logits_of(plain, hidden, basins)[0, t], atol=1e-5)


def test_the_roots_of_a_state_are_those_of_its_tokens_basins(state):
    roots = state.roots.view(np.float16).astype(np.float32) if state.roots.dtype == np.uint16 else state.roots
    assert np.array_equal(roots, halved(state.sqrt_basins).T)


def test_weights_survive_their_bytes_within_half_precision(tensors):
    spec, back = w.from_bytes(w.to_bytes(SPEC, tensors))
    assert spec == SPEC
    assert all(np.allclose(back[k], tensors[k], rtol=2**-11, atol=1e-7) for k in tensors)


@pytest.mark.parametrize("data", [b"", b"\x00" * 8, b"\xff" * 64, b"{}"])
def test_bytes_that_are_no_weights_are_rejected(data):
    with pytest.raises(Rejected, match="bad_weights"):
        w.from_bytes(data)


def test_a_truncated_weight_file_is_rejected(tensors):
    with pytest.raises(Rejected, match="bad_weights"):
        w.from_bytes(w.to_bytes(SPEC, tensors)[:-3])


def test_weights_with_nan_are_rejected(tensors):
    with pytest.raises(Rejected, match="NaN"):
        w.to_bytes(SPEC, {**tensors, "leave": np.full((16, 16), np.nan, np.float32)})


def test_a_missing_tensor_is_named(tensors):
    with pytest.raises(Rejected, match="leave"):
        w.check(SPEC, {k: v for k, v in tensors.items() if k != "leave"})


@pytest.mark.parametrize("width", [15, 18])
def test_a_width_that_does_not_split_into_heads_is_rejected(width):
    with pytest.raises(Rejected, match="bad_spec"):
        Spec("odd", vocab=10, width=width, layers=1, loops=1, heads=4, context=8)


@pytest.mark.parametrize("name", ["width", "layers", "loops", "heads", "context"])
def test_a_dimension_of_zero_is_rejected(name):
    dimensions = {"width": 16, "layers": 1, "loops": 1, "heads": 2, "context": 8} | {name: 0}
    with pytest.raises(Rejected, match="below one"):
        Spec("none", vocab=10, **dimensions)


def test_vocabularies_stop_at_fifteen_bits():
    Spec("edge", vocab=32768, width=16, layers=1, loops=1, heads=2, context=8)
    with pytest.raises(Rejected, match="15 bits"):
        Spec("over", vocab=32769, width=16, layers=1, loops=1, heads=2, context=8)


@pytest.mark.parametrize(
    ("dimensions", "ok"),
    [
        ({"layers": 8, "loops": MAX_DEPTH // 8}, True),
        ({"layers": 1, "loops": MAX_DEPTH + 1}, False),
        ({"layers": MAX_DEPTH + 1, "loops": 1}, False),
        ({"context": MAX_CONTEXT}, True),
        ({"context": MAX_CONTEXT + 1}, False),
    ],
)
def test_what_a_token_costs_is_bounded_though_no_file_grows_with_it(dimensions, ok):
    fields = {"vocab": 10, "width": 16, "layers": 1, "loops": 1, "heads": 2, "context": 8} | dimensions
    if ok:
        Spec("edge", **fields)
    else:
        with pytest.raises(Rejected, match="bad_spec"):
            Spec("over", **fields)


def test_a_forged_header_is_rejected_and_takes_no_memory(tensors):
    size = int.from_bytes(w.to_bytes(SPEC, tensors)[:8], "little")
    header = w.to_bytes(SPEC, tensors)[8 : 8 + size]
    forgeries = [header.replace(b'"layers":"2"', b'"layers":' + other) for other in (b'"2000000"', b"Infinity", b"2")]
    for forged in (*forgeries, b"[" * 60_000, b"[" * 70_000):
        tracemalloc.start()
        with pytest.raises(Rejected):
            w.from_bytes(len(forged).to_bytes(8, "little") + forged + bytes(64))
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


def test_every_size_has_a_whole_number_of_weights():
    assert all(sum(int(np.prod(s)) for s in w.shapes(spec).values()) > 0 for spec in SIZES.values())


def test_a_kernel_reads_across_windows_as_the_sum_of_its_experts(micro):
    ids = micro.encoder.encode("The sea was cold and grey; salt wind stung our eyes. " * 3)
    kernel = micro.kernel("percept")
    reading = read(kernel, ids)
    assert reading.experts.shape == (len(ids), 2)
    assert np.isfinite(reading.bits(kernel.gate)).all()
    assert np.allclose(reading.basins.sum(1), 1, atol=1e-5)


def test_text_like_the_memory_costs_fewer_bits_than_other_text(micro):
    known = micro.encoder.encode("The sea was cold and grey; salt wind stung our eyes")
    assert micro.bits(known, "percept") < micro.bits(known, "strategy")
