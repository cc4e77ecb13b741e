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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zstandard

from common.errors import Corrupt, Rejected
from common.wire.codec import canonical, parse
from common.wire.ngrams import MAX_VOCAB, SHIFT, Crystals, Keys, Order, check, context_starts
from services.aggregator.quorum import Brought

LEVEL: Final = 3
MAX_ROWS: Final = 1 << 16  # more than a cut can lend and leave: what the pools hold, and a batch's packets
MAX_BYTES: Final = (1 << 27) + (1 << 24)  # of shares, decompressed, likewise; to read them takes 3.5 times as much
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
    columns: tuple[Iterable[Numbers], ...] = (
        (np.diff(order.keys, prepend=np.zeros(1, np.uint64)) for order in orders),
        (order.counts for order in orders),
        (order.totals for order in orders),
    )
    head = canonical({"vocab": vocab, "rows": tuple(rows)})
    numbers = sum(12 * len(order.keys) + 4 * len(order.totals) for order in orders)
    packer = zstandard.ZstdCompressor(level=LEVEL).compressobj(size=_LENGTH.size + len(head) + numbers)
    packed = [packer.compress(_LENGTH.pack(len(head)) + head)]
    packed += [packer.compress(_planes(parts, width).data) for parts, width in zip(columns, _WIDTHS, strict=True)]
    return b"".join([*packed, packer.flush()])


def from_bytes(data: bytes) -> tuple[int, dict[str, list[Brought]]]:
    """The vocabulary and the shares. Raises Corrupt("shares") for what no aggregator wrote."""
    try:
        if not 0 <= zstandard.frame_content_size(data) <= MAX_BYTES:
            raise Corrupt("shares", f"{len(data)} bytes of shares are too many decompressed: delete them")
        whole = memoryview(zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES))
        end = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
        values = _ROW_VALUES * (MAX_ROWS + 1)
        head: Any = parse("shares", bytes(whole[_LENGTH.size : end]), most_listed=MAX_ROWS, most_values=values)
        return int(head["vocab"]), _shares(head["rows"], whole[end:])
    except (zstandard.ZstdError, Rejected, struct.error, KeyError, TypeError, ValueError, IndexError) as error:
        message = f"{len(data)} bytes of shares that no aggregator wrote ({error}): delete them"
        raise Corrupt("shares", message) from None


def _shares(rows: Any, body: memoryview) -> dict[str, list[Brought]]:
    size = sum(sum(sizes) for _, _, _, *sizes in rows)
    keys: Keys = _column(body[: 8 * size], 8).astype(np.uint64, copy=False)
    counts, totals = (
        _column(part, 4).astype(np.uint32, copy=False) for part in (body[8 * size : 12 * size], body[12 * size :])
    )
    if not len(keys) == len(counts) == size:
        raise ValueError("columns of other lengths than the rows say")
    at, of_totals = 0, 0
    found: dict[str, list[Brought]] = {}
    for domain, node, cut, *sizes in rows:
        orders = []
        for n in sizes:
            own = keys[at : at + n]
            np.cumsum(own, out=own)
            contexts = own[context_starts(own)] >> SHIFT
            orders.append(Order(own, counts[at : at + n], contexts, totals[of_totals : of_totals + len(contexts)]))
            at, of_totals = at + n, of_totals + len(contexts)
        one, two, three = orders
        found.setdefault(domain, []).append(Brought(node, cut, check(Crystals((one, two, three)), MAX_VOCAB)))
    if of_totals != len(totals):
        raise ValueError("totals of other contexts than the keys have")
    return found


def _planes(parts: Iterable[Numbers], width: int) -> npt.NDArray[np.uint8]:
    column = np.concatenate([np.zeros(0, f"<u{width}"), *parts], dtype=f"<u{width}")
    return np.ascontiguousarray(column.view(np.uint8).reshape(-1, width).T)


def _column(data: memoryview, width: int) -> Numbers:
    planes = np.frombuffer(data, np.uint8).reshape(width, -1)
    return planes.T.copy().view(f"<u{width}").ravel()
