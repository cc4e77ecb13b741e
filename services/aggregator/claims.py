"""Claims: what a batch takes out of the pool and what its packets leave in it, until it is known whether it counts.

    cut        lent    what waited of others, and this batch says        leaves the pool at once: nobody says it twice
               waits   what of its own packets waits for a quorum        is not in the pool yet
    counts     its bundle was released, and another has followed ─▶ what waits comes into the pool
    returned   refused, or its release was taken back ───────────▶ what was lent comes back; what waits is dropped, for
                                                                   the edges send those packets again

So the pool holds what bundles have settled and nothing else: of each node, what the fleet has been told, what waits,
what is claimed and what its edges hold still are what it brought, to the count (tested). It is the newest release that
is taken back where edges go back from it; so nothing of a release comes into the pool before another follows. What an
operator takes back beyond the newest (`qig bundle revoke --to`) leaves what its packets had brought to the pool.

Knows no clock and no broker.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from services.aggregator import pool as pools
from services.aggregator.bases import Base
from services.aggregator.pool import WAIT_CUTS, Pool

Word = Literal["waits", "counts", "returned"]


@dataclass(frozen=True, slots=True)
class Claim:
    """number: of the cut, of those that made a batch; batch: its id; lent, waits: of each domain what each node
    brought, see this file's text.
    """

    number: int
    batch: str
    lent: Pool
    waits: Pool

    @property
    def name(self) -> str:
        """As the broker keeps it: `named` reads it."""
        return f"{self.number}-{self.batch}"

    def packed(self, current: Base) -> bytes:
        """As pool.py packs a pool: what is lent was brought before the cut."""
        domains = sorted(self.lent.keys() | self.waits.keys())
        both = {name: [*self.lent.get(name, ()), *self.waits.get(name, ())] for name in domains}
        return pools.to_bytes(both, current)


def named(name: str) -> tuple[int, str]:
    """The number of the cut and the batch of a claim's name."""
    number, _, batch = name.partition("-")
    return int(number), batch


def unpack(name: str, data: bytes, current: Base) -> Claim:
    """The inverse of `packed`, over the current vocabulary. Raises Corrupt("shares")."""
    number, batch = named(name)
    both = pools.from_bytes(data, current)
    lent = {domain: [one for one in some if one.cut < number] for domain, some in both.items()}
    waits = {domain: [one for one in some if one.cut == number] for domain, some in both.items()}
    return Claim(number, batch, _there(lent), _there(waits))


def claimed(number: int, batch: str, lent: Pool, waits: Pool) -> Claim | None:
    """What a cut's batch claims; None for nothing."""
    found = Claim(number, batch, _there(lent), _there(waits))
    return found if found.lent or found.waits else None


def word(batch: str, *, released: Mapping[str, int], refused: Collection[str]) -> Word:
    """What became of a batch. released: versions, by the candidate's id, which is the batch's; refused: those that were
    refused, or released and taken back.
    """
    if batch in refused:
        return "returned"
    followed = batch in released and released[batch] < max(released.values())
    return "counts" if followed else "waits"


def is_lost(name: str, cuts: int) -> bool:
    """Whether nobody will say what became of a claim: what it holds would be too old for the pool by now. cuts: how
    many made a batch: of those WAIT_CUTS never wait for a trainer at once, for the stream has room for fewer.
    """
    return cuts - named(name)[0] >= WAIT_CUTS


def settle(pool: Pool, *, counts: Iterable[Claim], returned: Iterable[Claim]) -> Pool:
    """The pool once it is known what became of these claims, in whatever order."""
    return pools.joined([pool, *(one.waits for one in counts), *(one.lent for one in returned)])


def _there(found: Pool) -> Pool:
    return {domain: some for domain, some in found.items() if some}
