"""Crystals in the adaptive form: a trie through a range coder that learns as it goes, 7 to 9 bits an n-gram of English.

    +--------+--------+---------+----------------------------------------+
    | tokens | pairs  | triples | one code: tokens, then pairs, then     |
    | varint | varint | varint  | triples, as ranges.py makes and reads it |
    +--------+--------+---------+----------------------------------------+

The trie is closed: what an n-gram begins or ends with is a node too, with level 0 where it is no n-gram of its own. Of
what an edge sends nearly all is there anyway (of 100 triples 98 end in a pair that is), and so each node is a choice
among few:

    token    for each id of the vocabulary: is it there; if so its level, and how many tokens follow it
    pair     of each token: which tokens of the list follow it, a frequent one rather; the level of each
    triple   of each pair (a, b): how many of those that follow b follow the pair; which, a frequent pair rather; levels
    shift    after the last level of a context that has n-grams (levels.py); that of the empty context after the tokens

A count is at most that of its parts, so the parts' levels are the contexts of a level; and what a context was seen is
about what it was counted itself, which nearly says the shift. docs/wire/packet.md has every context and every weight.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.errors import Rejected
from common.wire import varints
from common.wire.compiled import compiled
from common.wire.expected import NOTHING, Expected
from common.wire.levels import LEVELS, SHIFTS, VALUES, Bytes, Depth, rounded
from common.wire.ngrams import ORDERS, SHIFT, TOKEN_MASK, Crystals, Keys
from common.wire.ranges import CHANCES, STATE, Block, begin, bit, end, number, pick

Places = npt.NDArray[np.uint16]

FORM: Final = 2
BASED: Final = 3
ENCODE, DECODE = 1, 0
NODES_A_BYTE: Final = 4  # of the code, at most; English text has 1 to 2
NODES_MOST: Final = 1 << 15  # of a depth; a node is named in 16 bits
TAIL: Final = np.uint64((1 << 30) - 1)  # of a triple: the pair it ends in
KIND_SHIFT: Final = 5  # kinds of tokens without a base: 0 to 31, 32 to 63, 64 to 127, ...
KINDS: Final = 32
LEVELS_TOLD: Final = 16  # levels from 15 on are one context
EXPECTED_MOST: Final = 14
UNEXPECTED: Final = 15  # the context of a shift whose own context was not counted
# Chosen on folds of text (docs/experiments.md). A token follows as often as it was counted, one that was not like one
# of 8; above 2,048 and 3,072 the sums would not fit.
FOLLOWER_WEIGHTS: Final = np.array([8, *np.minimum(LEVELS, 2048)], np.int64)
TAIL_WEIGHTS: Final = np.array([1, *np.minimum(LEVELS[1:], 3072), 3072], np.int64)

# What a base expects, beside that: its follower's level; half of how much higher the token's own level is, and 6 to
# keep that above 0; for a token that was not counted 3 less.
RISE: Final = 6
NOT_COUNTED: Final = -3
EXPECTED_LEVELS: Final = 40
EXPECTED_SHARE: Final = 4  # of the weight of all tokens

THERE: Final = Block(0, KINDS, 1)
LEVEL: Final = Block(THERE.end, KINDS, 16)
KIDS: Final = Block(LEVEL.end, 32, 16)
PAIR_LEVEL: Final = Block(KIDS.end, LEVELS_TOLD, 16)
TRIPLES: Final = Block(PAIR_LEVEL.end, LEVELS_TOLD, 16)
TRIPLE_LEVEL: Final = Block(TRIPLES.end, LEVELS_TOLD, 16)
TOTAL: Final = Block(TRIPLE_LEVEL.end, UNEXPECTED + 1, 16)


class Nodes(NamedTuple):
    """The closed trie as the code goes through it: T tokens, P pairs, R triples, each ascending."""

    tokens: Places  # (T,) ids
    levels: Bytes
    kids: Places  # (T,) how many follow
    shifts: Bytes  # (T,) of the token as a context; 0 where it has no n-grams
    places: Places  # (P,) the second token's place among the tokens
    pair_levels: Bytes
    pair_kids: Places  # (P,)
    pair_shifts: Bytes
    tails: Places  # (R,) the place among the pairs of the pair that it ends in
    triple_levels: Bytes
    shift: Bytes  # (1,) of the empty context

    @classmethod
    def blank(cls, tokens: int, pairs: int, triples: int) -> "Nodes":
        """To be filled by a decoder."""

        def names(size: int) -> Places:
            return np.zeros(size, np.uint16)

        def small(size: int) -> Bytes:
            return np.zeros(size, np.uint8)

        return cls(
            names(tokens), small(tokens), names(tokens), small(tokens),
            names(pairs), small(pairs), names(pairs), small(pairs),
            names(triples), small(triples), small(1),
        )  # fmt: skip


def encode(found: Crystals, vocab_size: int, *, max_bytes: int, expected: Expected = NOTHING) -> bytes | None:
    """What follows the header, None where it needs more than max_bytes.

    found: kept to the rules of ngrams.py; expected: by a base over this vocabulary.
    """
    assert len(expected.levels) in (0, vocab_size), "compiled code would read what lies beyond"
    nodes = _closed(found)
    sizes = (len(nodes.tokens), len(nodes.places), len(nodes.tails))
    head = varints.write(sizes)
    room = max_bytes - len(head)
    if room < 0 or max(sizes) > NODES_MOST:
        return None
    data = np.zeros(room, np.uint8)
    size = max(_walk(data, ENCODE, nodes, expected, vocab_size), _least_bytes(sizes))
    return head + data[:size].tobytes() if size <= room else None


def _closed(found: Crystals) -> Nodes:
    one, two, three = (order.keys for order in found.orders)
    pairs = np.unique(np.concatenate([two, three >> SHIFT, three & TAIL]))
    tokens = np.unique(np.concatenate([one, pairs >> SHIFT, pairs & TOKEN_MASK]))
    depths = [rounded(paths, order) for paths, order in zip((tokens, pairs, three), found.orders, strict=True)]
    shifts = [np.zeros(size, np.uint8) for size in (1, len(tokens), len(pairs))]
    for own, contexts, depth, order in zip(
        shifts, (np.zeros(1, np.uint64), tokens, pairs), depths, found.orders, strict=True
    ):
        own[np.searchsorted(contexts, order.contexts)] = depth.shifts
    return Nodes(
        tokens.astype(np.uint16), depths[0].levels, _kids(tokens, pairs), shifts[1],
        np.searchsorted(tokens, pairs & TOKEN_MASK).astype(np.uint16), depths[1].levels, _kids(pairs, three), shifts[2],
        np.searchsorted(pairs, three & TAIL).astype(np.uint16), depths[2].levels, shifts[0],
    )  # fmt: skip


def _kids(paths: Keys, below: Keys) -> Places:
    return np.bincount(np.searchsorted(paths, below >> SHIFT), minlength=len(paths)).astype(np.uint16)


def decode(rest: bytes, vocab_size: int, max_entries: int, expected: Expected = NOTHING) -> Iterator[Depth]:
    """The nodes that are n-grams, one depth after the other. Raises Rejected: bad_crystals, too_many_entries."""
    assert len(expected.levels) in (0, vocab_size), "compiled code would read what lies beyond"
    sizes, at = varints.read(rest, ORDERS)
    for size, each in zip(sizes, (3, 2, 1), strict=True):  # an n-gram brings at most three tokens and two pairs
        limit = min(each * max_entries, NODES_MOST)
        if size > limit:
            raise Rejected("too_many_entries", f"crystals of {size} nodes of a depth; {limit} are allowed: send fewer")
    code, least = rest[at:], _least_bytes(sizes)
    if len(code) < least:
        raise Rejected("bad_crystals", f"{sum(sizes)} nodes in {len(code)} bytes; they take at least {least}")
    if len(code) == least:
        code = code.rstrip(b"\0")
    nodes, data = Nodes.blank(*sizes), np.frombuffer(bytearray(code), np.uint8)
    if _walk(data, DECODE, nodes, expected, vocab_size) != len(data):
        raise Rejected("bad_crystals", f"{len(data)} bytes are not the code of {sizes} nodes over {vocab_size} tokens")
    _check_needed(nodes)
    entries = np.count_nonzero(nodes.levels) + np.count_nonzero(nodes.pair_levels) + len(nodes.tails)
    if entries > max_entries:
        raise Rejected("too_many_entries", f"crystals of {entries} n-grams; {max_entries} are allowed: send fewer")
    yield from _depths(nodes)


def _least_bytes(sizes: Sequence[int]) -> int:
    """So that few bytes cannot ask for much memory."""
    return -(-sum(sizes) // NODES_A_BYTE)


def _check_needed(nodes: Nodes) -> None:
    """Every node is an n-gram or a part of one."""
    for levels, kids, tails in (
        (nodes.levels, nodes.kids, nodes.places),
        (nodes.pair_levels, nodes.pair_kids, nodes.tails),
    ):
        needed = (levels > 0) | (kids > 0)
        needed[tails] = True
        if not needed.all():
            raise Rejected("bad_crystals", f"{np.count_nonzero(~needed)} of {len(needed)} nodes lead nowhere")


def _depths(nodes: Nodes) -> Iterator[Depth]:
    counted = nodes.levels > 0
    shifts = nodes.shift[: int(counted.any())]
    yield Depth(nodes.tokens[counted].astype(np.uint64), nodes.levels[counted], shifts)
    size = int(np.count_nonzero(nodes.pair_levels))
    paths, levels, shifts = np.zeros(size, np.uint64), np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    contexts = _pair_paths(nodes, paths, levels, shifts)
    yield Depth(paths, levels, shifts[:contexts])
    paths, shifts = np.zeros(len(nodes.tails), np.uint64), np.zeros(len(nodes.tails), np.uint8)
    contexts = _triple_paths(nodes, paths, shifts)
    yield Depth(paths, nodes.triple_levels, shifts[:contexts])


@compiled
def _pair_paths(nodes: Any, paths: Any, levels: Any, shifts: Any) -> Any:
    """The pairs that have a level, and their contexts' shifts; how many contexts."""
    p, n, contexts = 0, 0, 0
    for i in range(len(nodes.tokens)):
        before = n
        for _ in range(nodes.kids[i]):
            if nodes.pair_levels[p]:
                paths[n] = np.uint64(nodes.tokens[i]) << SHIFT | np.uint64(nodes.tokens[nodes.places[p]])
                levels[n] = nodes.pair_levels[p]
                n += 1
            p += 1
        if n > before:
            shifts[contexts] = nodes.shifts[i]
            contexts += 1
    return contexts


