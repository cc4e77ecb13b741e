"""Columns of small whole numbers as bits: Rice codes, all unary parts first, all remainders after.

    column (3, 0, 9), k = 1:   quotients 1 0 4, remainders 1 0 1

    unary      01 1 00001 ...  a quotient q is q zeros and a one, column after column
    remainders 1 0 1 ...       k bits each, the highest first, column after column
    padding    zeros to the byte

The split lets numpy do both ways without a loop over the numbers: the n-th number's quotient is the distance between
two ones. Integers only, so the bytes are the same everywhere. Knows nothing of what the columns mean. Rules it keeps: a
reader takes no memory for numbers that its bits could not hold, and ends at exactly the last bit.

>>> ks, unary_bits, data = pack([np.array([3, 0, 9])])
>>> ks, unary_bits, Reader.of(data, unary_bits, max_numbers=3).take(3, ks[0]).tolist()
([1], 8, [3, 0, 9])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from common.errors import Rejected

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
MAX_K: Final = 15


def pack(columns: Sequence[Ints]) -> tuple[list[int], int, bytes]:
    """Each column's best k, the number of unary bits, and the bits. Numbers are >= 0 and < 2^31."""
    ks = [_best_k(column) for column in columns]
    quotients = np.concatenate([column >> k for column, k in zip(columns, ks, strict=True)])
    ends = np.cumsum(quotients + 1)
    unary_bits = int(ends[-1]) if len(ends) else 0
    unary = np.zeros(unary_bits, np.uint8)
    unary[ends - 1] = 1
    remainders = [_low_bits(column, k) for column, k in zip(columns, ks, strict=True)]
    return ks, unary_bits, np.packbits(np.concatenate([unary, *remainders])).tobytes()


def _best_k(column: Ints) -> int:
    """The k of fewest bits, sum(x >> k) + n (1 + k); the smallest such k."""
    every_k = np.arange(MAX_K + 1)
    costs = (column[:, None] >> every_k).sum(axis=0) + len(column) * (1 + every_k)
    return int(costs.argmin())


def _low_bits(column: Ints, k: int) -> Bits:
    return ((column[:, None] >> np.arange(k - 1, -1, -1)) & 1).astype(np.uint8).ravel()


@dataclass(slots=True)
class Reader:
    """Takes numbers from the front of both halves; remembers how far it is."""

    bits: Bits  # one byte a bit: 8 times the input
    ones: Ints  # where the unary half has its ones
    numbers: int  # taken so far
    position: int  # of the next remainder bit

    @classmethod
    def of(cls, data: bytes, unary_bits: int, *, max_numbers: int) -> Self:
        """Raises Rejected("bad_crystals") when the unary half is longer than the data or holds too many numbers."""
        if not 0 <= unary_bits <= 8 * len(data):
            raise Rejected("bad_crystals", f"{unary_bits} unary bits are declared in {len(data)} bytes")
        bits = np.unpackbits(np.frombuffer(data, np.uint8))
        count = int(np.count_nonzero(bits[:unary_bits]))
        if count > max_numbers:
            raise Rejected("bad_crystals", f"{count} numbers are coded where at most {max_numbers} are allowed")
        return cls(bits, np.flatnonzero(bits[:unary_bits]), 0, unary_bits)

    def take(self, count: int, k: int) -> Ints:
        """The next `count` numbers of parameter k. Raises Rejected("bad_crystals") when they are not there."""
        end, stop = self.numbers + count, self.position + count * k
        if end > len(self.ones) or stop > len(self.bits):
            raise Rejected("bad_crystals", f"a column of {count} numbers goes beyond the {len(self.bits)} bits")
        before = self.ones[self.numbers - 1] if self.numbers else -1
        column: Ints = np.diff(self.ones[self.numbers : end], prepend=before) - 1
        remainders = self.bits[self.position : stop].reshape(count, k)
        for place in range(k):
            column = (column << 1) | remainders[:, place]
        self.numbers, self.position = end, stop
        return column

    def close(self) -> None:
        """Raises Rejected("bad_crystals") when bits are left, other than the padding of less than a byte."""
        left = self.bits[self.position :]
        if self.numbers != len(self.ones) or len(left) >= 8 or left.any():
            raise Rejected("bad_crystals", f"{len(left)} bits are left after the last column")
