"""The torch model and the numpy engine are one state."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trainer_runs import micro_model, one_thread, same  # noqa: F401 - a fixture

from common.kernels.engine import State
from common.kernels.spec import SIZES, Spec
from common.kernels.weights import check, from_bytes, shapes, to_bytes
from services.trainer.model import StateModel, attention, coarse, export, is_matrix, restore

SPECS = [
    Spec("one", vocab=50, width=16, layers=2, loops=2, heads=2, context=16),
    Spec("odd", vocab=37, width=18, layers=1, loops=3, heads=3, context=9),
    SIZES["tiny"],
    Spec("long", vocab=300, width=48, layers=2, loops=2, heads=6, context=512),
]


def random_weights(spec, seed=1):
    rng = np.random.default_rng(seed)
    weights = {
        k: np.asarray(rng.normal(0, 0.5 * (s or (4,))[-1] ** -0.5, s), np.float32) for k, s in shapes(spec).items()
    }
    sharp = {k: v + np.float32(np.log(12)) for k, v in weights.items() if k.endswith("tau")}
    return weights | sharp | {"coupling": np.float32(0.8)}


def random_roots(spec):
    return np.sqrt(np.random.default_rng(2).dirichlet(np.ones(64), spec.vocab))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.size)
def test_torch_and_numpy_agree_on_logits_and_basins(spec):
    weights, roots = random_weights(spec), random_roots(spec)
    model, state = StateModel(spec, roots, torch.Generator()), State(spec, weights, roots)
    restore(model, weights)
    ids = np.random.default_rng(3).integers(0, spec.vocab, (2, spec.context))
    with torch.no_grad():
        logits, basins = model.logits(torch.from_numpy(ids))
    hidden, known = state.read(ids.astype(np.int32))
    assert np.abs(basins.numpy() - known).max() < 1e-6
    assert np.abs(logits.numpy() - state.speak(hidden, known)).max() < 1e-4


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.size)
def test_torch_and_one_token_at_a_time_agree_past_the_window(spec):
    weights, roots = random_weights(spec), random_roots(spec)
    model, state = StateModel(spec, roots, torch.Generator()), State(spec, weights, roots)
    restore(model, weights)
    ids = np.random.default_rng(4).integers(0, spec.vocab, spec.context + 3).astype(np.int32)
    kept = spec.context - spec.context // 2  # of the window when it is full, the newer half is read again
    with torch.no_grad():
        before, _ = model.logits(torch.from_numpy(ids[None, : spec.context]))
        after, _ = model.logits(torch.from_numpy(ids[None, kept:]))
    expected = np.concatenate([before.numpy()[0], after.numpy()[0, -3:]])
    cache = state.start()
    steps = [state.extend(cache, ids[i : i + 1]) for i in range(len(ids))]
    found = state.speak(np.concatenate([h for h, _ in steps]), np.concatenate([b for _, b in steps]))
    assert np.abs(expected - found).max() < 1e-4


@pytest.mark.parametrize("spec", SPECS[:2], ids=lambda spec: spec.size)
@pytest.mark.parametrize("name", ["o", "down", "qkv", "up", "tau"])
def test_every_tensor_of_a_block_matters_to_the_parity(spec, name):
    weights, roots = random_weights(spec), random_roots(spec)
    model = StateModel(spec, roots, torch.Generator())
    restore(model, weights | {f"blocks.0.{name}": weights[f"blocks.0.{name}"] * 1.1})
    ids = np.random.default_rng(3).integers(0, spec.vocab, (1, spec.context))
    with torch.no_grad():
        logits, _ = model.logits(torch.from_numpy(ids))
    state = State(spec, weights, roots)
    assert np.abs(logits.numpy() - state.speak(*state.read(ids.astype(np.int32)))).max() > 1e-4


@pytest.mark.parametrize("spec", SPECS[:2], ids=lambda spec: spec.size)
def test_what_a_step_learns_from_is_the_cross_entropy_of_the_logits(spec):
    model = StateModel(spec, random_roots(spec), torch.Generator())
    restore(model, random_weights(spec))
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, spec.vocab, (2, spec.context + 1)))
    nats, basins = model(ids[:, :-1], ids[:, 1:])
    logits, same_basins = model.logits(ids[:, :-1])
    known = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert nats.item() == pytest.approx(known.item(), abs=1e-5)
    assert torch.equal(basins, same_basins)
    tensors = list(model.tensors.values())
    for one, other in zip(torch.autograd.grad(nats, tensors), torch.autograd.grad(known, tensors), strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-4)


def test_products_in_half_precision_change_the_loss_by_less_than_a_hundredth():
    spec = SIZES["tiny"]
    model = StateModel(spec, random_roots(spec), torch.Generator())
    restore(model, random_weights(spec))
    ids = torch.from_numpy(np.random.default_rng(3).integers(0, spec.vocab, (2, spec.context + 1)))
    whole, _ = model(ids[:, :-1], ids[:, 1:])
    model.mixed_precision = True
    assert model(ids[:, :-1], ids[:, 1:])[0].item() == pytest.approx(whole.item(), abs=1e-2)


def test_attention_on_a_processor_is_scaled_dot_product_attention():
    generator = torch.Generator().manual_seed(1)
    q, k, v, asked = torch.randn(4, 2, 3, 17, 8, generator=generator)
    q, k, v = (z.requires_grad_() for z in (q, k, v))
    known = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    found = attention(q, k, v)
    assert torch.allclose(found, known, atol=1e-5)
    for one, other in zip(*(torch.autograd.grad(z, (q, k, v), asked) for z in (found, known)), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_export_gives_back_what_restore_put_in():
    spec = SPECS[0]
    weights, model = random_weights(spec), StateModel(spec, random_roots(spec), torch.Generator())
    restore(model, weights)
    back = export(model)
    check(spec, back)
    assert same({k: np.asarray(v) for k, v in weights.items()}, back)


def test_an_exported_state_is_a_copy_that_training_cannot_reach():
    model = micro_model()
    taken = export(model)
    with torch.no_grad():
        model.tensors["embed"].zero_()
    assert np.abs(taken["embed"]).max() > 0


def test_an_exported_state_survives_its_bytes():
    spec, model = SPECS[0], StateModel(SPECS[0], random_roots(SPECS[0]), torch.Generator())
    found, back = from_bytes(to_bytes(spec, export(model)))
    assert found == spec
    restore(model, back)
    assert same(export(model), back)


def test_a_fresh_state_is_a_function_of_its_generator():
    assert same(export(micro_model()), export(micro_model()))
    other = StateModel(micro_model().spec, random_roots(micro_model().spec), torch.Generator().manual_seed(4))
    assert not same(export(micro_model()), export(other))


def test_a_block_writes_nothing_before_it_has_learned():
    fresh = export(micro_model())
    assert not fresh["blocks.0.o"].any()
    assert not fresh["blocks.0.down"].any()
    assert np.allclose(np.exp(fresh["blocks.0.tau"]), 12)


def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else():
    names = set(micro_model().tensors.keys())
    assert {n for n in names if is_matrix(n)} == {f"blocks|0|{n}" for n in ("qkv", "o", "up", "down")}
    assert all(micro_model().tensors[n].ndim == 2 for n in names if is_matrix(n))


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=20))
def test_coarse_weights_are_near_and_have_five_bits_of_mantissa(values):
    weights = np.array(values, np.float32)
    (found,) = coarse({"it": weights}).values()
    assert (np.abs(found - weights) <= 2**-6 * np.abs(weights) + 2**-19).all()
    assert not (found.astype(np.float16).view(np.uint16) & 0b11111).any()
    assert (coarse({"it": found})["it"] == found).all()


def test_coarse_weights_keep_their_shapes_and_names():
    weights = {"coupling": np.ones((), np.float32), "embed": np.ones((3, 4), np.float32)}
    assert {name: value.shape for name, value in coarse(weights).items()} == {"coupling": (), "embed": (3, 4)}
