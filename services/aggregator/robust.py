"""The robust centre: how much of a batch one node may be, and what the nodes agree on.

    mass       a node's crystals of a domain weigh at most MASS_MEDIANS times the median of the nodes'     norm bound
               that bring some
    numbers    so do the tokens and bytes that it says it read
    score      bits per byte: the median of the nodes'
    gate       bucket by bucket: the geodesic median of the nodes' shares, each weighed by the tokens that it heard
               there, as many as the median node at most

A node is one whatever it sends: its packets are bounded together. With fewer than NODES_LEAST nodes there is no median
that one of them does not make, and everything counts as it is. What these rules stop and what not is measured on the
attacks of benchmarks/attacks.py (docs/trust.md). Pure; whole numbers where counts are.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from common.geometry.means import geodesic_median
from common.wire.ngrams import Crystals, capped

NODES_LEAST: Final = 3
MASS_MEDIANS: Final = 2  # chosen (docs/experiments.md): honest nodes that read twice what the others read lose nothing

Floats = npt.NDArray[np.float64]


def mass(found: Crystals) -> int:
    """The most that the totals add up to over the contexts of one length: for true counts the tokens behind them."""
    return max(int(order.totals.sum(dtype=np.uint64)) for order in found.orders)


def bounded(several: Sequence[Crystals], nodes: Sequence[str]) -> list[Crystals]:
    """The crystals of packets, each scaled down as its node's mass asks. nodes: who sent each, in the same order."""
    weights = [mass(found) for found in several]
    return [capped(found, most) for found, most in zip(several, allowed(weights, nodes), strict=True)]


def allowed(amounts: Sequence[int], nodes: Sequence[str]) -> list[int]:
    """Of each packet's amount, what counts: a node that brings more than MASS_MEDIANS medians is scaled down to them.

    Never below 1 where there was some; rounded down.
    """
    of_node: dict[str, int] = {}
    for node, amount in zip(nodes, amounts, strict=True):
        of_node[node] = of_node.get(node, 0) + amount
    if len(of_node) < NODES_LEAST:
        return list(amounts)
    most = MASS_MEDIANS * _median(of_node.values())
    return [
        amount if of_node[node] <= most else max(amount * most // of_node[node], min(amount, 1))
        for node, amount in zip(nodes, amounts, strict=True)
    ]


def _median(amounts: Iterable[int]) -> int:
    """The lower of the two in the middle: a node more than half of them cannot raise it."""
    ordered = sorted(amounts)
    return ordered[(len(ordered) - 1) // 2]


def score(bits: Sequence[float], sizes: Sequence[int], nodes: Sequence[str]) -> float:
    """Bits per byte: the median of the nodes' own, of few nodes what they read together. 0.0 where nobody read."""
    read: dict[str, tuple[float, int]] = {}
    for node, own, size in zip(nodes, bits, sizes, strict=True):
        before = read.get(node, (0.0, 0))
        read[node] = before[0] + own, before[1] + size
    if len(read) < NODES_LEAST:
        return sum(bits) / max(sum(sizes), 1)
    told = [own / size for own, size in read.values() if size]
    return float(np.median(told)) if told else 0.0


def agreed(sums: Sequence[Floats], nodes: Sequence[str]) -> Floats:
    """Gate statistics (BUCKETS, experts) of all packets as one: rows add up to the tokens that count."""
    own: dict[str, Floats] = {}
    for node, each in zip(nodes, sums, strict=True):
        own[node] = own[node] + each if node in own else each
    every: Floats = np.stack([own[node] for node in sorted(own)])
    if len(own) < NODES_LEAST:
        few: Floats = every.sum(0)
        return few
    heard = every.sum(2)
    heard = np.minimum(heard, np.median(heard, axis=0))
    found: Floats = np.zeros_like(every[0])
    for bucket in np.flatnonzero(heard.sum(0) > 0):
        said = heard[:, bucket] > 0
        shares = every[said, bucket] / every[said, bucket].sum(1, keepdims=True)
        found[bucket] = geodesic_median(shares, heard[said, bucket]) * heard[said, bucket].sum()
    return found
