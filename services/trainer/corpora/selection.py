"""The coordizer's own corpora: a capped share of every source's training text, and prompts of text never learned from.

The caps make 20 MB of text of which no source has more than 6 MB, so that one large source (verse has 99 MB) does not
decide what is a word. Order and choice are drawn by digest (`seed.spread`): one passage of each chapter, address or
poem before a second of any. It knows no tokens.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from common.constants import ROLES, Role
from common.errors import Unavailable
from services.trainer.corpora.document import Document, documents
from services.trainer.corpora.seed import spread
from services.trainer.corpora.split import Part, part_of

SELECTION: Final = "qig-coordizer-1"
CAPS: Final[dict[str, int]] = {  # bytes of each source; chosen: all of the small ones, the rest shared evenly
    "wordnet": 5_600_000,
    "state-of-the-union": 5_600_000,
    "moby-dick": 1_200_000,
    "recipes": 2_600_000,
    "poetry": 5_600_000,
}
_ATTEMPTS: Final = 50  # a start is drawn this often before the document's own is taken
_WORD_START: Final = re.compile(r"(?<!\S)\S")


def load(root: Path, *, part: Part) -> dict[Role, list[Document]]:
    """Each role's documents of one part, from `<root>/<role>.jsonl.gz`. Raises as `document.documents`."""
    return {role: [row for row in documents(role, root=root) if part_of(row.parent) == part] for role in ROLES}


def select(
    owned: Mapping[Role, Iterable[Document]], *, caps: Mapping[str, int] = CAPS, seed: str = SELECTION
) -> list[tuple[Role, Document]]:
    """Documents of each role, at most `caps` bytes of each source, spread over parents; roles in order, then by id.

    A source without a cap gives nothing. The same documents give the same choice, in whatever order they come.
    """
    chosen: list[tuple[Role, Document]] = []
    for role in ROLES:
        room = dict(caps)
        taken = []
        for row in spread(owned.get(role, ()), seed):
            if row.size_bytes <= room.get(row.source, 0):
                room[row.source] -= row.size_bytes
                taken.append(row)
        chosen += [(role, row) for row in sorted(taken, key=lambda row: row.id)]
    return chosen


def prompts(rows: Iterable[Document], *, size_bytes: int, number: int, seed: int) -> list[str]:
    """`number` pieces of about `size_bytes`, each from a document and a place drawn by `seed`, beginning with a word.

    A piece ends in the middle of a word where its size says so, never of a character, so it may be up to three bytes
    shorter. Raises Unavailable("corpus_short") when no document is long enough.
    """
    pool = [row.text for row in rows if row.size_bytes > 2 * size_bytes]
    if not pool:
        raise Unavailable("corpus_short", f"no document longer than {2 * size_bytes} bytes: build the full corpora")
    rng = np.random.default_rng(seed)
    return [_piece(pool[int(rng.integers(len(pool)))], size_bytes, rng) for _ in range(number)]


def _piece(text: str, size_bytes: int, rng: np.random.Generator) -> str:
    for _ in range(_ATTEMPTS):
        word = _WORD_START.search(text, int(rng.integers(len(text))))
        raw = text[word.start() :].encode() if word else b""
        if len(raw) >= size_bytes:
            return raw[:size_bytes].decode(errors="ignore")
    return text.encode()[:size_bytes].decode(errors="ignore")
