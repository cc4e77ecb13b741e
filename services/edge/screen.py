"""What never becomes a crystal, whatever was kept: digits, e-mail addresses, and what looks like a key.

    text      ─ screened ─▶ counted     e-mail addresses, long numbers and keys replaced whole, by redaction's patterns
    residue   ─ speakable ─▶ chosen     no n-gram whose text has a digit or an at sign, or begins in the midst of one

Redaction (redaction.py) is the operator's choice and about what is kept; this is neither: it holds with QIG_REDACT
empty, and for text and counts that an earlier release kept. The first net needs the whole text, because a key's pieces
look like nothing; the second needs only the n-gram, and stops what a pattern missed and what was counted before there
was one. Totals stay what they were: what is not said backs off to the lower order.

Where tokens split a digit's bytes, an n-gram may hold a part of it. Its last byte says which digit it is, the bytes
before only that a digit may follow. Alone that byte is many a letter's too; with the byte before it, within a script,
the digit's only. So an n-gram that begins with the last two or three bytes of a longer digit is not said.
Silencing whatever is no whole UTF-8 would take all learning from scripts whose letters are no tokens (docs/privacy.md).

Pure. Digits are those of every script (str.isdigit).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from common.kernels.memory import TOKEN_BITS, TOKEN_MASK, Keys, Memory, Table
from services.edge.redaction import BUILT_IN, settled

AT_SIGNS: Final = "@\uff20\ufe6b"
_CONTINUING: Final = bytes(range(0x80, 0xC0))  # the bytes of a UTF-8 letter after its first
_PATTERNS: Final = tuple(BUILT_IN.values())


def screened(text: str) -> str:
    """The text as it is counted: every built-in pattern's finds replaced by their placeholders."""
    return settled(_PATTERNS, text)


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """tokens: the bytes of every id; silent, torn: (V,), whether an id is not to be said whatever stands beside it, or
    is no whole UTF-8, so that its neighbours decide.
    """

    tokens: Sequence[bytes]
    silent: npt.NDArray[np.bool_]
    torn: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, tokens: Sequence[bytes]) -> Self:
        """The screen for a vocabulary."""
        return cls(tokens, np.array([_has_private(token) for token in tokens]), np.array([_is_torn(t) for t in tokens]))

    def speakable(self, residue: Memory) -> Memory:
        """The residue without the n-grams that are not to be said; a context keeps its total."""
        tables = [self._speakable(table, order) for order, table in enumerate(residue.tables)]
        return Memory(tuple(tables))

    def _speakable(self, table: Table, order: int) -> Table:
        ids = _ids(table.keys, order)
        stay: npt.NDArray[np.bool_] = np.logical_not(self.silent[ids].any(axis=0))
        for row in np.flatnonzero(stay & self.torn[ids].any(axis=0)):
            spelled = b"".join(self.tokens[token] for token in ids[:, row].tolist())
            stay[row] = is_speakable(spelled)
        if stay.all():
            return table
        contexts = np.isin(table.contexts, table.keys[stay] >> TOKEN_BITS)
        return Table.of(table.keys[stay], table.counts[stay], table.contexts[contexts], table.totals[contexts])


def is_speakable(spelled: bytes) -> bool:
    """Whether these bytes of a text may be said: no digit and no at sign in them, and not the end of one."""
    return not _has_private(spelled) and not _begins_within(spelled)


def _ids(keys: Keys, order: int) -> npt.NDArray[np.int64]:
    """(order + 1, N): the tokens of each n-gram, the oldest first."""
    places = range(order, -1, -1)
    return np.stack([(keys >> np.uint64(int(TOKEN_BITS) * place) & TOKEN_MASK).astype(np.int64) for place in places])


def _is_private(letter: str) -> bool:
    return letter.isdigit() or letter in AT_SIGNS


def _has_private(spelled: bytes) -> bool:
    return any(map(_is_private, spelled.decode("utf-8", "ignore")))


def _begins_within(spelled: bytes) -> bool:
    """Whether the first bytes end a digit or an at sign, and say which."""
    return spelled[: len(spelled) - len(spelled.lstrip(_CONTINUING))] in _telling()


@cache
def _telling() -> frozenset[bytes]:
    """The last two and three bytes of every letter that is not said and is longer."""
    letters = [letter.encode() for letter in map(chr, range(sys.maxunicode + 1)) if _is_private(letter)]
    return frozenset(letter[-size:] for letter in letters for size in range(2, len(letter)))


def _is_torn(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return True
    return False
