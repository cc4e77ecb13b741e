"""The pool: what nodes brought of a domain and what waits there for a quorum (quorum.py), by node and cut.

    cut      the pool and what packets bring ─▶ said (merged)  and  waits
    comes    what waits of packets once their batch counts for good (claims.py)
    leaves   what is said; what is WAIT_CUTS old; of a domain what is beyond WAITING_MAX n-grams a node and DOMAIN_MAX
             in all (less where more than FULL_MAX domains have a pool), the oldest first, and of what came in WAIT_STEP
             cuts what was counted least; what is of a node that is enrolled no more, of a domain that is none, or over
             ids that stand for other tokens now

A domain that has ended leaves its pool to its heir; a vocabulary that grew has it counted anew, as packets are. The
same pool and packets leave the same pool, whatever order they came in.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from common.coordizer.artifacts import FIRST_MERGE, lineage
from common.errors import Corrupt
from common.wire.ngrams import merge
from services.aggregator import shares
from services.aggregator.bases import Base
from services.aggregator.quorum import Brought, split
from services.aggregator.recount import recounted
from services.aggregator.shares import Shares

WAIT_CUTS: Final = 256  # chosen: a day of a fleet that cuts ten batches an hour
WAIT_STEP: Final = 32  # cuts that are told apart no further: a node has eight shares of a domain, not hundreds
WAITING_MAX: Final = 1 << 14  # n-grams of one node and domain: a dozen packets of which nobody says a thing
DOMAIN_MAX: Final = 1 << 18  # n-grams of a domain, 1 MB in the broker
SHARES_MAX: Final = 4000  # of a domain
FULL_MAX: Final = 8  # domains may hold that much; where more have a pool, each holds its part of it
_LINEAGE_BYTES: Final = 32

Pool = Shares


def gathered(several: Iterable[Brought]) -> list[Brought]:
    """One share for each node and WAIT_STEP cuts, in their order, those without an n-gram left out."""
    of_each: dict[tuple[str, int], list[Brought]] = {}
    for one in several:
        if one.crystals.entries:
            of_each.setdefault((one.node, one.cut - one.cut % WAIT_STEP), []).append(one)
    return [Brought(node, cut, merge([one.crystals for one in some])) for (node, cut), some in sorted(of_each.items())]


def kept(pool: Pool, current: Base, *, places: Collection[str], nodes: Collection[str], cuts: int) -> Pool:
    """What of a pool waits on. places: the domains there are; nodes: who is enrolled; cuts: how many made a batch."""
    home: dict[str, list[Brought]] = {}
    for domain, some in pool.items():
        name = current.heirs.get(domain, domain)
        young = [one for one in some if one.node in nodes and cuts - one.cut < WAIT_CUTS]
        if name in places and young:
            home.setdefault(name, []).extend(young)
    return {name: _bounded(gathered(some), len(home)) for name, some in home.items()}


def _bounded(several: Sequence[Brought], domains: int) -> list[Brought]:
    """The newest, of each node and of all. domains: that have a pool."""
    entries, shares = (most * FULL_MAX // max(FULL_MAX, domains) for most in (DOMAIN_MAX, SHARES_MAX))
    held: dict[str, int] = {}
    left: list[Brought] = []
    total = 0
    for one in sorted(several, key=lambda one: (-one.cut, one.node)):
        own = held.get(one.node, 0)
        room = min(WAITING_MAX - own, entries - total)
        if room > 0 and len(left) < shares:
            fits = _most_counted(one, room)
            held[one.node], total = own + fits.crystals.entries, total + fits.crystals.entries
            left.append(fits)
    return sorted(left, key=lambda one: (one.node, one.cut))


def _most_counted(one: Brought, room: int) -> Brought:
    """As many n-grams as there is room for; of those that were counted alike the shorter, then the lesser ids."""
    found = one.crystals
    if found.entries <= room:
        return one
    counts = np.concatenate([order.counts for order in found.orders]).astype(np.int64)
    chosen = np.zeros(len(counts), np.bool_)
    chosen[np.argsort(-counts, kind="stable")[:room]] = True
    ends = np.cumsum([len(order.keys) for order in found.orders])[:-1]
    return one._replace(crystals=split(found, np.split(chosen, ends))[0])


def joined(several: Iterable[Pool]) -> Pool:
    """All that is in several, as one."""
    found: dict[str, list[Brought]] = {}
    for one in several:
        for domain, some in one.items():
            found.setdefault(domain, []).extend(some)
    return {domain: gathered(some) for domain, some in found.items()}


def to_bytes(pool: Pool, current: Base) -> bytes:
    """As the broker keeps it: the lineage of the ids, then shares.py."""
    return bytes.fromhex(lineage(current.merges)) + shares.to_bytes(current.vocab_size, pool)


def from_bytes(data: bytes, current: Base) -> dict[str, list[Brought]]:
    """The inverse of `to_bytes`, over the current vocabulary; nothing where ids stand for other tokens now.

    Raises Corrupt("shares").
    """
    if len(data) <= _LINEAGE_BYTES:
        raise Corrupt("shares", f"{len(data)} bytes of a pool that no aggregator wrote: delete them")
    vocab, found = shares.from_bytes(data[_LINEAGE_BYTES:])
    own = current.merges[: max(vocab - FIRST_MERGE, 0)]
    if vocab > current.vocab_size or lineage(own) != data[:_LINEAGE_BYTES].hex():
        return {}
    return {
        domain: [one._replace(crystals=recounted(one.crystals, vocab, current)) for one in some]
        for domain, some in found.items()
    }


def read(kept_bytes: Mapping[str, bytes], current: Base) -> Pool:
    """Every domain's pool. Raises Corrupt("shares")."""
    return joined(from_bytes(data, current) for data in kept_bytes.values())
