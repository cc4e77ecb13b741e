"""Exact and near duplicates among documents, by the word 5-grams that they share.

Method, stated because published bits per byte depend on it: a document's shingles are the 64-bit hashes of its word
5-grams (lower case, punctuation ignored). Each shingle belongs to the first kept document that has it. A document is a
near duplicate when more than `limit` of its shingles belong to one kept document. This is containment, not Jaccard:
an excerpt is caught whatever the size of the whole, and the whole is caught after its excerpt as long as the excerpt
makes up more than `limit` of it. Unlike a share of all kept text it does not punish formulaic prose.

`every` = 8 keeps one shingle in eight, by hash, for bulk text: about 40 of a 2 KB document.
"""

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from services.trainer.corpora.document import Document

SHINGLE_WORDS: Final = 5
NEAR_LIMIT: Final = 0.15  # chosen: parts have 1 to 3 KB, so one that holds another shares a third with it
BULK_EVERY: Final = 8
_WORD: Final = re.compile(r"[^\W_]+")
# Odd 64-bit constants (splitmix64's): any would do, but they may never change, or samples would.
_MULTIPLIERS: Final = np.array(
    [0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F], np.uint64
)

Shingles = npt.NDArray[np.uint64]


def shingles(text: str, *, every: int = 1) -> Shingles:
    """Sorted distinct hashes of the text's word 5-grams, one in `every` of them. Empty under five words."""
    words = np.array([zlib.crc32(word.encode()) for word in _WORD.findall(text.lower())], np.uint64)
    count = len(words) - SHINGLE_WORDS + 1
    if count < 1:
        return np.empty(0, np.uint64)
    mixed = np.zeros(count, np.uint64)
    for offset, multiplier in enumerate(_MULTIPLIERS):
        mixed += words[offset : offset + count] * multiplier
    # The low bits of a sum of products are weak, and `every` looks at them.
    mixed ^= mixed >> np.uint64(31)
    mixed *= _MULTIPLIERS[1]
    mixed ^= mixed >> np.uint64(29)
    unique: Shingles = np.unique(mixed)
    kept: Shingles = unique[unique % np.uint64(every) == 0]
    return kept


def deduplicate(documents: Iterable[Document], *, limit: float = NEAR_LIMIT, every: int = 1) -> Iterator[Document]:
    """The documents in their order, without the exact and near duplicates of an earlier one."""
    seen: set[str] = set()
    owner: dict[int, int] = {}
    for number, document in enumerate(documents):
        if document.id in seen:
            continue
        seen.add(document.id)
        own = shingles(document.text, every=every).tolist()
        shared = Counter(owner[shingle] for shingle in own if shingle in owner)
        if shared and max(shared.values()) > limit * len(own):
            continue
        for shingle in own:
            owner.setdefault(shingle, number)
        yield document


def overlap(own: Shingles, known: Shingles) -> float:
    """Share of `own` that is in `known`, 0 to 1; both sorted and distinct. 0 without any."""
    if not len(own) or not len(known):
        return 0.0
    places = np.minimum(np.searchsorted(known, own), len(known) - 1)
    return float(np.mean(known[places] == own))
