"""Balance: what an edge has seen of a domain, less what the centre was told of it.

    residue   seen, and not told: what packets are made of, and what answers here beside the bundle
    owed      told, and not seen: the next that is seen of it pays, before a packet says more

    seen + owed = told + residue, for every n-gram and every context's total; none is in both

A packet says more than the edge has left of an n-gram where a longer one implies it again (ngrams.implied): a pair that
was named before is told once more by each triple that ends in it. And a total is told as its nearest doubling. What is
owed makes that good: nothing that is owed is named, until as much of it was seen again. So what nothing implies, the
triples, is never told more often than it was seen. Of what is implied a packet may still say too much, if it was told
in another way before; to keep all that back until it recurs costs up to a third of the gain, and to keep back triples
alone brings nothing (docs/experiments.md).

Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Final

import numpy as np

from common.kernels.memory import TOKEN_BITS, Memory, Table, count, merge, subtract
from common.wire.ngrams import ORDERS

RESIDUE_MAX_ENTRIES: Final = 1 << 20  # n-grams of one domain, about 20 MB; above it, what was seen once goes
OWED_MAX: Final = 1 << 17  # chosen: counts and totals of one domain, about 2 MB; above it, the smallest are forgiven
NOTHING: Final = count([], ORDERS)


@dataclass(frozen=True, slots=True, eq=False)
class Balance:
    """A domain's books. See this file's text."""

    residue: Memory
    owed: Memory = NOTHING

    def seen(self, counts: Memory) -> "Balance":
        """With what was read; what is owed of it is paid first."""
        grown = merge([self.residue, counts])
        return Balance(subtract(grown, self.owed), subtract(self.owed, grown))

    def told(self, counts: Memory) -> "Balance":
        """With what the centre has counted. Also with what was not seen after all: then it takes back what paid."""
        beyond = subtract(counts, self.residue)
        return Balance(subtract(self.residue, counts), merge([self.owed, beyond]))


EMPTY: Final = Balance(NOTHING)


def total(balances: Iterable[Balance]) -> Balance:
    """The books of several as those of one."""
    return reduce(lambda one, other: one.told(other.owed).seen(other.residue), balances, EMPTY)


def bounded(balance: Balance, residue_max: int = RESIDUE_MAX_ENTRIES, owed_max: int = OWED_MAX) -> Balance:
    """The books within their size. A residue above it keeps what recurred, and its totals, so that it stays honest; of
    what is owed the smallest goes, and the centre has as much too much.
    """
    residue, owed = balance.residue, balance.owed
    if residue.entries > residue_max:
        kept = (Table.of(t.keys[t.counts > 1], t.counts[t.counts > 1], t.contexts, t.totals) for t in residue.tables)
        residue = Memory(tuple(kept))
    amounts = np.concatenate([column for table in owed.tables for column in (table.counts, table.totals)])
    if len(amounts) > owed_max:
        least = int(np.partition(amounts, len(amounts) - owed_max - 1)[len(amounts) - owed_max - 1])
        owed = Memory(tuple(_above(table, least) for table in owed.tables))
    return Balance(residue, owed)


def _above(table: Table, least: int) -> Table:
    keep = table.counts > least
    stay = (table.totals > least) | np.isin(table.contexts, table.keys[keep] >> TOKEN_BITS)
    return Table.of(table.keys[keep], table.counts[keep], table.contexts[stay], table.totals[stay])
