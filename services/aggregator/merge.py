"""The merge: what several packets say of one domain, as one update.

    crystals   with the shorter n-grams that they imply, under the mass cap each; of them what enough nodes have brought
               (quorum.py), under the bound of its node; then counts and totals add            commutative, exact
    basin      geodesic median of the nodes' basins                         half of them may lie
    gate       the nodes' agreement, bucket by bucket (robust.py)           half of them may lie
               (a role's: of three nodes that tell of it at least, where five are enrolled)
    score      the nodes' median of the prequential bits per byte, of the bytes that count

Mass cap: a packet heavier than `mass_cap`, or than its node may be in this batch (robust.py), is scaled down to it
(ngrams.capped), so that it says the same of every context with less weight; no n-gram of it can then count more than
the cap either.

The coder knows counts 1 2 3 4 6 8 12 ... and rounds down, which is right for an edge (what was not sent waits there)
and would lose 9-16 % of the mass of a merge, where nothing waits. So merged counts go to the nearest level first; one
in the middle goes up or down by its token's last bit, so that the mass of some hundred n-grams stays within 2 %
(measured on 400).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.constants import ROLES
from common.errors import Rejected
from common.geometry.means import geodesic_median
from common.geometry.simplex import to_float16
from common.kernels import gate
from common.wire import crystals
from common.wire.crystals import LEVELS
from common.wire.messages import DomainUpdate
from common.wire.ngrams import MAX_TOTAL, Crystals, Order, capped, context_starts, group_sums
from services.aggregator import robust
from services.aggregator.admit import read_gate
from services.aggregator.bases import Base
from services.aggregator.pool import Pool, gathered
from services.aggregator.quorum import Brought, parted
from services.aggregator.quota import Nodes, many, node_of
from services.aggregator.recount import recounted
from services.aggregator.territories import NOBODY, Place, Waiting

MAX_DOMAIN_ENTRIES: Final = 1 << 16  # n-grams of one domain in a batch: what the trainer decodes


@dataclass(frozen=True, slots=True)
class Merged:
    """One domain's update, and the packets that are in it. brought: what the update is `combined` of, in one order
    whoever came first; waits: what of the packets waits for a quorum; pool: what of the pool does still.
    """

    update: DomainUpdate
    taken: tuple[Waiting, ...]
    brought: tuple[Brought, ...]
    waits: tuple[Brought, ...]
    pool: tuple[Brought, ...]


@dataclass(frozen=True, slots=True)
class Quorum:
    """How many nodes must bring an n-gram, what waits for them by domain, and the number of this cut: what waits is of
    cuts before it.
    """

    edges: int
    pool: Pool
    number: int


NO_QUORUM: Final = Quorum(1, {}, 0)


def levelled(found: Crystals) -> Crystals:
    """The crystals with each count at the nearest level of the coder: encoding changes no count of it."""
    one, two, three = (_levelled(order) for order in found.orders)
    return Crystals((one, two, three))


def _levelled(order: Order) -> Order:
    counts = order.counts.astype(np.uint64)
    below = np.searchsorted(LEVELS, counts, side="right") - 1
    low, high = LEVELS[below], LEVELS[np.minimum(below + 1, len(LEVELS) - 1)]
    up = 2 * counts + (order.keys & np.uint64(1)) > low + high  # in the middle: up for an odd token
    rounded = np.where(up & (high <= MAX_TOTAL), high, low).astype(np.uint32)
    sums = group_sums(rounded, context_starts(order.keys))
    return Order(order.keys, rounded, order.contexts, np.maximum(order.totals, sums).astype(np.uint32))


def merged(
    place: Place,
    packets: Sequence[Waiting],
    *,
    mass_cap: int,
    current: Base,
    room_bytes: int,
    nodes: Nodes = NOBODY,
    quorum: Quorum = NO_QUORUM,
) -> Merged | None:
    """As many of the packets, from the first, as fit into one update of at most `room_bytes` of crystals.

    packets: oldest first; they are halved until they fit, and then what waited, which may all be said at once when a
    quorum is asked no more; the rest waits for the next batch. None when not one fits.
    current: the bundle that the batch is for; a packet over a smaller vocabulary is counted anew in its. nodes: who
    holds which key.
    """
    light = {
        packet.ref: Brought(
            node_of(nodes, packet.packet.key),
            quorum.number,
            capped(recounted(packet.told, packet.base.vocab_size, current), mass_cap),
        )
        for packet in packets
    }
    size, pool, later = len(packets), list(quorum.pool.get(place.name, ())), list[Brought]()
    while size:
        taken = sorted(packets[:size], key=lambda packet: packet.ref)
        said, waits = _parted(place, [*pool, *(light[packet.ref] for packet in taken)], current, quorum.edges)
        found = combined(said, quorum.number)
        fits = found.entries <= MAX_DOMAIN_ENTRIES
        blob = encoded(found, current.vocab_size) if fits else None
        if blob is not None and len(blob) <= room_bytes:
            own = tuple(one for one in waits if one.cut == quorum.number)
            left = tuple(gathered([*(one for one in waits if one.cut < quorum.number), *later]))
            return Merged(_update(place, taken, blob, nodes), tuple(packets[:size]), tuple(said), own, left)
        if size == 1 and pool:
            half = len(pool) // 2
            pool, later = pool[:half], [*pool[half:], *later]
        else:
            size //= 2
    return None


def _parted(place: Place, brought: Sequence[Brought], current: Base, edges: int) -> tuple[list[Brought], list[Brought]]:
    """What is said and what waits. Who brings no n-gram of a domain says nothing of how many others may bring
    (robust.py).
    """
    every = [one for one in brought if one.crystals.entries]
    if edges == 1:
        return every, []
    found = parted(every, edges=edges, known=current.known.get(place.name))
    said = [one._replace(crystals=mine) for one, (mine, _) in zip(every, found, strict=True) if mine.entries]
    waits = [one._replace(crystals=left) for one, (_, left) in zip(every, found, strict=True) if left.entries]
    return said, waits


def combined(brought: Sequence[Brought], number: int) -> Crystals:
    """What several nodes brought of a domain as one, no node more than it may be (robust.py), each count at a level.

    number: of the cut.
    """
    return levelled(crystals.merge(robust.bounded(brought, number)))


def encoded(found: Crystals, vocab_size: int) -> bytes | None:
    """The crystals as a batch carries them; None where they are too long for it."""
    try:
        return crystals.encode(found, vocab_size)
    except Rejected as error:
        if error.code != "oversized":
            raise
        return None


def _update(place: Place, ordered: Sequence[Waiting], blob: bytes, nodes: Nodes) -> DomainUpdate:
    """ordered: by their refs: float sums and medians see one order, whoever came first."""
    own = [node_of(nodes, packet.packet.key) for packet in ordered]
    weights = np.array([1.0 / own.count(node) for node in own])
    centre = geodesic_median(np.stack([packet.basin for packet in ordered]), weights)
    bodies = [packet.body for packet in ordered]
    fresh_bytes = sum(robust.allowed([body.fresh_bytes for body in bodies], own))
    told = robust.score([body.fresh_bits for body in bodies], [body.fresh_bytes for body in bodies], own)
    return DomainUpdate(
        name=place.name,
        kernel=place.role,
        opened=place.opened,
        basin=to_float16(centre).astype("<f2").tobytes(),
        crystals=blob,
        gate=_gate(place, ordered, own, nodes),
        packets=len(bodies),
        tokens=sum(robust.allowed([body.tokens for body in bodies], own)),
        fresh_bytes=fresh_bytes,
        fresh_bits=told * fresh_bytes,
    )


def _gate(place: Place, packets: Sequence[Waiting], own: Sequence[str], nodes: Nodes) -> bytes:
    """What the packets' gates agree on; a gate over other experts (an older form of the domain) says nothing of it."""
    read = [(read_gate(packet.body), node) for packet, node in zip(packets, own, strict=True)]
    fitting = [(sums, node) for sums, node in read if sums is not None and sums.shape[1] == place.experts]
    if not fitting or _alone(place, [node for _, node in fitting], nodes):
        return b""
    return gate.to_bytes(robust.agreed(*zip(*fitting, strict=True)))


def _alone(place: Place, told: Sequence[str], nodes: Nodes) -> bool:
    """Whether too few of many nodes tell of a role's gate to turn it, which text of the centre's own taught: the worse
    gate would have the whole batch refused.
    """
    return place.name in ROLES and many(nodes) and len(set(told)) < robust.NODES_LEAST


def check_vocabulary(packet: Waiting, current: Base) -> None:
    """Raises Rejected("base_window") for a packet over tokens that the bundle which the batch is for has not."""
    base = packet.base
    if base.vocab_size > current.vocab_size or current.merges[: len(base.merges)] != base.merges:
        raise Rejected(
            "base_window",
            f"counts over {base.vocab_size} tokens of bundle {base.version}; bundle {current.version} knows "
            f"{current.vocab_size}, and not all of those",
        )
