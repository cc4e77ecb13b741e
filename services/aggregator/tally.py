"""The tally of mentions: which hashes enough edges have mentioned, counted by edge and never by packet.

    mentioned   key ─▶ the hashes that this edge mentioned and that were not common yet, the oldest first
    common      number of a cut ─▶ the hashes that became common by it

An edge that mentions a hash twice, in two packets or in one that comes again, has mentioned it; one that holds several
keys is one edge. One that mentions what is common already has missed that, or lost what it knew: it is told again.
Bounded, and the oldest goes first: of an edge's mentions MENTIONED_MAX are kept (it does the same, and mentions again
what fell out), of what is common COMMON_MAX (it is counted anew), some cuts after one that brought much. A cut takes
packets oldest first, so that the same packets on the same tally leave the same tally. Whoever holds the hashes cannot
tell what was hashed (common/wire/mentions.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import Corrupt
from common.wire.mentions import Hashes
from services.aggregator.quota import Nodes

MENTIONED_MAX: Final = 1 << 14  # of an edge: 64 KiB in the broker; a month of sleeps
COMMON_MAX: Final = 1 << 15  # of the fleet: 128 KiB; then one hash in 512 of what nobody shares seems common
DROPPED_MAX: Final = 256  # keys, and old cuts, that one cut drops: a transaction has room for them; the next drops more
_FORM: Final = np.dtype("<u4")
_EMPTY: Final = np.zeros(0, np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """What is known before a cut. mentioned: by key id; common: by number of the cut, ascending."""

    mentioned: Mapping[bytes, Hashes]
    common: Mapping[int, Hashes]


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """What a cut changes. mentioned: of the edges that brought some, whole; common: new by this cut; forgotten: cuts
    whose common hashes are dropped; told: `common`, and what is told again; gone: keys that are enrolled no more.
    """

    mentioned: dict[bytes, Hashes]
    common: Hashes
    forgotten: tuple[int, ...]
    told: Hashes
    gone: tuple[bytes, ...] = ()


def tally(before: Tally, brought: Sequence[tuple[bytes, Hashes]], *, nodes: Nodes, edges: int) -> Counted:
    """The tally once these mentions are counted.

    brought: key id and hashes, by packet, the oldest first; nodes: of each enrolled key its node; edges: that many
    nodes must have mentioned a hash.
    """
    common = np.unique(np.concatenate([*before.common.values(), _EMPTY]))
    changed: dict[bytes, Hashes] = {}
    for key, hashes in brought:
        own = changed.get(key, before.mentioned.get(key, _EMPTY))
        new = hashes[~np.isin(hashes, own)]
        changed[key] = np.concatenate([own, new])
    asked = np.unique(np.concatenate([*(hashes for _, hashes in brought), _EMPTY]))
    holders = _holders(asked, {**before.mentioned, **changed}, nodes)
    fresh = np.setdiff1d(asked[holders >= edges], common)
    known = np.union1d(common, fresh)
    mentioned = {key: own[~np.isin(own, known)][-MENTIONED_MAX:] for key, own in changed.items() if key in nodes}
    told = np.union1d(fresh, np.intersect1d(asked, common))
    gone = tuple(sorted(before.mentioned.keys() - nodes.keys())[:DROPPED_MAX])
    return Counted(mentioned, fresh, _overfull(before.common, len(fresh)), told, gone)


def counted_in(before: Tally, found: Counted, number: int) -> Tally:
    """The tally once the cut of this number, which changed this, is in it."""
    mentioned = {key: own for key, own in {**before.mentioned, **found.mentioned}.items() if key not in found.gone}
    common = {cut: old for cut, old in before.common.items() if cut not in found.forgotten}
    return Tally(mentioned, common | ({number: found.common} if len(found.common) else {}))


def _holders(asked: Hashes, mentioned: Mapping[bytes, Hashes], nodes: Nodes) -> npt.NDArray[np.int64]:
    """How many nodes have mentioned each of these hashes, which ascend: only they can have become common."""
    held: dict[str, npt.NDArray[np.bool_]] = {}
    for key, own in mentioned.items():
        if key in nodes and len(asked):
            at = np.minimum(np.searchsorted(asked, own), len(asked) - 1)
            mine = held.setdefault(nodes[key], np.zeros(len(asked), np.bool_))
            mine[at[asked[at] == own]] = True
    holders: npt.NDArray[np.int64] = np.sum([*held.values(), np.zeros(len(asked), np.int64)], axis=0)
    return holders


def _overfull(common: Mapping[int, Hashes], fresh: int) -> tuple[int, ...]:
    """The oldest cuts that must go so that all that is left is at most COMMON_MAX, DROPPED_MAX of them."""
    total, gone = fresh + sum(map(len, common.values())), []
    for number in sorted(common)[:DROPPED_MAX]:
        if total <= COMMON_MAX:
            break
        total -= len(common[number])
        gone.append(number)
    return tuple(gone)


def to_bytes(hashes: Hashes) -> bytes:
    """As the broker keeps them: 4 bytes each, little-endian, in the order given."""
    return hashes.astype(_FORM).tobytes()


def from_bytes(data: bytes) -> Hashes:
    """The inverse of `to_bytes`. Raises Corrupt("tally")."""
    if len(data) % _FORM.itemsize:
        raise Corrupt(
            "tally", f"{len(data)} bytes of hashes that no aggregator wrote: delete them, edges mention again"
        )
    return np.frombuffer(data, _FORM).astype(np.uint32)
