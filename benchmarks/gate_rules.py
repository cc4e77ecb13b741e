"""How gate statistics of several packets are brought together: rules for attacks.py to compare with the shipped one.

Each takes the (BUCKETS, experts) sums of each packet and who sent them, and gives one such array.
"""

import numpy as np

from common.geometry.means import geodesic_median
from services.aggregator import robust


def summed(sums, nodes):
    del nodes
    return np.sum(sums, axis=0)


def within(sums):
    """Norm bound: each scaled down to the median of the tokens heard."""
    heard = [each.sum() for each in sums]
    return np.stack(
        [each * min(1.0, np.median(heard) / max(size, 1e-9)) for each, size in zip(sums, heard, strict=True)]
    )


def norm_bound(sums, nodes):
    return summed(within(sums), nodes)


def per_bucket(sums, nodes):
    """Geodesic median of each bucket's shares, weighed by what of the bounded tokens was heard there."""
    del nodes
    held = within(sums)
    heard, found = held.sum(2), np.zeros(held.shape[1:])
    for row in np.flatnonzero(heard.sum(0) > 0):
        there = heard[:, row] > 0
        shares = held[there, row] / heard[there, row, None]
        found[row] = geodesic_median(shares, heard[there, row]) * heard[:, row].sum()
    return found


def whole(sums, nodes):
    """Geodesic median of whole gates: points of one simplex of buckets and experts."""
    del nodes
    held = within([each for each in sums if each.any()])
    flat = held.reshape(len(held), -1)
    return geodesic_median(flat / flat.sum(1, keepdims=True), flat.sum(1)).reshape(held.shape[1:]) * flat.sum()


def trimmed(sums, nodes):
    """Nearest-neighbour mixing over n - f, then a trimmed mean (Allouah et al. 2023), on the sphere; f = n / 4."""
    del nodes
    held = within([each for each in sums if each.any()])
    flat, f = np.sqrt(held.reshape(len(held), -1) / held.sum((1, 2))[:, None]), len(held) // 4
    apart = ((flat[:, None] - flat[None]) ** 2).sum(-1)
    mixed = np.sort([flat[np.argsort(row)[: len(flat) - f]].mean(0) for row in apart], axis=0)
    centre = mixed[f : len(flat) - f].mean(0) ** 2
    return (centre / centre.sum()).reshape(held.shape[1:]) * held.sum()


RULES = {
    "sum": summed, "norm bound": norm_bound, "median by bucket": per_bucket, "median of gates": whole,
    "NNM and trim": trimmed, "agreed": robust.agreed,
}  # fmt: skip
