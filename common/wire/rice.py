"""Columns of small whole numbers as bits: Rice codes, all unary parts first, all remainders after.

    column (3, 0, 9), k = 1:   quotients 1 0 4, remainders 1 0 1

    unary      01 1 00001 ...  a quotient q is q zeros and a one, column after column
    remainders 1 0 1 ...       k bits each, the highest first, column after column
    padding    zeros to the byte

The split lets numpy write without a loop over the numbers: the n-th number's quotient is the distance between two
ones. Integers only, so the bytes are the same everywhere. Knows nothing of what the columns mean. Rules it keeps: a
reader takes no memory for numbers that its bits could not hold, and ends at exactly the last bit.

>>> ks, unary_bits, data = pack([np.array([3, 0, 9])])
>>> ks, unary_bits, Reader.of(data, unary_bits).take(3, ks[0]).tolist()
([1], 8, [3, 0, 9])
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire.compiled import compiled

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
Column = npt.NDArray[np.uint32]
MAX_K: Final = 15
NUMBERS: Final = 1 << 31


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
    """Takes numbers from the front of both halves; remembers how far it is. No memory but for what it has taken."""

    data: Bits
    unary_bits: int
    unary: int  # the next bit of the unary half
    rest: int  # the next remainder bit

    @classmethod
    def of(cls, data: bytes, unary_bits: int) -> Self:
        """Raises Rejected("bad_crystals") when the unary half is longer than the data."""
        if not 0 <= unary_bits <= 8 * len(data):
            raise Rejected("bad_crystals", f"{unary_bits} unary bits are declared in {len(data)} bytes")
        return cls(np.frombuffer(data, np.uint8), unary_bits, 0, unary_bits)

    def take(self, count: int, k: int) -> Column:
        """The next `count` numbers of parameter k. Raises Rejected("bad_crystals") when they are not there."""
        end = -1
        if count <= self.unary_bits - self.unary and self.rest + count * k <= 8 * len(self.data):
            column = np.zeros(count, np.uint32)
            end = _take(self.data, self.unary, self.unary_bits, self.rest, k, column)
        if end < 0:
            raise Rejected(
                "bad_crystals",
                f"a column of {count} numbers of parameter {k} goes beyond the {8 * len(self.data)} bits, or 2^31",
            )
        self.unary, self.rest = end, self.rest + count * k
        return column

    def close(self) -> None:
        """Raises Rejected("bad_crystals") when bits are left, other than the padding of less than a byte."""
        left = 8 * len(self.data) - self.rest
        if self.unary != self.unary_bits or left >= 8 or (left and self.data[-1] & ((1 << left) - 1)):
            raise Rejected("bad_crystals", f"{left} bits are left after the last column, or are not zero")


@compiled
def _take(data: Any, unary: Any, stop: Any, rest: Any, k: Any, column: Any) -> Any:
    """Fills the column; where its unary half ends, -1 where it does not or a number is too large."""
    for i in range(len(column)):
        number: Any = 0
        while unary < stop and not data[unary >> 3] >> (7 - (unary & 7)) & 1:
            number += 1
            unary += 1
        if unary == stop:
            return -1
        unary += 1
        for at in range(rest, rest + k):
            number = number << 1 | np.int64(data[at >> 3] >> (7 - (at & 7)) & 1)
        if number >= NUMBERS:
            return -1
        rest += k
        column[i] = number
    return unary
