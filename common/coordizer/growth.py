"""Growth: edges propose merges from their own text, the centre appends the sound ones; old ids never change.

    edge     propose(coordizer, texts)          → (left id, right id, count), ...      pairs of its ids: no text leaves
    centre   grow(coordizer, {edge: proposals}) → a coordizer with more ids, and what was refused, with reasons

A proposal stands for what several edges saw. It is appended when at least `edges_min` of them bring it, with enough
occurrences together (no edge counts for more than its cap), when its string is new and one piece of the pattern, and
when its two halves lie no farther apart than those of the coordizer's own merges do. What comes first when there is
no room for all: the score of training, count · exp(−λ·d). It knows no packet and no signature.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import regex  # type: ignore[import-untyped]  # the package ships no types

from common.coordizer import merges
from common.coordizer.artifacts import (
    BOS,
    FIRST_MERGE,
    TOKEN_MAX_BYTES,
    VOCAB_MAX,
    Coordizer,
    count_distinct,
    digest,
    token_bytes,
)
from common.coordizer.basins import distinct
from common.coordizer.train import MIN_COUNT, start_loop, symbols
from common.coordizer.words import PATTERN, read_words
from common.geometry.simplex import Array, distance, from_float16, slerp

PROPOSALS_MAX: Final = 256  # an edge and round; chosen: 2 KB before coding
EDGES_MIN: Final = 3  # settled, DESIGN.md section 7
COUNT_MIN: Final = 12  # occurrences over all edges; chosen: four an edge at the least number of edges
EDGE_COUNT_CAP: Final = 1000  # what one edge may count for: none outvotes the others
DISTANCE_QUANTILE: Final = 0.999  # of the coordizer's own merges: beyond it two halves have nothing to do together
_PIECE = regex.compile(PATTERN)

Proposal = tuple[int, int, int]  # left id, right id, occurrences


@dataclass(frozen=True, slots=True)
class Growth:
    """coordizer: with the accepted merges appended, or the old one itself when there are none; refused: by reason."""

    coordizer: Coordizer
    accepted: tuple[tuple[int, int], ...]
    refused: Mapping[tuple[int, int], str]


def propose(coordizer: Coordizer, texts: Iterable[str], *, limit: int = PROPOSALS_MAX) -> tuple[Proposal, ...]:
    """The merges that training would make next on these texts by count alone, of ids that the coordizer has.

    Merges of tokens that are proposed in the same round wait for the next one. At most `limit`, most frequent first.
    Raises Rejected("lone_surrogate").
    """
    base = symbols(coordizer.merges)
    room = min(limit, VOCAB_MAX - coordizer.vocab_size)
    loop = start_loop(read_words(texts), from_float16(coordizer.basins)[:256], len(base) + room)
    merges.fill(loop, 0.0, MIN_COUNT)
    merges.replay(loop, base, 0.0, MIN_COUNT)
    found: list[Proposal] = []
    ids = np.concatenate([_byte_ids(), np.arange(FIRST_MERGE, VOCAB_MAX + 1)])
    for number in range(len(base), len(base) + room):
        if not merges.advance(loop, number + 1, 0.0, MIN_COUNT):
            break
        left, right = ids[loop.merges[number]].tolist()
        if max(left, right) < coordizer.vocab_size:
            found.append((left, right, int(loop.total[merges.BYTES + number])))
    return tuple(sorted(found, key=lambda proposal: (-proposal[2], proposal)))


def grow(
    coordizer: Coordizer,
    proposals: Mapping[str, Sequence[Proposal]],
    *,
    edges_min: int = EDGES_MIN,
    count_min: int = COUNT_MIN,
    limit: int = PROPOSALS_MAX,
) -> Growth:
    """Append what `edges_min` distinct edges propose. proposals: by edge; whatever they hold, nothing raises.

    The order of edges and proposals does not matter; an edge that repeats a pair is heard once, with its lowest count.
    """
    counts, heard = _tally(proposals)
    refused = {
        pair: reason
        for pair in counts
        if (reason := _refusal(coordizer, pair, counts[pair], len(heard[pair]), edges_min, count_min)) is not None
    }
    sound = sorted(set(counts) - set(refused))
    if not sound:
        return Growth(coordizer, (), refused)
    basins, table = from_float16(coordizer.basins), token_bytes(coordizer.merges)
    apart = distance(basins[[pair[0] for pair in sound]], basins[[pair[1] for pair in sound]])
    farthest = _farthest(coordizer, basins)
    score = {p: counts[p] * float(np.exp(-coordizer.lam * d)) for p, d in zip(sound, apart, strict=True)}
    refused |= {p: "far_apart" for p, d in zip(sound, apart, strict=True) if d > farthest}
    accepted: list[tuple[int, int]] = []
    known = {*table}
    for pair in sorted(set(sound) - set(refused), key=lambda pair: (-score[pair], pair)):
        string = table[pair[0]] + table[pair[1]]
        if string in known:
            refused[pair] = "collision"
        elif len(accepted) >= min(limit, VOCAB_MAX - coordizer.vocab_size):
            refused[pair] = "no_room"
        else:
            known.add(string)
            accepted.append(pair)
    return Growth(_appended(coordizer, accepted, basins), tuple(accepted), refused)


def _byte_ids() -> npt.NDArray[np.int64]:
    """The artifact id of each of the loop's byte symbols."""
    from_id = symbols(np.arange(merges.BYTES, dtype=np.int32))
    return np.argsort(from_id)


