"""Which packets of an edge were counted already: a sliding window that tolerates reordering (RFC 4303, section 3.4.3).

    sequence   ... 4 5 6 7 8 9 10                    bit i of the bitmap: sequence `highest - i` was counted
    counted        x x   x   x                       highest = 9, bitmap = 0b101011

An edge numbers its packets; streams and several aggregators may hand them over in another order. A packet counts once
while it is less than WINDOW behind the highest; older ones are refused because nobody remembers them. An edge that lost
its counter starts a higher epoch, which starts the window anew and ends the epochs before it. A window is a value:
`advance` gives the next one, and the caller stores it together with the packet or not at all.

>>> window = advance(advance(None, epoch=1, sequence=9), epoch=1, sequence=7)
>>> window.highest, bin(window.bitmap)
(9, '0b101')
>>> advance(window, epoch=1, sequence=7)
Traceback (most recent call last):
    ...
common.errors.Rejected: replayed: sequence 7 of epoch 1 was counted before: it is not counted again
"""

import struct
from dataclasses import dataclass
from typing import Final

from common.errors import Corrupt, Rejected

WINDOW: Final = 64  # settled: RFC 4303 asks for 32 at least and recommends 64
_BITS: Final = (1 << WINDOW) - 1
_FORM: Final = struct.Struct(">IIQ")


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """epoch: the edge's life; highest: the highest sequence counted in it; bitmap: WINDOW bits, bit 0 is `highest`."""

    epoch: int
    highest: int
    bitmap: int

    @property
    def packed(self) -> bytes:
        """16 bytes, big-endian: what the broker keeps, and compares before it is replaced."""
        return _FORM.pack(self.epoch, self.highest, self.bitmap)

    @classmethod
    def unpack(cls, data: bytes) -> "ReplayWindow":
        """Raises Corrupt("replay_window") for anything but 16 bytes whose bit 0 is set."""
        if len(data) != _FORM.size or not data[-1] & 1:
            raise Corrupt("replay_window", f"a replay window of {len(data)} bytes that no aggregator wrote: restore it")
        return cls(*_FORM.unpack(data))


def advance(window: ReplayWindow | None, *, epoch: int, sequence: int) -> ReplayWindow:
    """The window once this packet is counted. window: None when nothing of this key was counted yet.

    Raises Rejected: stale_epoch, stale_sequence (WINDOW or more behind the highest), replayed.
    """
    if window is None or epoch > window.epoch:
        return ReplayWindow(epoch, sequence, 1)
    if epoch < window.epoch:
        raise Rejected(
            "stale_epoch",
            f"epoch {epoch} is over, the key is in {window.epoch}: an edge that lost its counter takes a higher one",
        )
    ahead = sequence - window.highest
    if ahead > 0:
        shifted = window.bitmap << ahead & _BITS if ahead < WINDOW else 0
        return ReplayWindow(epoch, sequence, shifted | 1)
    if -ahead >= WINDOW:
        raise Rejected(
            "stale_sequence",
            f"sequence {sequence} of epoch {epoch} is {-ahead} behind, the last {WINDOW} are remembered: "
            "nobody knows whether it was counted, so it is not",
        )
    bit = 1 << -ahead
    if window.bitmap & bit:
        raise Rejected("replayed", f"sequence {sequence} of epoch {epoch} was counted before: it is not counted again")
    return ReplayWindow(epoch, window.highest, window.bitmap | bit)