@compiled
def _triple_paths(nodes: Any, paths: Any, shifts: Any) -> Any:
    p, r, contexts = 0, 0, 0
    for i in range(len(nodes.tokens)):
        for _ in range(nodes.kids[i]):
            pair = np.uint64(nodes.tokens[i]) << SHIFT | np.uint64(nodes.tokens[nodes.places[p]])
            for _ in range(nodes.pair_kids[p]):
                paths[r] = pair << SHIFT | np.uint64(nodes.tokens[nodes.places[nodes.tails[r]]])
                r += 1
            if nodes.pair_kids[p]:
                shifts[contexts] = nodes.pair_shifts[p]
                contexts += 1
            p += 1
    return contexts


def sections(rest: bytes) -> list[tuple[str, int]]:
    """What lies in what `encode` made: names and lengths."""
    sizes, at = varints.read(rest, ORDERS)
    lengths = [len(varints.write([size])) for size in sizes]
    return [*zip(("tokens", "pairs", "triples"), lengths, strict=True), ("the code", len(rest) - at)]


@compiled
def _walk(data: Any, encoding: Any, nodes: Any, expected: Any, vocab_size: Any) -> Any:
    """Through all nodes: writes them into data, or fills them from it. How many bytes they take; -1: none that fit."""
    state = np.zeros(STATE, np.int64)
    begin(state, data, encoding)
    odds = np.zeros((TOTAL.first + TOTAL.width * (TOTAL.contexts + 1), 2), np.uint16)
    odds[:, 0] = CHANCES >> 1
    if not _tokens(state, data, odds, nodes, expected, vocab_size):
        return -1
    _pairs(state, data, odds, nodes, expected)
    if not _triples(state, data, odds, nodes):
        return -1
    return end(state, data)


