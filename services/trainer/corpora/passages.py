r"""Cutting a long text into documents of a few KB at the ends of its paragraphs, lines or sentences.

>>> [len(part) for part in passages(["a" * 900, "b" * 900, "c" * 1100], "\n")]
[1801, 1100]
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

TARGET_BYTES: Final = 2000  # chosen: eight windows of 64 tokens, and 5 % of a 330 KB slice is still eight documents
MIN_BYTES: Final = 1000
_SENTENCE_END: Final = re.compile(r"(?<=[.!?;:])[\"')\]]*\s+")


def passages(units: Sequence[str], joiner: str) -> list[str]:
    """The units, joined again into texts of TARGET_BYTES or a little less.

    A unit that is itself too long is cut at the ends of sentences first. A last part under MIN_BYTES joins the one
    before it, so none exceeds the sum of both; a whole text under MIN_BYTES stays as it is.
    """
    groups: list[list[str]] = []
    size = 0
    for unit in _short_units(units):
        length = len(unit.encode()) + len(joiner)
        if not groups or size + length > TARGET_BYTES + len(joiner):
            groups.append([])
            size = 0
        groups[-1].append(unit)
        size += length
    texts = [joiner.join(group) for group in groups]
    if len(texts) > 1 and len(texts[-1].encode()) < MIN_BYTES:
        texts[-2:] = [joiner.join(texts[-2:])]
    return texts


def sentences(text: str) -> list[str]:
    """The text cut after sentences and clauses, white space between them dropped."""
    cuts = [match.end() for match in _SENTENCE_END.finditer(text)]
    pieces = (text[start:end].strip() for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True))
    return [piece for piece in pieces if piece]


def _short_units(units: Iterable[str]) -> Iterator[str]:
    for unit in units:
        if len(unit.encode()) <= TARGET_BYTES:
            yield unit
        else:
            yield from _merged(sentences(unit))


def _merged(pieces: Iterable[str]) -> Iterator[str]:
    """Sentences packed to TARGET_BYTES with one space between: a joiner of a line break is for paragraphs only."""
    held = ""
    for piece in (part for whole in pieces for part in _hard_cut(whole)):
        together = f"{held} {piece}" if held else piece
        if held and len(together.encode()) > TARGET_BYTES:
            yield held
            held = piece
        else:
            held = together
    if held:
        yield held


def _hard_cut(piece: str) -> Iterator[str]:
    """A sentence without an end: every TARGET_BYTES // 4 characters, which are at most TARGET_BYTES bytes."""
    if len(piece.encode()) <= TARGET_BYTES:
        yield piece
        return
    step = TARGET_BYTES // 4
    for start in range(0, len(piece), step):
        yield piece[start : start + step]
