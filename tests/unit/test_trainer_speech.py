"""The cross-entropy that holds no batch of logits is torch's, and so are its gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from trainer_runs import one_thread  # noqa: F401 - a fixture

from services.trainer.speech import PLACES, cross_entropy


def drawn(places, width, fixed, vocab, seed=1):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(places, width + fixed, generator=generator, requires_grad=True)
    table, bias = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((vocab, width), (vocab,)))
    rest = torch.rand(vocab, fixed, generator=generator)
    return features, table, rest, bias, torch.randint(0, vocab, (places,), generator=generator)


def known(features, table, rest, bias, following):
    return functional.cross_entropy(functional.linear(features, torch.cat([table, rest], 1), bias), following)


@given(
    st.sampled_from([1, 7, PLACES - 1, PLACES, PLACES + 1]), st.integers(1, 5), st.integers(0, 3), st.integers(2, 40)
)
def test_it_is_the_mean_cross_entropy_and_has_its_gradients(places, width, fixed, vocab):
    given_ = drawn(places, width, fixed, vocab)
    learned = (given_[0], given_[1], given_[3])
    found, wanted = 3 * cross_entropy(*given_, torch.float32), 3 * known(*given_)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-6)
    for one, other in zip(torch.autograd.grad(found, learned), torch.autograd.grad(wanted, learned), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_half_precision_products_keep_the_mean_within_a_thousandth():
    given_ = drawn(1024, 32, 8, 500)
    features, *rest = given_
    small = (features * 0.3, *rest)
    assert cross_entropy(*small, torch.bfloat16).item() == pytest.approx(known(*small).item(), rel=1e-3)


def test_a_token_thought_impossible_costs_a_finite_number_of_nats():
    features, table = torch.tensor([[1.0]]), torch.tensor([[0.0], [1e6]])
    found = cross_entropy(features, table, torch.empty(2, 0), torch.zeros(2), torch.tensor([0]), torch.float32)
    assert 80 < found.item() < 90


def test_what_is_not_finite_is_not_hidden():
    features, table, rest, bias, following = drawn(3, 2, 1, 5)
    assert cross_entropy(features * torch.nan, table, rest, bias, following, torch.float32).isnan()