@compiled
def _tokens(state: Any, data: Any, odds: Any, nodes: Any, expected: Any, vocab_size: Any) -> Any:
    """False where not as many tokens, or pairs, are told as were stated."""
    t, tokens, pairs, counted = 0, len(nodes.tokens), len(nodes.places), False
    for token in range(vocab_size):
        if t == tokens:
            break
        based = len(expected.levels) > 0
        kind: Any = min(np.int64(expected.levels[token]), KINDS - 1) if based else _length(token >> KIND_SHIFT)
        if not bit(state, data, odds, THERE.first + kind, THERE.first + KINDS, 1 if nodes.tokens[t] == token else 0):
            continue
        nodes.tokens[t] = token
        level = number(state, data, odds, LEVEL, kind >> 1, len(VALUES), np.int64(nodes.levels[t]))
        kids = number(state, data, odds, KIDS, min(level, 31), min(pairs, tokens), np.int64(nodes.kids[t]))
        nodes.levels[t], nodes.kids[t] = level, kids
        pairs -= kids
        counted = counted or level > 0
        t += 1
    if counted:
        nodes.shift[0] = number(state, data, odds, TOTAL, UNEXPECTED, SHIFTS - 1, np.int64(nodes.shift[0]))
    return t == tokens and pairs == 0


