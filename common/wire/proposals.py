"""Proposals: merges that an edge says in the clear, once enough edges have mentioned them.

    +------+-------+-------+ ...      u16 each, big-endian: two token ids of the base's vocabulary, and how often the
    | left | right | count |          edge saw one after the other in a word; rows ascend by left, then right
    +------+-------+-------+ ...

What merges mean is growth's affair (common/coordizer/growth.py). A set has one byte form; no bytes for an empty one.

>>> decode(encode([(116, 104, 9), (32, 116, 12)]), 2048)
((32, 116, 12), (116, 104, 9))
"""

import struct
from collections.abc import Iterable
from typing import Final

from common.errors import Rejected

Proposal = tuple[int, int, int]  # left id, right id, occurrences

PACKET_MAX_MERGES: Final = 24  # chosen: a sleep finds about as many that others have too; 144 bytes
COUNT_MAX: Final = (1 << 16) - 1
ROW: Final = struct.Struct(">HHH")


def encode(proposals: Iterable[Proposal]) -> bytes:
    """The byte form. proposals: each pair once, counts from 1 on; more than COUNT_MAX is said as COUNT_MAX."""
    return b"".join(ROW.pack(left, right, min(count, COUNT_MAX)) for left, right, count in sorted(proposals))


def decode(blob: bytes, vocab_size: int) -> tuple[Proposal, ...]:
    """The proposals, ascending. Raises Rejected("bad_merges") for what `encode` does not make of this vocabulary."""
    if len(blob) % ROW.size or len(blob) > PACKET_MAX_MERGES * ROW.size:
        raise Rejected(
            "bad_merges", f"{len(blob)} bytes of merges; they are {ROW.size} each, {PACKET_MAX_MERGES} at most"
        )
    found = tuple(ROW.iter_unpack(blob))
    pairs = [(left, right) for left, right, _ in found]
    if pairs != sorted(set(pairs)):
        raise Rejected("bad_merges", f"{len(found)} merges that do not ascend, or one that is there twice")
    if any(max(left, right) >= vocab_size or count == 0 for left, right, count in found):
        raise Rejected("bad_merges", f"a merge never seen, or of a token that is not below {vocab_size}")
    return found
