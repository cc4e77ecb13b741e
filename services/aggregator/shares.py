"""Shares: what each node brought of each domain, exactly, as bytes that the broker keeps.

    +--------+------------------------------+------+--------+--------+
    | length | head, a msgpack map          | keys | counts | totals |     all of it under zstd
    | u32    | vocab: of all keys' tokens   |      |        |        |
    |        | rows: a share each: domain,  |      |        |        |
    |        |   node, number of the batch, |      |        |        |
    |        |   n-grams of each order      |      |        |        |
    +--------+------------------------------+------+--------+--------+

A column goes through all shares, in byte planes, the lowest first; a key is what it is beyond the one before it, anew
in each order; contexts are not written: keys have them.

Unlike the forms that travel it rounds nothing: what is subtracted must be what was added.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from common.errors import Corrupt, Rejected
from common.wire.codec import canonical, parse
from common.wire.ngrams import MAX_VOCAB, SHIFT, Crystals, Keys, Order, check, context_starts
from services.aggregator.quorum import Brought

LEVEL: Final = 3
MAX_ROWS: Final = 1 << 19  # more than a cut can lend and leave: 64 domains' pools, and a batch's packets of each
MAX_BYTES: Final = 1 << 29  # of shares, decompressed: the n-grams of 64 domains' pools are half of it
_WIDTHS: Final = (8, 4, 4)  # bytes of a number in each column
_ROW_VALUES: Final = 7  # the row, and what is in it
_LENGTH: Final = struct.Struct("<I")

Numbers = npt.NDArray[np.unsignedinteger[Any]]

Shares = Mapping[str, Sequence[Brought]]
"""By domain."""


def to_bytes(vocab: int, shares: Shares) -> bytes:
    """The inverse of `from_bytes`."""
    rows: list[tuple[Any, ...]] = []
    orders: list[Order] = []
    for domain in sorted(shares):
        for node, cut, found in shares[domain]:
            rows.append((domain, node, cut, *(len(order.keys) for order in found.orders)))
            orders += found.orders
    keys = [np.diff(order.keys, prepend=np.zeros(1, np.uint64)) for order in orders]
    columns = (keys, [order.counts for order in orders], [order.totals for order in orders])
    head = canonical({"vocab": vocab, "rows": tuple(rows)})
    planes = [_planes(parts, width) for parts, width in zip(columns, _WIDTHS, strict=True)]
    return zstandard.ZstdCompressor(level=LEVEL).compress(b"".join([_LENGTH.pack(len(head)), head, *planes]))


def from_bytes(data: bytes) -> tuple[int, dict[str, list[Brought]]]:
    """The vocabulary and the shares. Raises Corrupt("shares") for what no aggregator wrote."""
    try:
        if not 0 <= zstandard.frame_content_size(data) <= MAX_BYTES:
            raise Corrupt("shares", f"{len(data)} bytes of shares are too many decompressed: delete them")
        whole = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES)
        end = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
        values = _ROW_VALUES * (MAX_ROWS + 1)
        head: Any = parse("shares", whole[_LENGTH.size : end], most_listed=MAX_ROWS, most_values=values)
        return int(head["vocab"]), _shares(head["rows"], whole[end:])
    except (zstandard.ZstdError, Rejected, struct.error, KeyError, TypeError, ValueError, IndexError) as error:
        message = f"{len(data)} bytes of shares that no aggregator wrote ({error}): delete them"
        raise Corrupt("shares", message) from None


def _shares(rows: Any, body: bytes) -> dict[str, list[Brought]]:
    size = sum(sum(sizes) for _, _, _, *sizes in rows)
    keys, counts = _column(body[: 8 * size], 8), _column(body[8 * size : 12 * size], 4).astype(np.uint32)
    totals = _column(body[12 * size :], 4).astype(np.uint32)
    if not len(keys) == len(counts) == size:
        raise ValueError("columns of other lengths than the rows say")
    at, of_totals = 0, 0
    found: dict[str, list[Brought]] = {}
    for domain, node, cut, *sizes in rows:
        orders = []
        for n in sizes:
            own: Keys = np.cumsum(keys[at : at + n], dtype=np.uint64)
            contexts = own[context_starts(own)] >> SHIFT
            orders.append(Order(own, counts[at : at + n], contexts, totals[of_totals : of_totals + len(contexts)]))
            at, of_totals = at + n, of_totals + len(contexts)
        one, two, three = orders
        found.setdefault(domain, []).append(Brought(node, cut, check(Crystals((one, two, three)), MAX_VOCAB)))
    if of_totals != len(totals):
        raise ValueError("totals of other contexts than the keys have")
    return found


def _planes(parts: Sequence[Numbers], width: int) -> bytes:
    column = np.concatenate([np.zeros(0, np.uint64), *parts]).astype("<u8")
    return np.ascontiguousarray(column.view(np.uint8).reshape(-1, 8)[:, :width].T).tobytes()


def _column(data: bytes, width: int) -> Keys:
    planes = np.frombuffer(data, np.uint8).reshape(width, -1)
    whole = np.zeros((planes.shape[1], 8), np.uint8)
    whole[:, :width] = planes.T
    return whole.view("<u8").ravel().astype(np.uint64)
