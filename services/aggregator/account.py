"""The account: what each node brought to the batches of late, so that a hostile one's part of them is taken out again.

    cut        the batch's shares are noted: of each domain what each packet brought, as it was merged
    disown     of every batch that is noted and has packets of the node: a Correction for each domain, what the batch
               said and what it says without the node; then the node is in the note no more

A batch is a function of its shares and its number (merge.combined), so what it says without a node is what it would
have said: counts, totals, rounding, and how much of it each of the others may be. The trainer adds the one and
subtracts the other, and has the memory that it would have had, to the count. What can't be taken out: batches that are
noted no more (the newest ACCOUNT_BATCHES are, of ACCOUNT_BYTES at most); what gates, basins and trained states took up
from a batch; n-grams that the node helped to a quorum, where others brought them too; and after the vocabulary has
grown the counts are those of a re-count, which is as good as counting the text, and not to the count the same.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import zstandard

from common.errors import Corrupt
from common.wire.fields import MAX_CORRECTIONS, MESSAGE_MAX_BYTES
from common.wire.messages import Correction
from services.aggregator import shares
from services.aggregator.merge import combined, encoded
from services.aggregator.shares import Shares

ACCOUNT_BATCHES: Final = 1024  # chosen: a week of a fleet of 50 edges that sleep once an hour
ACCOUNT_BYTES: Final = 64 << 20  # in the broker; 2.5 KB a packet of the default size
ROOM_BYTES: Final = MESSAGE_MAX_BYTES - 64 * 1024  # of a message, for corrections
_BATCH_BYTES: Final = 32
_NUMBER: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Note:
    """What is noted of a batch. number: of its cut, of those that made a batch: what it was lent is of cuts before;
    vocab: what its crystals are over; shares: by domain.
    """

    batch: str
    number: int
    vocab: int
    shares: Shares

    @property
    def packed(self) -> bytes:
        """As the broker keeps it: the batch's digest, the number, then shares.py."""
        return bytes.fromhex(self.batch) + _NUMBER.pack(self.number) + shares.to_bytes(self.vocab, self.shares)

    @classmethod
    def unpack(cls, data: bytes) -> "Note":
        """The inverse of `packed`; one from before numbers is of its newest shares. Raises Corrupt("shares")."""
        begin = _BATCH_BYTES + _NUMBER.size
        if len(data) <= begin:
            raise Corrupt("shares", f"{len(data)} bytes of a batch's shares that no aggregator wrote: delete them")
        batch, (number,) = data[:_BATCH_BYTES].hex(), _NUMBER.unpack_from(data, _BATCH_BYTES)
        if data[_BATCH_BYTES:begin] != zstandard.FRAME_HEADER:
            return cls(batch, number, *shares.from_bytes(data[begin:]))
        vocab, found = shares.from_bytes(data[_BATCH_BYTES:])
        return cls(batch, max((one.cut for some in found.values() for one in some), default=0), vocab, found)


def outdated(sizes: Mapping[int, int]) -> list[int]:
    """The numbers of the notes that are kept no longer, the oldest first. sizes: in bytes, by number of the cut."""
    kept, total = 0, 0
    for number in sorted(sizes, reverse=True):
        kept, total = kept + 1, total + sizes[number]
        if kept > ACCOUNT_BATCHES or total > ACCOUNT_BYTES:
            return [older for older in sorted(sizes) if older <= number]
    return []


def without(note: Note, node: str) -> tuple[list[Correction], Note]:
    """What takes a node out of a batch, and the note that is then true."""
    left = dict(note.shares)
    corrections = []
    for domain, brought in note.shares.items():
        others = [one for one in brought if one.node != node]
        if len(others) == len(brought):
            continue
        was, now = (encoded(combined(some, note.number), note.vocab) for some in (brought, others))
        if was is None or now is None:  # its fellows weigh more without it, and no message takes them: it stays
            continue
        corrections.append(Correction(batch=note.batch, name=domain, was=was, now=now))
        left[domain] = others
    shares = {domain: brought for domain, brought in left.items() if brought}
    return corrections, Note(note.batch, note.number, note.vocab, shares)


def fits(corrections: Sequence[Correction]) -> bool:
    """Whether these go into one message."""
    size = sum(len(each.was) + len(each.now) + 256 for each in corrections)
    return len(corrections) <= MAX_CORRECTIONS and size <= ROOM_BYTES