def _tally(
    proposals: Mapping[str, Sequence[Proposal]],
) -> tuple[dict[tuple[int, int], int], dict[tuple[int, int], set[str]]]:
    """Capped occurrences of each pair over all edges, and who brings it."""
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    heard: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for edge in sorted(proposals):
        own: dict[tuple[int, int], int] = {}
        for left, right, count in proposals[edge]:
            own[left, right] = min(count, own.get((left, right), EDGE_COUNT_CAP))
        for pair, count in own.items():
            if count > 0:
                heard[pair].add(edge)
            counts[pair] += max(0, count)
    return dict(counts), heard


def _refusal(
    coordizer: Coordizer, pair: tuple[int, int], count: int, edges: int, edges_min: int, count_min: int
) -> str | None:
    """Why this pair cannot be a token, as far as it can be said of it alone."""
    if not all(0 <= side < coordizer.vocab_size and not BOS <= side < FIRST_MERGE for side in pair):
        return "unknown_id"
    if edges < edges_min:
        return "too_few_edges"
    if count < count_min:
        return "too_rare"
    string = _string(coordizer, pair[0]) + _string(coordizer, pair[1])
    if len(string) > TOKEN_MAX_BYTES:
        return "too_long"
    try:
        whole = _PIECE.fullmatch(string.decode()) is not None
    except UnicodeDecodeError:
        whole = True  # a part of a character may still become one piece with what is merged to it later
    return None if whole else "not_one_piece"


def _string(coordizer: Coordizer, token: int) -> bytes:
    """The bytes of one id."""
    if token < BOS:
        return bytes([token])
    left, right = coordizer.merges[token - FIRST_MERGE].tolist()
    return _string(coordizer, left) + _string(coordizer, right)


def _farthest(coordizer: Coordizer, basins: Array) -> float:
    """How far apart the halves of the coordizer's own merges lie; π when it has none."""
    if not len(coordizer.merges):
        return float(np.pi)
    left, right = coordizer.merges.T
    return float(np.quantile(distance(basins[left], basins[right]), DISTANCE_QUANTILE))


def _appended(coordizer: Coordizer, accepted: Sequence[tuple[int, int]], basins: Array) -> Coordizer:
    """A new token starts at the midpoint of its halves; new basins move until they equal none, old ones never."""
    if not accepted:
        return coordizer
    pairs = np.array(accepted, np.int32)
    stored = distinct(np.concatenate([basins, slerp(basins[pairs[:, 0]], basins[pairs[:, 1]], 0.5)]))
    stored[: len(basins)] = coordizer.basins
    if count_distinct(stored) != len(stored):
        raise AssertionError("new basins were parted from the old ones as stored, which are what they were read from")
    return Coordizer(
        merges=np.concatenate([coordizer.merges, pairs]),
        basins=stored,
        lam=coordizer.lam,
        provenance=replace(coordizer.provenance, parent=digest(coordizer)),
        trace=coordizer.trace,
    )
