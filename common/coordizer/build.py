"""The whole pipeline: documents in, coordizer out. Merges first, then the PLSA pass that gives its tokens meaning."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from common.constants import ROLES, Role
from common.coordizer import basins as basins_
from common.coordizer.artifacts import Coordizer, Provenance
from common.coordizer.encode import Encoder
from common.coordizer.train import LAMBDA, train

SAMPLE_CHARACTERS: Final = 1 << 20  # of each role, for its basins; chosen: more moved routing by less than its noise
_PIECE: Final = 1 << 12  # characters; a sample takes every n-th piece of this length, from all over the text
_MERGING: Final = 0.6  # share of the progress bar; chosen from the measured times


def build(
    documents: Sequence[tuple[Role, str]],
    *,
    vocab_size: int = 2048,
    lam: float = LAMBDA,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Coordizer:
    """Learn merges from all documents and basins from their roles.

    vocab_size: at most so many ids; the result has fewer when the text has no more patterns. threads only encode: the
    result is the same for any number. progress is called with the share done, in [0, 1].
    Raises Rejected("vocab_size"), Rejected("lone_surrogate"), Rejected("no_documents").
    """
    report = progress or (lambda _: None)
    training = train(
        (text for _, text in documents),
        vocab_size=vocab_size,
        lam=lam,
        seed=seed,
        progress=lambda share: report(_MERGING * share),
    )
    provenance = _provenance(documents, seed)
    learned = basins_.plsa(
        _windows(Encoder(training.merges), documents, threads),
        training.midpoints,
        seed=seed,
        progress=lambda share: report(_MERGING + (1.0 - _MERGING) * share),
    )
    return Coordizer(training.merges, basins_.distinct(learned), lam, provenance)


def _windows(encoder: Encoder, documents: Sequence[tuple[Role, str]], threads: int) -> dict[Role, basins_.Windows]:
    """Each role's text, or an even sample of it, encoded and cut into windows."""
    result: dict[Role, basins_.Windows] = {}
    for role in ROLES:
        encoded = encoder.encode_batch(sample([text for owner, text in documents if owner == role]), threads)
        if encoded:
            result[role] = basins_.windows(np.concatenate(encoded))
    return result


def sample(texts: Sequence[str], limit: int = SAMPLE_CHARACTERS) -> list[str]:
    """The texts when they hold at most `limit` characters, else pieces of them, evenly spaced, of about that many."""
    every = -(-sum(map(len, texts)) // limit)
    if every <= 1:
        return list(texts)
    pieces = (text[at : at + _PIECE] for text in texts for at in range(0, len(text), _PIECE))
    return list(itertools.islice(pieces, 0, None, every))


def _provenance(documents: Sequence[tuple[Role, str]], seed: int) -> Provenance:
    corpus = hashlib.sha256()
    number, size_bytes = dict.fromkeys(ROLES, 0), dict.fromkeys(ROLES, 0)
    for role, text in documents:
        body = text.encode()
        corpus.update(f"{role} {len(body)}\n".encode() + body)
        number[role] += 1
        size_bytes[role] += len(body)
    return Provenance(corpus.hexdigest(), number, size_bytes, seed)
