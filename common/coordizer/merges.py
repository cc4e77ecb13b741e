"""The merge loop of byte-pair encoding with geometry in its score, compiled.

It knows words as runs of symbols and how often each word occurs; it knows no text, no file and no token string.

One merge is: take the pair with the highest score = count · exp(−λ·d(left, right)), ties to the smallest pair of
symbols; replace it everywhere, from left to right in each word; give the new symbol the count-weighted geodesic
midpoint of its parts. Two facts make that cheap:

    a pair always holds the symbol that was born with it, so all its occurrences appear in one step
        → it enters the heap once, and its list of places never grows afterwards
    after that step its count can only fall
        → a stale entry of the heap is too high, never too low: re-score the top, let it sink, and the top is exact

Words lie one behind the other; inside a word the symbols are a linked list, so that a merge moves nothing:

    symbol     t  h  e │ t  h  e  n         after t+h:   th .  e │ th .  e  n
    after      1  2  ∅ │ 4  5  6  ∅                      2     ∅ │ 5     6  ∅

Every array is allocated once: n symbols give at most n places at the start and two more for each of at most n − 1
replacements, so there are at most 3n places, and never more pairs than places.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS
from common.coordizer.compiled import compiled

BYTES: Final = 256
NOTHING: Final = -1
_HASH_BASE: Final = np.uint64(0x100000001B3)  # the FNV prime: odd, so its powers never vanish modulo 2^64
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys over the table
_PAIRS, _PLACES, _HEAP, MERGES = 0, 1, 2, 3  # where the counters stand in Loop.used


class Loop(NamedTuple):
    """All that the merge loop needs to go on; plain arrays, changed in place."""

    symbol: npt.NDArray[np.int32]  # (n,) what stands at each place; NOTHING where it was merged away
    after: npt.NDArray[np.int32]  # (n,) the next place in the word, or NOTHING
    before: npt.NDArray[np.int32]  # (n,) the previous place in the word, or NOTHING
    weight: npt.NDArray[np.int64]  # (n,) how often the word of this place occurs
    pair: npt.NDArray[np.int64]  # (3n,) left << 32 | right
    counts: npt.NDArray[np.int64]  # (3n,) occurrences of the pair now
    pull: npt.NDArray[np.float64]  # (3n,) exp(−λ·d) of the pair
    first: npt.NDArray[np.int32]  # (3n,) the pair's latest place, an index into the next two
    place: npt.NDArray[np.int32]  # (3n,) where the pair's left symbol stands
    chain: npt.NDArray[np.int32]  # (3n,) the same pair's earlier place, or NOTHING
    slot: npt.NDArray[np.int32]  # (power of two,) hash table of pairs: index + 1, 0 = empty
    heap_score: npt.NDArray[np.float64]  # (3n,)
    heap_pair: npt.NDArray[np.int32]  # (3n,)
    amplitude: npt.NDArray[np.float64]  # (symbols, 64) square roots of the basins
    total: npt.NDArray[np.int64]  # (symbols,) occurrences of each symbol now
    digest: npt.NDArray[np.uint64]  # (symbols, 2) polynomial hash of the symbol's bytes, and base^length
    known: npt.NDArray[np.uint64]  # (power of two,) hash table of those digests, 0 = empty
    merges: npt.NDArray[np.int32]  # (symbols - 256, 2) the result
    used: npt.NDArray[np.int64]  # (4,) pairs, places, heap entries, merges


def _power_of_two(least: int) -> int:
    return 1 << max(4, least - 1).bit_length()


def start(
    word_bytes: npt.NDArray[np.uint8],
    lengths: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    byte_amplitude: npt.NDArray[np.float64],
    merges: int,
) -> Loop:
    """The state before the first merge.

    word_bytes: all words behind one another, already in the order that breaks ties; lengths, counts: (words,), >= 1;
    byte_amplitude: (256, 64) unit rows; merges: how many are wanted. `fill` must run once before `advance`.
    """
    n = len(word_bytes)
    places, symbols = 3 * n, BYTES + merges
    last = np.cumsum(lengths) - 1
    after = np.arange(1, n + 1, dtype=np.int32)
    before = np.arange(-1, n - 1, dtype=np.int32)
    after[last] = NOTHING
    before[last - lengths + 1] = NOTHING
    amplitude = np.zeros((symbols, CELLS))
    amplitude[:BYTES] = byte_amplitude
    digest = np.zeros((symbols, 2), np.uint64)
    digest[:BYTES, 0] = np.arange(1, BYTES + 1, dtype=np.uint64) * _MIX
    digest[:BYTES, 1] = _HASH_BASE
    return Loop(
        symbol=word_bytes.astype(np.int32),
        after=after,
        before=before,
        weight=np.repeat(counts, lengths),
        pair=np.empty(places, np.int64),
        counts=np.empty(places, np.int64),
        pull=np.empty(places, np.float64),
        first=np.empty(places, np.int32),
        place=np.empty(places, np.int32),
        chain=np.empty(places, np.int32),
        slot=np.zeros(_power_of_two(2 * places), np.int32),
        heap_score=np.empty(places, np.float64),
        heap_pair=np.empty(places, np.int32),
        amplitude=amplitude,
        total=np.zeros(symbols, np.int64),
        digest=digest,
        known=np.zeros(_power_of_two(4 * symbols), np.uint64),
        merges=np.empty((merges, 2), np.int32),
        used=np.zeros(4, np.int64),
    )


@compiled
def _above(s: Loop, a: int, b: int) -> bool:
    """Whether heap entry a comes before heap entry b: the higher score, then the smaller pair."""
    if s.heap_score[a] != s.heap_score[b]:
        return bool(s.heap_score[a] > s.heap_score[b])
    return bool(s.pair[s.heap_pair[a]] < s.pair[s.heap_pair[b]])


@compiled
def _swap(s: Loop, a: int, b: int) -> None:
    s.heap_score[a], s.heap_score[b] = s.heap_score[b], s.heap_score[a]
    s.heap_pair[a], s.heap_pair[b] = s.heap_pair[b], s.heap_pair[a]


@compiled
def _push(s: Loop, pair: int) -> None:
    i = s.used[_HEAP]
    s.heap_score[i] = s.counts[pair] * s.pull[pair]
    s.heap_pair[i] = pair
    s.used[_HEAP] += 1
    while i > 0 and _above(s, i, (i - 1) >> 1):
        _swap(s, i, (i - 1) >> 1)
        i = (i - 1) >> 1


@compiled
def _sink(s: Loop) -> None:
    """Let the top of the heap sink to where it belongs."""
    i = 0
    while True:
        child = 2 * i + 1
        if child >= s.used[_HEAP]:
            return
        if child + 1 < s.used[_HEAP] and _above(s, child + 1, child):
            child += 1
        if not _above(s, child, i):
            return
        _swap(s, child, i)
        i = child


@compiled
def _pop(s: Loop) -> None:
    s.used[_HEAP] -= 1
    _swap(s, 0, s.used[_HEAP])
    _sink(s)


@compiled
def _best(s: Loop, min_count: int) -> int:
    """The pair with the highest score now, taken from the heap; NOTHING when none occurs min_count times."""
    while s.used[_HEAP] > 0:
        pair = s.heap_pair[0]
        if s.counts[pair] < min_count:
            _pop(s)
            continue
        score = s.counts[pair] * s.pull[pair]
        if score < s.heap_score[0]:
            s.heap_score[0] = score
            _sink(s)
            continue
        _pop(s)
        return int(pair)
    return NOTHING


@compiled
def _find(s: Loop, pair: int) -> int:
    """The slot of this pair in the hash table: taken by it, or free for it."""
    mask = len(s.slot) - 1
    mixed = np.uint64(pair) * _MIX
    i = np.int64(mixed >> np.uint64(20)) & mask
    while s.slot[i] != 0 and s.pair[s.slot[i] - 1] != pair:
        i = (i + 1) & mask
    return int(i)


@compiled
def _add(s: Loop, left: int, right: int, place: int) -> None:
    """One more occurrence of a pair, at this place."""
    key = (np.int64(left) << 32) | np.int64(right)
    i = _find(s, key)
    if s.slot[i] == 0:
        new = s.used[_PAIRS]
        s.pair[new] = key
        s.counts[new] = 0
        s.first[new] = NOTHING
        s.slot[i] = new + 1
        s.used[_PAIRS] += 1
    pair = s.slot[i] - 1
    at = s.used[_PLACES]
    s.place[at] = place
    s.chain[at] = s.first[pair]
    s.first[pair] = at
    s.used[_PLACES] += 1
    s.counts[pair] += s.weight[place]


@compiled
def _remove(s: Loop, left: int, right: int, weight: int) -> None:
    s.counts[s.slot[_find(s, (np.int64(left) << 32) | np.int64(right))] - 1] -= weight


@compiled
def _distance(amplitude: Any, a: int, b: int) -> float:
    """Fisher-Rao, 4 arcsin(|√p − √q| / 2), radians; exactly 0 for equal rows."""
    squares = 0.0
    for i in range(amplitude.shape[1]):
        difference = amplitude[a, i] - amplitude[b, i]
        squares += difference * difference
    return float(4.0 * np.arcsin(min(1.0, 0.5 * np.sqrt(squares))))


@compiled
def _announce(s: Loop, born: int, lam: float, min_count: int) -> None:
    """Score the pairs from index `born` on, and put those that occur often enough on the heap."""
    for pair in range(born, s.used[_PAIRS]):
        if s.counts[pair] >= min_count:
            left, right = s.pair[pair] >> 32, s.pair[pair] & 0xFFFFFFFF
            s.pull[pair] = np.exp(-lam * _distance(s.amplitude, left, right)) if lam > 0.0 else 1.0
            _push(s, pair)


@compiled
def fill(s: Loop, lam: float, min_count: int) -> None:
    """Count the symbols and pairs of the words as they stand."""
    for symbol in range(BYTES):
        _is_new(s, s.digest[symbol, 0])
    for i in range(len(s.symbol)):
        s.total[s.symbol[i]] += s.weight[i]
        if s.after[i] != NOTHING:
            _add(s, s.symbol[i], s.symbol[s.after[i]], i)
    _announce(s, 0, lam, min_count)


@compiled
def _is_new(s: Loop, digest: int) -> bool:
    """Note a symbol's bytes by their digest; False when a symbol with these bytes exists already."""
    mask = len(s.known) - 1
    i = np.int64((digest * _MIX) >> np.uint64(20)) & mask
    while s.known[i] != 0:
        if s.known[i] == digest:
            return False
        i = (i + 1) & mask
    s.known[i] = digest
    return True


