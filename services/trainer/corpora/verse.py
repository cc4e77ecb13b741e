"""Verse from a gzip pickle of poetry lines, read without unpickling: only its string opcodes are looked at.

A pickle is a program, and loading one runs it. `pickletools.genops` merely lists the instructions; the ordered lines
of the poems are the arguments of the unicode opcodes. The source has no titles and no blank lines, and prose among the
verse (prefaces, notes), so a poem is taken to be a run of at least 12 short lines that all begin with a capital.
"""

import gzip
import io
import pickletools
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from common.errors import Corrupt, Rejected

PICKLE_MAX_BYTES: Final = 192 * 2**20  # unpacked: 168 MB
OPCODES_MAX: Final = 20_000_000  # of 9.3 million
RUN_MIN_LINES: Final = 12
RUN_MIN_BYTES: Final = 1000
RUN_MAX_LINES: Final = 20_000  # a bound on memory; the longest has under 5,000
LINE_BYTES: Final = range(12, 65)
ENGLISH_MIN: Final = 0.08  # share of the commonest words; English verse has 0.15 to 0.3, other languages under 0.05
_OPCODES: Final = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_LINE: Final = re.compile(r"""["'`(\[]*[A-Z][^|{}\\<>=*0-9]*""")
_COMMON: Final = frozenset(["the", "and", "of", "to", "in", "with", "his", "her", "my", "that", "for", "is"])


def pickled_strings(packed: bytes) -> Iterator[str]:
    """The strings in a gzip pickle, in order. Raises Rejected("corpus_pickle") past a bound, Corrupt when broken."""
    try:
        with gzip.open(io.BytesIO(packed)) as stream:
            raw = stream.read(PICKLE_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Corrupt("corpus_pickle", f"the poetry lines are no whole gzip stream ({error}): fetch again") from error
    if len(raw) > PICKLE_MAX_BYTES:
        raise Rejected("corpus_pickle", f"the poetry lines unpack to more than {PICKLE_MAX_BYTES} bytes")
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(raw))):
            if count >= OPCODES_MAX:
                raise Rejected("corpus_pickle", f"the poetry lines have more than {OPCODES_MAX} opcodes")
            if opcode.name in _OPCODES and isinstance(argument, str):
                yield argument
    except ValueError as error:
        raise Corrupt("corpus_pickle", f"the poetry lines end in a broken opcode ({error}): fetch again") from error


def runs(lines: Iterable[str]) -> Iterator[list[str]]:
    """Runs of verse lines, each a poem or a passage of one: long enough, and in English."""
    held: list[str] = []
    for line in lines:
        clean = " ".join(line.replace("_", "").split())
        if is_verse(clean) and len(held) < RUN_MAX_LINES:
            held.append(clean)
            continue
        if _is_poem(held):
            yield held
        held = []
    if _is_poem(held):
        yield held


def is_verse(line: str) -> bool:
    """A short line that begins with a capital, has no digits or markup, and is no heading."""
    return len(line.encode()) in LINE_BYTES and bool(_LINE.fullmatch(line)) and not line.isupper()


def _is_poem(lines: list[str]) -> bool:
    if len(lines) < RUN_MIN_LINES or sum(len(line.encode()) + 1 for line in lines) < RUN_MIN_BYTES:
        return False
    words = " ".join(lines).lower().split()
    return sum(word in _COMMON for word in words) >= ENGLISH_MIN * len(words)
