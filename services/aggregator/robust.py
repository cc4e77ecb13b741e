"""The robust centre: how much of a batch one node may be, and what the nodes agree on.

    mass       a node's crystals of a domain weigh at most MASS_MEDIANS times the median of the nodes'     norm bound
               that bring some now; where fewer than NODES_LEAST do, and the pool lends what others
               brought (pool.py), each n-gram of a node DENSITY_MEDIANS times the median of the nodes'
    numbers    so do the tokens and bytes that it says it read
    score      bits per byte: the median of the nodes'
    gate       bucket by bucket: the geodesic median of the nodes' shares, each weighed by the tokens that it heard
               there, as many as the median node at most

A node is one whatever it sends: its packets are bounded together. With fewer than NODES_LEAST nodes there is no median
that one of them does not make, and everything counts as it is. What the pool lends of a node is a few n-grams that
waited for these: it is bounded as the rest, and says nothing of how much whoever speaks now may bring. What these rules
stop and what not is measured on the attacks of benchmarks/attacks.py (docs/trust.md). Pure; whole numbers where counts
are.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from common.geometry.means import geodesic_median
from common.wire.ngrams import Crystals, capped
from services.aggregator.quorum import Brought

NODES_LEAST: Final = 3
MASS_MEDIANS: Final = 2  # chosen (docs/experiments.md): honest nodes that read twice what the others read lose nothing
DENSITY_MEDIANS: Final = 4  # chosen (docs/experiments.md): what the pool lends is rarer, so less often counted

Floats = npt.NDArray[np.float64]
N = TypeVar("N", int, Fraction)


def mass(found: Crystals) -> int:
    """The most that the totals add up to over the contexts of one length: for true counts the tokens behind them."""
    return max(int(order.totals.sum(dtype=np.uint64)) for order in found.orders)


def bounded(brought: Sequence[Brought], number: int) -> list[Crystals]:
    """The crystals of each, scaled down as its node's mass asks. number: of the cut: who is in it speaks now."""
    nodes, weights = [one.node for one in brought], [mass(one.crystals) for one in brought]
    of_node = _sums(weights, nodes)
    now = {one.node for one in brought if one.cut == number}
    if len(now) >= NODES_LEAST:
        most = _medians(of_node, now)
    elif len(of_node) >= NODES_LEAST:
        most = _dense(of_node, _sums([one.crystals.entries for one in brought], nodes))
    else:
        most = of_node
    shares = zip(brought, _within(weights, nodes, most), strict=True)
    return [capped(one.crystals, amount) for one, amount in shares]


def allowed(amounts: Sequence[int], nodes: Sequence[str]) -> list[int]:
    """Of each packet's amount, what counts: a node that brings more than MASS_MEDIANS medians is scaled down to them.

    Never below 1 where there was some; rounded down.
    """
    of_node = _sums(amounts, nodes)
    most = _medians(of_node, of_node) if len(of_node) >= NODES_LEAST else of_node
    return _within(amounts, nodes, most)


def _sums(amounts: Sequence[int], nodes: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for node, amount in zip(nodes, amounts, strict=True):
        found[node] = found.get(node, 0) + amount
    return found


def _medians(of_node: Mapping[str, int], peers: Iterable[str]) -> dict[str, int]:
    """The most that each node may bring beside these."""
    return dict.fromkeys(of_node, MASS_MEDIANS * _median(of_node[node] for node in peers))


def _dense(of_node: Mapping[str, int], entries: Mapping[str, int]) -> dict[str, int]:
    """The most that each node may bring, by its n-grams and by how much an n-gram of the others weighs."""
    median = _median(Fraction(of_node[node], max(entries[node], 1)) for node in of_node)
    return {node: int(DENSITY_MEDIANS * median * entries[node]) for node in of_node}


def _within(amounts: Sequence[int], nodes: Sequence[str], most: Mapping[str, int]) -> list[int]:
    of_node = _sums(amounts, nodes)
    return [
        amount if of_node[node] <= most[node] else max(amount * most[node] // of_node[node], min(amount, 1))
        for node, amount in zip(nodes, amounts, strict=True)
    ]


def _median(amounts: Iterable[N]) -> N:
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