@compiled
def _midpoint(s: Loop, a: int, b: int, new: int) -> None:
    """The point of the geodesic from a to b that divides it by their counts: slerp of the amplitudes."""
    share = s.total[b] / max(1, s.total[a] + s.total[b])
    angle = 0.5 * _distance(s.amplitude, a, b)
    near, far = 1.0 - share, share
    if angle > 1e-6:  # below it slerp is linear to 1e-13, and the division would only add noise
        near, far = np.sin(near * angle) / np.sin(angle), np.sin(far * angle) / np.sin(angle)
    for i in range(s.amplitude.shape[1]):
        s.amplitude[new, i] = near * s.amplitude[a, i] + far * s.amplitude[b, i]


@compiled
def _replace(s: Loop, pair: int, new: int) -> None:
    """Put `new` wherever the pair still stands, left to right, and keep all counts true."""
    left, right = s.pair[pair] >> 32, s.pair[pair] & 0xFFFFFFFF
    size, at = 0, s.first[pair]
    while at != NOTHING:
        size, at = size + 1, s.chain[at]
    places = np.empty(size, np.int32)
    at = s.first[pair]
    for i in range(size - 1, -1, -1):  # the chain runs from right to left
        places[i] = s.place[at]
        at = s.chain[at]
    for at in range(size):
        i = places[at]
        j = s.after[i]
        if s.symbol[i] != left or j == NOTHING or s.symbol[j] != right:
            continue  # another merge has taken one of the two since
        before, after, weight = s.before[i], s.after[j], s.weight[i]
        if before != NOTHING:
            _remove(s, s.symbol[before], left, weight)
            _add(s, s.symbol[before], new, before)
        if after != NOTHING:
            _remove(s, right, s.symbol[after], weight)
            _add(s, new, s.symbol[after], i)
            s.before[after] = i
        s.symbol[i], s.symbol[j], s.after[i] = new, NOTHING, after
        s.total[left] -= weight
        s.total[right] -= weight
        s.total[new] += weight
    s.counts[pair] = 0


