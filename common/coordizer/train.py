"""Learn the merges: byte-pair encoding whose score carries geometry, score = count · exp(−λ·d(left, right)).

With λ = 0 this is plain BPE, merge for merge what Hugging Face `tokenizers` learns. The tie rule that makes it so: of
two pairs with one score the smaller pair of symbols wins, left symbol first, where bytes stand in the order of GPT-2's
printable alphabet (the visible Latin-1 characters first, then all others) and merges stand behind them as they came.

Ids in the result are those of the artifact: bytes 0..255, three special tokens, merges from FIRST_MERGE on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.coordizer import merges
from common.coordizer.artifacts import BYTE_ORDER, FIRST_MERGE, check_merges, check_vocab_size
from common.coordizer.basins import byte_basins
from common.coordizer.words import Words, read_words

LAMBDA: Final = 0.5  # measured: .04 to .13 % fewer bits a byte for .2 to .45 % more tokens (docs/experiments.md)
MIN_COUNT: Final = 2  # a pair seen once is no pattern
_SLICES: Final = 50  # how often a training reports its progress

_ORDER: Final = np.array(BYTE_ORDER, np.uint8)
_RANK_OF_BYTE: Final = np.argsort(_ORDER).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Training:
    """What was learned: merges (M, 2) int32 in artifact ids, and a first basin a token, (FIRST_MERGE + M, 64) float64.

    The basins are the bytes' own and the midpoints of the merges; special tokens have uniform ones. Word i of the
    training text is tokens[bounds[i]:bounds[i + 1]], so that no text need be encoded again.
    """

    merges: npt.NDArray[np.int32]
    midpoints: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int64]


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    lam: float = LAMBDA,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """Learn at most vocab_size − FIRST_MERGE merges; fewer when no pair occurs twice any more.

    texts are streamed: memory holds the different words only. seed moves the bytes' first basins and, for λ > 0, the
    merges through them. progress is called with the share of the merges done, in [0, 1].
    The result depends on the words' counts alone, not on the order of the texts.
    Raises Rejected("vocab_size"), Rejected("lone_surrogate").
    """
    check_vocab_size(vocab_size)
    report = progress or (lambda _: None)
    return train_words(
        read_words(texts), vocab_size=vocab_size, lam=lam, seed=seed, checkpoint=lambda done, _: report(done)
    )


def train_words(
    words: Words,
    *,
    vocab_size: int,
    lam: float = LAMBDA,
    seed: int = 0,
    start: npt.NDArray[np.int32] | None = None,
    checkpoint: Callable[[float, Callable[[], Training]], None] | None = None,
) -> Training:
    """`train` from words already counted.

    checkpoint is called fifty times, with the share done and a function that gives the training so far. start: merges
    that a checkpoint kept of the same words and parameters: training goes on behind them, to the bits that it would
    have reached without a stop. Raises Rejected("bad_merges") for merges of unknown tokens.
    """
    wanted = vocab_size - FIRST_MERGE
    basins = byte_basins(words.raw, words.lengths, words.counts, seed=seed)
    loop = start_loop(words, basins, wanted)
    merges.fill(loop, lam, MIN_COUNT)
    kept = np.empty((0, 2), np.int32) if start is None else start[:wanted]
    check_merges(kept)
    for slice_ in range(1, _SLICES + 1):
        until = wanted * slice_ // _SLICES
        merges.replay(loop, symbols(kept)[int(loop.used[merges.MERGES]) : until], lam, MIN_COUNT)
        more = merges.advance(loop, until, lam, MIN_COUNT)
        if checkpoint is not None:
            checkpoint(slice_ / _SLICES if more else 1.0, lambda: _result(loop, words))
        if not more:
            break
    return _result(loop, words)


def start_loop(words: Words, byte_basins_: npt.NDArray[np.float64], wanted: int) -> merges.Loop:
    """The merge loop before its first merge, for these words; basins of the bytes (256, 64) by byte."""
    return merges.start(_RANK_OF_BYTE[words.raw], words.lengths, words.counts, np.sqrt(byte_basins_)[_ORDER], wanted)


def symbols(merges_: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Merges in artifact ids as the loop numbers its symbols: bytes by rank, no special tokens."""
    ranks = np.concatenate([_RANK_OF_BYTE.astype(np.int32), np.zeros(FIRST_MERGE - len(_ORDER), np.int32)])
    number = np.concatenate([ranks, np.arange(len(_ORDER), len(_ORDER) + len(merges_), dtype=np.int32)])
    return np.asarray(number[merges_])


def _ids(loop: merges.Loop) -> npt.NDArray[np.int32]:
    """The artifact id of every symbol."""
    done = int(loop.used[merges.MERGES])
    return np.concatenate([_ORDER.astype(np.int32), np.arange(FIRST_MERGE, FIRST_MERGE + done, dtype=np.int32)])


def _result(loop: merges.Loop, words: Words) -> Training:
    done = int(loop.used[merges.MERGES])
    id_of = _ids(loop)
    midpoints = np.full((FIRST_MERGE + done, loop.amplitude.shape[1]), 1.0 / loop.amplitude.shape[1])
    basins = np.square(loop.amplitude[: merges.BYTES + done])
    midpoints[id_of] = basins / basins.sum(axis=1, keepdims=True)
    present = loop.symbol != merges.NOTHING
    inside = np.add.reduceat(present, np.cumsum(words.lengths) - words.lengths) if len(present) else present
    bounds = np.concatenate([[0], np.cumsum(inside)]).astype(np.int64)
    return Training(id_of[loop.merges[:done]], midpoints, id_of[loop.symbol[present]], bounds)
