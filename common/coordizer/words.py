"""Text to words: the pre-tokenisation that BPE merges never cross, and its counts.

The pattern is GPT-2's with every run bounded to 64 characters, so that no piece of text, 10 MB without a space
included, costs more than linear time. It is part of the artifact: other tokenizers get the same ids only with it.

>>> count_words(["the cat, the hat"])["the"], count_words(["the cat, the hat"])[" the"]
(1, 1)
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import regex  # type: ignore[import-untyped]  # the package ships no types

from common.errors import Rejected

RUN_LIMIT: Final = 64  # characters; chosen: longer than any word, short enough that a merge pass over it is nothing
PATTERN: Final = (
    r"'(?:[sdmt]|ll|ve|re)"
    rf"| ?\p{{L}}{{1,{RUN_LIMIT}}}"
    rf"| ?\p{{N}}{{1,{RUN_LIMIT}}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]{{1,{RUN_LIMIT}}}"
    rf"|\s{{1,{RUN_LIMIT}}}(?!\S)"
    rf"|\s{{1,{RUN_LIMIT}}}"
)
_CHUNK: Final = 1 << 19  # characters matched at once: bounds the list of pieces, whatever the length of the text
_WORDS = regex.compile(PATTERN)


def check_text(text: str, where: str) -> None:
    """Refuse what is no text: a lone surrogate has no UTF-8 bytes. Raises Rejected("lone_surrogate")."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        message = (
            f"{where}: lone surrogate {code} at character {error.start} has no UTF-8 form; decode the source bytes"
        )
        raise Rejected("lone_surrogate", f"{message} properly or replace it") from None


def count_words(texts: Iterable[str], progress: Callable[[int], None] | None = None) -> Counter[str]:
    """How often each word occurs; memory grows with the number of different words only.

    texts are streamed; progress is told the characters read so far. Raises Rejected("lone_surrogate").
    """
    words: Counter[str] = Counter()
    read = 0
    for number, text in enumerate(texts):
        check_text(text, f"text {number}")
        at = 0
        while at < len(text):
            pieces = _WORDS.findall(text, at, at + _CHUNK)
            if at + _CHUNK < len(text):
                pieces.pop()  # it may go on behind the end of the chunk: match it again from its start
            words.update(pieces)
            at += sum(map(len, pieces))
        read += len(text)
        if progress is not None:
            progress(read)
    return words