@compiled
def _merge(s: Loop, left: int, right: int, digest: int, lam: float, min_count: int) -> None:
    """Make the next symbol of this pair, which may not occur, and score the pairs it makes."""
    new = BYTES + s.used[MERGES]
    s.digest[new, 0] = digest
    s.digest[new, 1] = s.digest[left, 1] * s.digest[right, 1]
    s.merges[s.used[MERGES], 0] = left
    s.merges[s.used[MERGES], 1] = right
    born = s.used[_PAIRS]
    _midpoint(s, left, right, new)
    slot = s.slot[_find(s, (np.int64(left) << 32) | np.int64(right))]
    if slot != 0:
        _replace(s, slot - 1, new)
    s.used[MERGES] += 1
    _announce(s, born, lam, min_count)


@compiled
def _joined(s: Loop, left: int, right: int) -> Any:
    """The digest of two symbols' bytes, one behind the other."""
    return s.digest[left, 0] * s.digest[right, 1] + s.digest[right, 0]


@compiled
def replay(s: Loop, merges: Any, lam: float, min_count: int) -> None:
    """Make merges that were chosen before, (K, 2) symbols; the state is then what it was when they were chosen here."""
    for k in range(len(merges)):
        digest = _joined(s, merges[k, 0], merges[k, 1])
        _is_new(s, digest)
        _merge(s, merges[k, 0], merges[k, 1], digest, lam, min_count)


@compiled
def advance(s: Loop, until: int, lam: float, min_count: int) -> bool:
    """Merge until there are `until` merges; False when no pair is left that occurs min_count times."""
    while s.used[MERGES] < until:
        pair = _best(s, min_count)
        if pair == NOTHING:
            return False
        left, right = s.pair[pair] >> 32, s.pair[pair] & 0xFFFFFFFF
        digest = _joined(s, left, right)
        if _is_new(s, digest):  # else a token with these bytes exists: two ids for one string would break every decoder
            _merge(s, left, right, digest, lam, min_count)
    return True