@compiled
def _pairs(state: Any, data: Any, odds: Any, nodes: Any, expected: Any) -> None:
    size = len(nodes.tokens)
    where = np.zeros(len(expected.levels), np.uint16)
    room = size if len(where) else 0
    near, more = np.zeros(room, np.uint16), np.zeros(room + 1, np.uint32)
    for i in range(room):
        where[nodes.tokens[i]] = i + 1
    sums = np.zeros(size + 1, np.uint32)
    for i in range(size):
        sums[i + 1] = np.int64(sums[i]) + FOLLOWER_WEIGHTS[nodes.levels[i]]
    p = 0
    for i in range(size):
        level, place, summed, extra = np.int64(nodes.levels[i]), 0, 0, 0
        if len(where) and nodes.kids[i]:
            extra = _expect(expected, np.int64(nodes.tokens[i]), where, nodes.levels, np.int64(sums[size]), near, more)
        for left in range(np.int64(nodes.kids[i]), 0, -1):
            place = pick(state, data, (sums, near, more, extra), place, size, left, np.int64(nodes.places[p]))
            nodes.places[p] = place
            least = _least(level, np.int64(nodes.levels[place]))
            own = number(state, data, odds, PAIR_LEVEL, least, len(VALUES), np.int64(nodes.pair_levels[p]))
            nodes.pair_levels[p] = own
            summed += VALUES[own - 1] if own else 0
            place += 1
            p += 1
        if summed:
            likely = _expected(level, summed)
            nodes.shifts[i] = number(state, data, odds, TOTAL, likely, SHIFTS - 1, np.int64(nodes.shifts[i]))


@compiled
def _expect(expected: Any, token: Any, where: Any, levels: Any, whole: Any, near: Any, more: Any) -> Any:
    """What the listed followers of a token weigh besides, EXPECTED_SHARE times `whole` in all: their places into near,
    the sums before each into more; how many. where: (V,) the place of each token in the list, + 1; levels: theirs.
    """
    extra: Any = 0
    total: Any = 0
    for x in range(np.int64(expected.starts[token]), np.int64(expected.starts[token + 1])):
        follower = expected.followers[x]
        if where[follower]:
            near[extra] = where[follower] - 1
            level = np.int64(levels[near[extra]])
            rise: Any = ((level - np.int64(expected.levels[follower])) >> 1) + RISE if level else NOT_COUNTED
            extra += 1
            more[extra] = VALUES[min(max(np.int64(expected.heard[x]) + rise, 0), EXPECTED_LEVELS)]
            total += np.int64(more[extra])
    scale = ((EXPECTED_SHARE * whole) << 16) // max(total, 1)
    for x in range(extra):
        more[x + 1] = np.int64(more[x]) + (np.int64(more[x + 1]) * scale >> 16)
    return extra


@compiled
def _triples(state: Any, data: Any, odds: Any, nodes: Any) -> bool:
    """False where not as many triples are told as were stated."""
    first, sums = np.zeros(len(nodes.tokens) + 1, np.uint16), np.zeros(len(nodes.places) + 1, np.uint32)
    none, zero = np.zeros(0, np.uint16), np.zeros(1, np.uint32)
    for i in range(len(nodes.tokens)):
        first[i + 1] = first[i] + nodes.kids[i]
    for p in range(len(nodes.places)):
        sums[p + 1] = np.int64(sums[p]) + TAIL_WEIGHTS[nodes.pair_levels[p]]
    r, triples = 0, len(nodes.tails)
    for p in range(len(nodes.places)):
        second, level = np.int64(nodes.places[p]), np.int64(nodes.pair_levels[p])
        place, stop, summed = np.int64(first[second]), np.int64(first[second + 1]), 0
        most = min(stop - place, triples - r)
        kids = number(state, data, odds, TRIPLES, min(level, LEVELS_TOLD - 1), most, np.int64(nodes.pair_kids[p]))
        nodes.pair_kids[p] = kids
        for left in range(kids, 0, -1):
            place = pick(state, data, (sums, none, zero, 0), place, stop, left, np.int64(nodes.tails[r]))
            nodes.tails[r] = place
            least, own = _least(level, np.int64(nodes.pair_levels[place])), np.int64(nodes.triple_levels[r])
            own = 1 + number(state, data, odds, TRIPLE_LEVEL, least, len(VALUES) - 1, own - 1)
            nodes.triple_levels[r] = own
            summed += VALUES[own - 1]
            place += 1
            r += 1
        if summed:
            likely = _expected(level, summed)
            shift = number(state, data, odds, TOTAL, likely, SHIFTS - 1, np.int64(nodes.pair_shifts[p]))
            nodes.pair_shifts[p] = shift
    return r == triples


@compiled
def _length(x: int) -> int:
    """In bits."""
    n = 0
    while x:
        x >>= 1
        n += 1
    return n


@compiled
def _least(one: int, other: int) -> int:
    """The context of a level: the lesser of its parts', a part that was not counted left out."""
    least = min(one or other, other or one)
    return min(least, LEVELS_TOLD - 1) if least else LEVELS_TOLD - 1


@compiled
def _expected(level: int, summed: int) -> int:
    """The context of a shift: the one with which the total reaches what the context itself was counted."""
    if not level:
        return UNEXPECTED
    shift = 0
    while shift < EXPECTED_MOST and summed << shift < VALUES[level - 1]:
        shift += 1
    return shift
