import numpy as np
import pytest

from common.kernels import gate


@pytest.mark.parametrize(
    ("order", "total", "row"),
    [(-1, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 2), (0, 127, 7), (0, 128, 8), (0, 10**6, 8), (3, 1, 25), (3, 300, 32)],
)
def test_a_bucket_is_an_order_and_an_octave(order, total, row):
    assert gate.bucket(order, total) == row
    assert 0 <= row < gate.BUCKETS


@pytest.mark.parametrize("experts", [2, 3, 4])
def test_the_prior_is_a_distribution_in_every_bucket(experts):
    prior = gate.prior(experts)
    assert prior.shape == (gate.BUCKETS, experts)
    assert np.allclose(prior.sum(1), 1)
    assert (prior > 0).all()


def places(seed=3, size=400):
    rng = np.random.default_rng(seed)
    return rng.uniform(1e-4, 1, (size, 3)), rng.integers(0, gate.BUCKETS, size)


def test_em_never_lowers_the_likelihood():
    experts, buckets = places()
    weights, last = gate.prior(3), -np.inf
    for _ in range(12):
        likelihood = np.log((weights[buckets] * experts).sum(1)).sum()
        assert likelihood >= last - 1e-9
        weights, last = gate.learn(experts, buckets, weights, rounds=1), likelihood


def test_em_finds_the_better_expert():
    experts = np.tile([0.01, 0.5], (300, 1))
    learned = gate.learn(experts, np.full(300, 5), gate.prior(2), rounds=30)
    assert learned[5, 1] > 0.95
    assert np.allclose(learned[6], gate.prior(2)[6])


def test_responsibilities_count_tokens():
    experts, buckets = places()
    sums = gate.responsibilities(experts, buckets, gate.prior(3))
    assert np.allclose(sums.sum(1), np.bincount(buckets, minlength=gate.BUCKETS))


def test_responsibilities_of_two_texts_add():
    experts, buckets = places()
    half = len(experts) // 2
    parts = [gate.responsibilities(experts[s], buckets[s], gate.prior(3)) for s in (slice(half), slice(half, None))]
    assert np.allclose(sum(parts), gate.responsibilities(experts, buckets, gate.prior(3)))
