"""Crystals in the plain form: a trie of tokens in Rice-coded columns, 11.5 to 16 bits an n-gram on English text.

    +--------+-------+------------+--------+--------------+---------+
    | tokens | heads | unary bits | 12 x k | 3 x levels   | columns |
    | varint | varint| varint     | 6 B    | n, n x level | rice.py |
    +--------+-------+------------+--------+--------------+---------+

    tokens   the ids that occur, ascending, as gaps: from here on a token is its place in this list
    depth 1  a node for each token that is an order-0 entry or begins a longer n-gram         gap level kids total
    depth 2  under each node of depth 1, a node for each order-1 entry or order-2 context     gap level kids total
    depth 3  under each node of depth 2, a node for each order-2 entry                        gap level      total
    gap      siblings ascend: this place minus the one before, minus 1 (the first: its place)
    level    levels.py, as its rank in the level table of the depth
    kids     how many nodes lie under this one
    total    one for each context that has entries: the shift of levels.py

Nothing here grows faster than the number of n-grams: this is what batches are in. For a packet's few bytes see
adaptive.py.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire import varints
from common.wire.compiled import compiled
from common.wire.levels import LEVELS, SHIFTS, Bytes, Depth, contexts_of, rounded
from common.wire.ngrams import ORDERS, SHIFT, TOKEN_MASK, Crystals, Keys, context_starts
from common.wire.rice import Column, Ints, Reader, pack

FORM: Final = 1
COLUMNS: Final = 4 * ORDERS  # gap, level, kids and total at three depths, less the kids of the last, plus the tokens

Places = npt.NDArray[np.uint16]


def encode(found: Crystals) -> bytes:
    """What follows the header. found: kept to the rules of ngrams.py."""
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
        columns.append(depth.shifts.astype(np.int64))
    ks, unary_bits, data = pack(columns)
    nibbles = bytes(first << 4 | second for first, second in zip(ks[::2], ks[1::2], strict=True))
    return varints.write((len(tokens), len(depths[0].paths), unary_bits)) + nibbles + tables + data


def _trie(found: Crystals) -> tuple[Depth, Depth, Depth]:
    """Every entry and every beginning of one, depth by depth."""
    keys = [order.keys for order in found.orders]
    second = np.union1d(keys[1], keys[2] >> SHIFT)
    first = np.union1d(keys[0], second >> SHIFT)
    one, two, three = (
        rounded(paths, order) for paths, order in zip((first, second, keys[2]), found.orders, strict=True)
    )
    return one, two, three


def _gaps(paths: Keys, tokens: Keys) -> Ints:
    places = np.searchsorted(tokens, paths & TOKEN_MASK).astype(np.int64)
    gaps = np.diff(places, prepend=0) - 1
    starts = context_starts(paths)
    gaps[starts] = places[starts]
    return gaps


def _kids(paths: Keys, below: Keys) -> Ints:
    return np.bincount(np.searchsorted(paths, below >> SHIFT), minlength=len(paths)).astype(np.int64)


def _rank(levels: Bytes) -> tuple[Ints, bytes]:
    """Levels as ranks, the commonest 0 (ties: the lower level), and the table that turns them back."""
    seen, inverse, counts = np.unique(levels, return_inverse=True, return_counts=True)
    commonest = np.argsort(-counts, kind="stable")
    ranks = np.argsort(commonest, kind="stable")
    return ranks[inverse].astype(np.int64), bytes([len(seen), *seen[commonest].tolist()])


def decode(rest: bytes, vocab_size: int, max_entries: int) -> Iterator[Depth]:
    """One depth after the other. Raises Rejected: bad_crystals, too_many_entries."""
    (token_count, heads, unary_bits), at = varints.read(rest, 3)
    ks, tables, at = _tables(rest, at)
    _check_count(token_count, ORDERS * max_entries)
    reader = Reader.of(rest[at:], unary_bits)
    tokens = _tokens(reader.take(token_count, ks[0]), vocab_size)
    yield from _depths(reader, tokens, heads, ks[1:], tables, max_entries)
    reader.close()


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        raise Rejected("too_many_entries", f"crystals of {count} n-grams or nodes; {limit} are allowed: send fewer")


def _tables(rest: bytes, at: int) -> tuple[list[int], list[Bytes], int]:
    """The 12 Rice parameters, the level table of each depth, and where the columns begin."""
    nibbles = rest[at : at + COLUMNS // 2]
    ks = [k for byte in nibbles for k in (byte >> 4, byte & 15)]
    at += COLUMNS // 2
    tables = []
    for depth in range(ORDERS):
        size = rest[at] if at < len(rest) else 0
        table = np.frombuffer(rest[at + 1 : at + 1 + size], np.uint8)
        if at >= len(rest) or len(table) < size or size > len(LEVELS) + 1 or table.max(initial=0) > len(LEVELS):
            raise Rejected(
                "bad_crystals", f"the level table of depth {depth + 1} has {size} levels, cut off or unknown"
            )
        tables.append(table)
        at += 1 + size
    return ks, tables, at


def _tokens(gaps: Column, vocab_size: int) -> Places:
    tokens = np.zeros(len(gaps), np.uint16)
    last = _ascend(gaps, tokens, vocab_size)
    if last >= vocab_size:
        raise Rejected("bad_crystals", f"token {last} is not below the vocabulary size, {vocab_size}")
    return tokens


def _depths(
    reader: Reader, tokens: Places, heads: int, ks: list[int], tables: list[Bytes], max_entries: int
) -> Iterator[Depth]:
    """The kids of one depth are the nodes of the next."""
    above: Keys = np.zeros(1, np.uint64)
    kids = np.array([min(heads, max_entries + 1)], np.uint32)
    for n in range(ORDERS):
        parameters = iter(ks[4 * n :])
        count = int(kids.sum(dtype=np.int64))
        _check_count(count, max_entries)  # at every depth, each node leads to an entry of its own
        above = _paths(reader.take(count, next(parameters)), above, kids, tokens)
        levels = _levels(reader.take(count, next(parameters)), tables[n])
        kids = reader.take(count, next(parameters)) if n + 1 < ORDERS else np.zeros(count, np.uint32)
        if ((levels == 0) & (kids == 0)).any():
            raise Rejected("bad_crystals", f"a node of depth {n + 1} is neither an entry nor the beginning of one")
        yield Depth(above, levels, _shifts(reader.take(contexts_of(above, levels), next(parameters))))


def _paths(gaps: Column, above: Keys, kids: Column, tokens: Places) -> Keys:
    """The nodes under `above`, which has kids[i] nodes under its i-th: siblings ascend by gap + 1."""
    paths = np.zeros(len(gaps), np.uint64)
    place = _descend(gaps, above, kids, tokens, paths)
    if place >= 0:
        raise Rejected("bad_crystals", f"place {place} in a list of {len(tokens)} tokens")
    return paths


def _levels(ranks: Column, table: Bytes) -> Bytes:
    if ranks.max(initial=0) >= max(len(table), not len(ranks)):
        raise Rejected("bad_crystals", f"rank {ranks.max()} in a table of {len(table)} levels")
    return table[ranks]


def _shifts(column: Column) -> Bytes:
    if column.max(initial=0) >= SHIFTS:
        raise Rejected("bad_crystals", f"a context seen 2^{column.max()} times as often as its n-grams")
    return column.astype(np.uint8)


@compiled
def _ascend(gaps: Any, tokens: Any, limit: Any) -> Any:
    """Ids from their gaps into tokens; the last, or the first that is not below the limit."""
    last: Any = -1
    for i in range(len(gaps)):
        last += 1 + np.int64(gaps[i])
        if last >= limit:
            break
        tokens[i] = last
    return last


@compiled
def _descend(gaps: Any, above: Any, kids: Any, tokens: Any, paths: Any) -> Any:
    """Fills the paths; -1, or the first place that is not in the list."""
    n = 0
    for i in range(len(above)):
        place: Any = -1
        for _ in range(kids[i]):
            place += 1 + np.int64(gaps[n])
            if place >= len(tokens):
                return place
            paths[n] = above[i] << SHIFT | np.uint64(tokens[place])
            n += 1
    return -1


def sections(rest: bytes) -> list[tuple[str, int]]:
    """What lies in what `encode` made: names and lengths."""
    sizes, _ = varints.read(rest, 3)
    names = ["tokens", "heads", "unary bits"]
    found = [(name, len(varints.write([size]))) for name, size in zip(names, sizes, strict=True)]
    at = sum(length for _, length in found)
    _, tables, end = _tables(rest, at)
    found.append(("12 parameters k", COLUMNS // 2))
    found += [(f"levels of depth {depth + 1}", 1 + len(table)) for depth, table in enumerate(tables)]
    return [*found, (f"bits: {sizes[2]} unary, then the remainders", len(rest) - end)]
