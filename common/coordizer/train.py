"""Learn the merges: byte-pair encoding whose score carries geometry, score = count · exp(−λ·d(left, right)).

With λ = 0 this is plain BPE, merge for merge what Hugging Face `tokenizers` learns. The tie rule that makes it so: of
two pairs with one score the smaller pair of symbols wins, left symbol first, where bytes stand in the order of GPT-2's
printable alphabet (the visible Latin-1 characters first, then all others) and merges stand behind them as they came.

Ids in the result are those of the artifact: bytes 0..255, three special tokens, merges from FIRST_MERGE on.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.coordizer import merges
from common.coordizer.artifacts import BYTE_ORDER, FIRST_MERGE, check_vocab_size
from common.coordizer.basins import byte_basins
from common.coordizer.words import count_words

LAMBDA: Final = 0.5  # settled, DESIGN.md section 3
MIN_COUNT: Final = 2  # a pair seen once is no pattern
_SLICES: Final = 50  # how often a training reports its progress

_ORDER: Final = np.array(BYTE_ORDER, np.uint8)
_RANK_OF_BYTE: Final = np.argsort(_ORDER).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Training:
    """What was learned: merges (M, 2) int32 in artifact ids, and a first basin a token, (FIRST_MERGE + M, 64) float64.

    The basins are the bytes' own and the midpoints of the merges; special tokens have uniform ones.
    """

    merges: npt.NDArray[np.int32]
    midpoints: npt.NDArray[np.float64]


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
    return train_words(count_words(texts), vocab_size=vocab_size, lam=lam, seed=seed, progress=progress)


def train_words(
    words: Mapping[str, int],
    *,
    vocab_size: int,
    lam: float = LAMBDA,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Training:
    """`train` from words already counted."""
    wanted = vocab_size - FIRST_MERGE
    encoded = [word.encode() for word in words]
    raw = np.frombuffer(b"".join(encoded), np.uint8)
    lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    counts = np.fromiter(words.values(), np.int64, len(encoded))
    basins = byte_basins(raw, lengths, counts, seed=seed)
    loop = merges.start(_RANK_OF_BYTE[raw], lengths, counts, np.sqrt(basins)[_ORDER], wanted)
    merges.fill(loop, lam, MIN_COUNT)
    for slice_ in range(1, _SLICES + 1):
        more = merges.advance(loop, wanted * slice_ // _SLICES, lam, MIN_COUNT)
        if progress is not None:
            progress(slice_ / _SLICES if more else 1.0)
        if not more:
            break
    return _result(loop)


def _result(loop: merges.Loop) -> Training:
    done = int(loop.used[merges.MERGES])
    id_of = np.concatenate([_ORDER.astype(np.int32), np.arange(FIRST_MERGE, FIRST_MERGE + done, dtype=np.int32)])
    midpoints = np.full((FIRST_MERGE + done, loop.amplitude.shape[1]), 1.0 / loop.amplitude.shape[1])
    basins = np.square(loop.amplitude[: merges.BYTES + done])
    midpoints[id_of] = basins / basins.sum(axis=1, keepdims=True)
    return Training(merges=id_of[loop.merges[:done]], midpoints=midpoints)
