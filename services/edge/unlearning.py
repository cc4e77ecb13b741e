"""Unlearning: what a domain's residue is once one text that was counted into it is taken out again.

Counts add, so they subtract: while no packet that could carry them has left, the residue becomes bit for bit what it
would be if the text had never come. A packet that was folded but has not left is withdrawn, and with it its whole fold:
the other texts in it wait again, and the next sleep makes the packet anew without this one. What has left cannot be
called back; then all that the residue still has of the text goes (never more of an n-gram than the text had), and the
packets that carried n-grams of it are named.

What the text had paid of what was owed (balance.py) is owed again while its own packet has not left. After that nobody
can tell it from what the packet said of the text, and a text that goes leaves no n-gram among what is owed.

Pure. Above RESIDUE_MAX_ENTRIES (balance.py) a residue has dropped what was seen once: there the same holds of the rest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from common.kernels.memory import Ids, Memory, count, subtract
from services.edge.balance import Balance
from services.edge.record import ORDERS, Packet, Status


@dataclass(frozen=True, slots=True)
class Left:
    """A packet that has left, or may have. ngrams: how many of those it carries occur in the text; its figures (length,
    score, basin) may count the text in even where that is 0.
    """

    sequence: int
    status: Status
    ngrams: int


@dataclass(frozen=True, slots=True, eq=False)
class Unlearned:
    """balance: without the text and what was folded for the packets `withdrawn`; taken: what the residue had of it."""

    balance: Balance
    taken: Memory
    withdrawn: tuple[int, ...]
    left: tuple[Left, ...]


def withdrawable(packets: Iterable[Packet]) -> tuple[int, ...]:
    """The sequences of the packets that have certainly not left."""
    return tuple(packet.sequence for packet in packets if packet.raw is None)


def unlearn(text: Ids, balance: Balance, packets: Sequence[Packet], others: Iterable[Ids], *, own: int) -> Unlearned:
    """Takes a text that was counted out of its domain's residue.

    own: the sequence of the packet that it was folded for; packets: the domain's from there on; others: the other texts
    that were folded for those of them that are withdrawable.
    """
    counted = count([text], ORDERS)
    before = balance.told(count(others, ORDERS))
    after = before.told(counted)
    if own not in withdrawable(packets):
        after = Balance(after.residue, before.owed)
    gone = [(packet, _shared(packet.counts, counted)) for packet in packets if packet.raw is not None]
    left = tuple(
        Left(packet.sequence, packet.status, ngrams) for packet, ngrams in gone if ngrams or packet.sequence == own
    )
    taken = subtract(before.residue, after.residue)
    return Unlearned(after, taken, withdrawable(packets), left)


def _shared(one: Memory, other: Memory) -> int:
    """How many n-grams both have."""
    return sum(int(np.isin(a.keys, b.keys).sum()) for a, b in zip(one.tables, other.tables, strict=True))
