"""Sizes as varints: 7 bits a byte, the lowest first, the highest bit set where another follows; at most 4 bytes."""

from collections.abc import Iterable
from typing import Final

from common.errors import Rejected

MAX_BYTES: Final = 4


def write(sizes: Iterable[int]) -> bytes:
    """The sizes one after the other. Each is below 2^28."""
    out = bytearray()
    for size in sizes:
        left = size
        while left > 127:
            out.append(left & 127 | 128)
            left >>= 7
        out.append(left)
    return bytes(out)


def read(data: bytes, count: int) -> tuple[list[int], int]:
    """So many sizes from the front, and where they end. Raises Rejected("bad_crystals")."""
    sizes: list[int] = []
    at = 0
    for _ in range(count):
        size = 0
        for place in range(MAX_BYTES + 1):
            if place == MAX_BYTES or at + place >= len(data):
                raise Rejected("bad_crystals", f"size {len(sizes) + 1} of {count}, at byte {at} of them, does not end")
            size |= (data[at + place] & 127) << (7 * place)
            if data[at + place] < 128:
                break
        sizes.append(size)
        at += place + 1
    return sizes, at
