"""Crystals as bytes, the plain form: a trie of tokens in Rice-coded columns, 16 to 20 bits an n-gram on English text.

    +------+-------+------------+--------+-------+------------+--------+--------------+---------+
    | form | crc32 | vocab size | tokens | heads | unary bits | 12 x k | 3 x levels   | columns |
    | u8=1 | u32   | u16        | varint | varint| varint     | 6 B    | n, n x level | rice.py |
    +------+-------+------------+--------+-------+------------+--------+--------------+---------+
      little-endian; crc32 is over form and everything after the crc

    tokens   the ids that occur, ascending, as gaps: from here on a token is its place in this list
    depth 1  a node for each token that is an order-0 entry or begins a longer n-gram         gap level kids total
    depth 2  under each node of depth 1, a node for each order-1 entry or order-2 context     gap level kids total
    depth 3  under each node of depth 2, a node for each order-2 entry                        gap level      total
    gap      siblings ascend: this place minus the one before, minus 1 (the first: its place)
    level    0: context only; else a count, rounded DOWN to 1 2 3 4 6 8 12 16 24 ..., as its rank in the level table
    kids     how many nodes lie under this one
    total    one for each context that has entries: s, where total = (sum of its rounded counts) << s is the nearest

Rounding: a count is never overstated (at most a third under; what is left over can wait for the next sleep); a total is
never below the sum of its counts as decoded, and total / sum is right within a factor of sqrt 2. Decoding and encoding
again gives the same bytes. Whole numbers only: the same bytes on every machine.

Knows nothing of kernels, of selection or of any base model, so that it decodes without one. Rules it keeps: form, crc
and vocabulary are checked before anything is decoded; memory is at most 10 times the input plus ENTRY_BYTES for each
entry that the caller allows; anything wrong ends as Rejected.

>>> one = crystals([entry((), 7, count=2, total=5), entry((7,), 9, count=2, total=2)])
>>> decode(encode(one, 16), 16, max_entries=10).orders[1].keys
array([229385], dtype=uint64)
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire.messages import CRYSTALS_MAX_BYTES
from common.wire.ngrams import (
    MAX_TOTAL,
    ORDERS,
    SHIFT,
    TOKEN_MASK,
    Counts,
    Crystals,
    Keys,
    Order,
    Wide,
    capped,
    check,
    context_starts,
    crystals,
    empty,
    entry,
    merge,
    take,
)
from common.wire.rice import Ints, Reader, pack

__all__ = ["Crystals", "Order", "check", "crystals", "decode", "encode", "entry", "fit", "merge", "take"]

FORM: Final = 1
HEADER: Final = struct.Struct("<BIH")
COLUMNS: Final = 4 * ORDERS  # gap, level, kids and total at three depths, less the kids of the last, plus the tokens
MAX_VARINT_BYTES: Final = 4
TOTAL_BITS: Final = 32
PACKET_MAX_ENTRIES: Final = 4096  # twice what 2,900 bytes hold at the 12 bits that an ideal coder takes
BATCH_MAX_ENTRIES: Final = 1 << 17  # 192 KiB at 12 bits
PACKET_MAX_TOTAL: Final = (1 << 24) - 1  # chosen: 16 million tokens between two sleeps; 256 packets add up below 2^32
PACKET_MAX_COUNTED: Final = 1 << 20  # chosen: counts of one order beyond the tokens of the sleep; they may wait long
ENTRY_BYTES: Final = 256  # measured at worst 190: triples that share no beginning
NUMBERS_PER_ENTRY: Final = 12  # 3 tokens, 3 nodes of at most 3 numbers less the kids of the last, 1 total
LEVELS: Final = np.array([1, *(c for n in range(1, 32) for c in (1 << n, 3 << (n - 1)))], np.uint64)


@dataclass(frozen=True, slots=True)
class Depth:
    """The nodes at one depth of the trie. All (N,) but totals, (contexts with entries,)."""

    paths: Keys  # the tokens from the root, packed like a key
    levels: Ints  # 0: context only; i: LEVELS[i - 1]
    totals: Ints


def encode(found: Crystals, vocab_size: int) -> bytes:
    """The plain form. Raises Rejected: bad_crystals when they break the rules of ngrams.py, oversized above 192 KiB."""
    blob = _encode(check(found, vocab_size), vocab_size)
    _check_size(blob)
    return blob


def _encode(found: Crystals, vocab_size: int) -> bytes:
    depths = _trie(found)
    tokens = np.unique(np.concatenate([depth.paths & TOKEN_MASK for depth in depths]))
    places = tokens.astype(np.int64)
    columns: list[Ints] = [np.diff(places, prepend=np.int64(-1)) - 1]
    tables = b""
    for n, depth in enumerate(depths):
        ranks, table = _rank(depth.levels)
        tables += table
        columns += [_gaps(depth.paths, tokens), ranks]
        if n + 1 < ORDERS:
            columns.append(_kids(depth.paths, depths[n + 1].paths))
        columns.append(depth.totals)
    ks, unary_bits, data = pack(columns)
    nibbles = bytes(first << 4 | second for first, second in zip(ks[::2], ks[1::2], strict=True))
    sizes = b"".join(_varint(size) for size in (len(tokens), len(depths[0].paths), unary_bits))
    return _with_crc(vocab_size, sizes + nibbles + tables + data)


def _trie(found: Crystals) -> tuple[Depth, Depth, Depth]:
    """Every entry and every beginning of one, depth by depth."""
    keys = [order.keys for order in found.orders]
    second = np.union1d(keys[1], keys[2] >> SHIFT)
    first = np.union1d(keys[0], second >> SHIFT)
    built = [_depth(paths, order) for paths, order in zip((first, second, keys[2]), found.orders, strict=True)]
    return built[0], built[1], built[2]


def _depth(paths: Keys, order: Order) -> Depth:
    levels = np.zeros(len(paths), np.int64)
    of_entries = np.searchsorted(LEVELS, order.counts.astype(np.uint64), side="right")
    levels[np.searchsorted(paths, order.keys)] = of_entries
    sums = np.zeros(0, np.uint64)
    if len(order.keys):
        sums = np.add.reduceat(LEVELS[of_entries - 1], context_starts(order.keys))
    return Depth(paths, levels, _shifts(sums, order.totals))


def _shifts(sums: Wide, totals: Counts) -> Ints:
    """The s for which sum << s is nearest to the total in ratio: the least with total^2 <= 2 (sum << s)^2, in 32 bits.

    Half of total^2, rounded up, fits 64 bits; so does (sum << s)^2, because sum << s is kept within 32.
    """
    reached, half = sums.copy(), (totals.astype(np.uint64) ** np.uint64(2) + np.uint64(1)) >> np.uint64(1)
    shifts = np.zeros(len(sums), np.int64)
    while True:
        short = (half > reached * reached) & (reached <= np.uint64(MAX_TOTAL >> 1))
        if not short.any():
            return shifts
        reached = np.where(short, reached << np.uint64(1), reached)
        shifts += short


def _gaps(paths: Keys, tokens: Keys) -> Ints:
    places = np.searchsorted(tokens, paths & TOKEN_MASK).astype(np.int64)
    gaps = np.diff(places, prepend=0) - 1
    starts = context_starts(paths)
    gaps[starts] = places[starts]
    return gaps


def _kids(paths: Keys, below: Keys) -> Ints:
    return np.bincount(np.searchsorted(paths, below >> SHIFT), minlength=len(paths)).astype(np.int64)


def _rank(levels: Ints) -> tuple[Ints, bytes]:
    """Levels as ranks, the commonest 0 (ties: the lower level), and the table that turns them back."""
    seen, inverse, counts = np.unique(levels, return_inverse=True, return_counts=True)
    commonest = np.argsort(-counts, kind="stable")
    ranks = np.argsort(commonest, kind="stable")
    return ranks[inverse].astype(np.int64), bytes([len(seen), *seen[commonest].tolist()])


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _with_crc(vocab_size: int, rest: bytes) -> bytes:
    body = struct.pack("<H", vocab_size) + rest
    return HEADER.pack(FORM, zlib.crc32(body, zlib.crc32(bytes([FORM]))), vocab_size) + rest


def decode(blob: bytes, vocab_size: int, max_entries: int, *, max_total: int = MAX_TOTAL) -> Crystals:
    """The crystals in a plain form: counts and totals as rounded by encode.

    max_entries, max_total: what the caller allows (for a packet PACKET_MAX_ENTRIES, PACKET_MAX_TOTAL). Raises Rejected:
    oversized, bad_crystals, wrong_vocabulary, too_many_entries.
    """
    rest = _checked(blob, vocab_size)
    sizes, at = _sizes(rest)
    token_count, heads, unary_bits = sizes
    ks, tables, at = _tables(rest, at)
    _check_count(token_count, ORDERS * max_entries)
    reader = Reader.of(rest[at:], unary_bits, max_numbers=NUMBERS_PER_ENTRY * max_entries)
    tokens = _tokens(reader.take(token_count, ks[0]), vocab_size)
    found = Crystals(_orders(reader, tokens, heads, ks[1:], tables, max_entries=max_entries, max_total=max_total))
    reader.close()
    _check_count(found.entries, max_entries)
    return found


def _check_size(blob: bytes) -> None:
    if len(blob) > CRYSTALS_MAX_BYTES:
        raise Rejected("oversized", f"crystals of {len(blob)} bytes; the limit is {CRYSTALS_MAX_BYTES}: send fewer")


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise Rejected("too_many_entries", f"crystals of {count} n-grams or nodes; {limit} are allowed: send fewer")


def _checked(blob: bytes, vocab_size: int) -> bytes:
    """What follows the header, once size, form, crc and vocabulary hold."""
    _check_size(blob)
    vocab = stated_vocabulary(blob)
    form, crc, _ = HEADER.unpack_from(blob)
    if form != FORM:
        raise Rejected("bad_crystals", f"crystals in form {form}; this software reads form {FORM}")
    if crc != zlib.crc32(blob[5:], zlib.crc32(blob[:1])):
        raise Rejected("bad_crystals", f"crystals of {len(blob)} bytes whose crc32 is not {crc:08x}: send them again")
    if vocab != vocab_size:
        raise Rejected(
            "wrong_vocabulary", f"crystals over {vocab} tokens, where {vocab_size} are known: encode them for this base"
        )
    return blob[HEADER.size :]


def _sizes(rest: bytes) -> tuple[list[int], int]:
    """The three varints, and where they end."""
    sizes, at = [], 0
    for _ in range(3):
        number = 0
        for place in range(MAX_VARINT_BYTES + 1):
            if place == MAX_VARINT_BYTES or at + place >= len(rest):
                raise Rejected("bad_crystals", f"a size at byte {HEADER.size + at} does not end")
            number |= (rest[at + place] & 127) << (7 * place)
            if rest[at + place] < 128:
                break
        sizes.append(number)
        at += place + 1
    return sizes, at


def _tables(rest: bytes, at: int) -> tuple[list[int], list[Ints], int]:
    """The 12 Rice parameters, the level table of each depth, and where the columns begin."""
    nibbles = rest[at : at + COLUMNS // 2]
    ks = [k for byte in nibbles for k in (byte >> 4, byte & 15)]
    at += COLUMNS // 2
    tables = []
    for depth in range(ORDERS):
        size = rest[at] if at < len(rest) else 0
        table = np.frombuffer(rest[at + 1 : at + 1 + size], np.uint8).astype(np.int64)
        if at >= len(rest) or len(table) < size or size > len(LEVELS) + 1 or table.max(initial=0) > len(LEVELS):
            raise Rejected(
                "bad_crystals", f"the level table of depth {depth + 1} has {size} levels, cut off or unknown"
            )
        tables.append(table)
        at += 1 + size
    return ks, tables, at


def _tokens(gaps: Ints, vocab_size: int) -> Keys:
    tokens = np.cumsum(gaps + 1) - 1
    if tokens.max(initial=0) >= vocab_size:
        raise Rejected("bad_crystals", f"token {tokens.max()} is not below the vocabulary size, {vocab_size}")
    return tokens.astype(np.uint64)


def _orders(
    reader: Reader, tokens: Keys, heads: int, ks: list[int], tables: list[Ints], *, max_entries: int, max_total: int
) -> tuple[Order, Order, Order]:
    """Depth by depth: the kids of one depth are the nodes of the next."""
    above, kids = np.zeros(1, np.uint64), np.array([heads])
    orders = []
    for n in range(ORDERS):
        parameters = iter(ks[4 * n :])
        _check_count(int(kids.sum()), max_entries)  # at every depth, each node leads to an entry of its own
        paths = _paths(reader.take(int(kids.sum()), next(parameters)), above, kids, tokens)
        levels = _levels(reader.take(len(paths), next(parameters)), tables[n])
        kids = reader.take(len(paths), next(parameters)) if n + 1 < ORDERS else np.zeros(len(paths), np.int64)
        if ((levels == 0) & (kids == 0)).any():
            raise Rejected("bad_crystals", f"a node of depth {n + 1} is neither an entry nor the beginning of one")
        orders.append(_entries(reader, paths, levels, next(parameters), max_total))
        above = paths
    return orders[0], orders[1], orders[2]


def _paths(gaps: Ints, above: Keys, kids: Ints, tokens: Keys) -> Keys:
    """The nodes under `above`, which has kids[i] nodes under its i-th: siblings ascend by gap + 1."""
    parents = np.repeat(np.arange(len(above)), kids)
    steps = np.cumsum(gaps + 1)
    first = np.cumsum(kids) - kids
    before = np.concatenate([np.zeros(1, np.int64), steps])[first]
    places = steps - 1 - before[parents]
    if places.max(initial=-1) >= len(tokens):
        raise Rejected("bad_crystals", f"place {places.max()} in a list of {len(tokens)} tokens")
    paths: Keys = (above[parents] << SHIFT) | tokens[places]
    return paths


def _levels(ranks: Ints, table: Ints) -> Ints:
    if ranks.max(initial=-1) >= len(table):
        raise Rejected("bad_crystals", f"rank {ranks.max()} in a table of {len(table)} levels")
    return table[ranks]


def _entries(reader: Reader, paths: Keys, levels: Ints, k: int, max_total: int) -> Order:
    """The order whose entries are the nodes with a level; takes one total for each of their contexts."""
    keys = paths[levels > 0]
    counts = LEVELS[levels[levels > 0] - 1]
    starts = context_starts(keys)
    shifts = reader.take(len(starts), k)
    sums = np.add.reduceat(counts, starts) if len(starts) else counts[:0]
    if shifts.max(initial=0) >= TOTAL_BITS or sums.max(initial=0) > MAX_TOTAL:
        raise Rejected("bad_crystals", f"a context seen more than {MAX_TOTAL} times")
    totals = sums << shifts.astype(np.uint64)
    if totals.max(initial=0) > max_total:
        raise Rejected("bad_crystals", f"a context seen {totals.max()} times; at most {max_total} are allowed")
    return Order(keys, counts.astype(np.uint32), keys[starts] >> SHIFT, totals.astype(np.uint32))


def stated_vocabulary(blob: bytes) -> int:
    """The vocabulary size that crystals state; who knows another refuses them. Raises Rejected("bad_crystals")."""
    if len(blob) < HEADER.size:
        raise Rejected("bad_crystals", f"crystals of {len(blob)} bytes; the header alone takes {HEADER.size}")
    vocab_size: int = HEADER.unpack_from(blob)[2]
    return vocab_size


def sections(blob: bytes) -> list[tuple[str, int, int]]:
    """What lies where in crystals that `encode` made: name, first byte, the byte after the last."""
    rest = blob[HEADER.size :]
    sizes, at = _sizes(rest)
    lengths = [1, 4, 2, *(len(_varint(size)) for size in sizes), COLUMNS // 2]
    names = ["form", "crc32", "vocabulary", "tokens", "heads", "unary bits", "12 parameters k"]
    _, tables, end = _tables(rest, at)
    for depth, table in enumerate(tables):
        names.append(f"levels of depth {depth + 1}")
        lengths.append(1 + len(table))
    names.append(f"bits: {sizes[2]} unary, then the remainders")
    lengths.append(len(rest) - end)
    ends = np.cumsum(lengths).tolist()
    return list(zip(names, [0, *ends[:-1]], ends, strict=True))


def fit(
    found: Crystals, ranking: npt.NDArray[np.intp], *, vocab_size: int, budget_bytes: int
) -> tuple[Crystals, bytes]:
    """As many of the best n-grams as a packet may bring: what a reader will decode, and the bytes.

    ranking: places of entries as in `take`, best first, each once; what it does not name is never sent. At most
    1 + log2(n) encodings. The size grows with the number of entries but for a few bytes, so that now and then a
    slightly longer beginning would have fitted too. Whatever is found, a centre takes it: at most budget_bytes and
    PACKET_MAX_ENTRIES, and counts that waited for ever are scaled down to PACKET_MAX_COUNTED. No bytes at all when not
    even the header fits.
    """
    found = capped(check(found, vocab_size), PACKET_MAX_COUNTED - PACKET_MAX_ENTRIES)  # a scaled count may stay 1
    blob = _prefix(found, ranking[:0], vocab_size)
    if len(blob) > budget_bytes:
        return empty(), b""
    fits, too_many = 0, min(len(ranking), PACKET_MAX_ENTRIES) + 1
    budget_bytes = min(budget_bytes, CRYSTALS_MAX_BYTES)
    while too_many - fits > 1:
        trial = (fits + too_many) // 2
        attempt = _prefix(found, ranking[:trial], vocab_size)
        if len(attempt) <= budget_bytes:
            fits, blob = trial, attempt
        else:
            too_many = trial
    return decode(blob, vocab_size, fits, max_total=PACKET_MAX_TOTAL), blob


def _prefix(found: Crystals, chosen: npt.NDArray[np.intp], vocab_size: int) -> bytes:
    mask = np.zeros(found.entries, np.bool_)
    mask[chosen] = True
    return _encode(take(found, mask), vocab_size)
