"""Text to words: the pre-tokenisation that BPE merges never cross, and its counts.

A compiled scanner does what the pattern says, piece for piece (tests hold it to the pattern), at twenty times the
speed of a regular expression, and without Python's lock: readers may run in threads, and one take over the others.

The pattern is GPT-2's with every run bounded to 64 characters, so that no piece of text, 10 MB without a space
included, costs more than linear time. It is part of the artifact: other tokenizers get the same ids only with it.

>>> read_words(["the cat the cat"]).raw.tobytes(), read_words(["the cat the cat"]).counts.tolist()
(b'the cat the', [1, 2, 1])
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import regex  # type: ignore[import-untyped]  # the package ships no types

from common.coordizer.compiled import compiled
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
_CHUNK: Final = 1 << 19  # characters read at once: bounds the memory, whatever the length of the text
_OTHER, _LETTER, _NUMBER, _SPACE = 0, 1, 2, 3  # classes of characters
_START: Final = 1 << 12  # words and characters that the tables of a new reader hold
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Words:
    """Different words in the order of their first appearance.

    raw: their UTF-8 bytes, one word behind the other; lengths, counts: (words,), >= 1.
    """

    raw: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class Reader:
    """Counts words of one text after the other. Memory grows with the different words only."""

    def __init__(self) -> None:
        self._pool: npt.NDArray[np.uint32] = np.empty(
            _START, np.uint32
        )  # characters of the words, one behind the other
        self._ends: npt.NDArray[np.int64] = np.zeros(_START, np.int64)  # where each word ends in the pool
        self._counts: npt.NDArray[np.int64] = np.zeros(_START, np.int64)
        self._slots = np.zeros(4 * _START, np.int32)  # hash table: number + 1, 0 = empty
        self._used = np.zeros(2, np.int64)  # words, characters

    def read(self, text: str, where: str = "text") -> npt.NDArray[np.int32]:
        """The numbers of the text's words, in order. Raises Rejected("lone_surrogate")."""
        found, at = [], 0
        while at < len(text):
            piece = text[at : at + _CHUNK]
            try:
                codes = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
            except UnicodeEncodeError:
                check_text(text, where)
                raise
            self._grow(len(codes))
            numbers, done = _scan(
                codes,
                at + _CHUNK >= len(text),
                classes(),
                self._pool,
                self._ends,
                self._counts,
                self._slots,
                self._used,
            )
            found.append(numbers)
            at += done
        return np.concatenate(found) if found else np.empty(0, np.int32)

    def absorb(self, words: Words) -> npt.NDArray[np.int32]:
        """Count words that another reader has counted; their numbers here, in the order given.

        Words new here are numbered in that order: readers of a text's parts, absorbed one after the other, come to the
        numbers of one reader of the whole.
        """
        codes = np.frombuffer(words.raw.tobytes().decode().encode("utf-32-le"), np.uint32)
        begins = np.cumsum((words.raw & 0xC0) != 0x80)  # characters up to here
        ends = begins[np.cumsum(words.lengths) - 1] if len(words.lengths) else words.lengths
        self._grow(len(codes))
        return np.asarray(
            _absorb(codes, ends, words.counts, self._pool, self._ends, self._counts, self._slots, self._used)
        )

    def words(self) -> Words:
        """All words so far."""
        number, size = self._used.tolist()
        codes, ends = self._pool[:size], self._ends[:number]
        width = np.cumsum(1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000))  # bytes of a character in UTF-8
        lengths = np.diff(width[ends - 1], prepend=0)
        raw = np.frombuffer(codes.tobytes().decode("utf-32-le").encode(), np.uint8)
        return Words(raw, lengths.astype(np.int64), self._counts[:number].copy())

    def _grow(self, room: int) -> None:
        """Make room for a text of `room` characters, which has at most as many new words."""
        number, size = self._used.tolist()
        if size + room > len(self._pool):
            self._pool = np.concatenate([self._pool[:size], np.empty(size + 2 * room, np.uint32)])
        if number + room > len(self._ends):
            more = np.zeros(number + 2 * room, np.int64)
            self._ends = np.concatenate([self._ends[:number], more])
            self._counts = np.concatenate([self._counts[:number], more])
        if 2 * (number + room) > len(self._slots):
            self._slots = np.zeros(1 << (4 * (number + room)).bit_length(), np.int32)
            _rehash(self._pool, self._ends, self._slots, number)


@cache
def classes() -> npt.NDArray[np.uint8]:
    """The class of every character, as the pattern's module has it."""
    table = np.full(sys.maxunicode + 1, _OTHER, np.uint8)
    for class_, runs in ((_LETTER, r"\p{L}+"), (_NUMBER, r"\p{N}+"), (_SPACE, r"\s+")):
        for base in range(0, 4 << 16, 1 << 16):  # no plane behind the fourth has letters, numbers or spaces
            if base == 0:  # without the surrogates, which are no characters
                every = "".join(map(chr, range(0xD800))) + "?" * 0x800 + "".join(map(chr, range(0xE000, 0x10000)))
            else:
                every = "".join(map(chr, range(base, base + (1 << 16))))
            for run in regex.finditer(runs, every):
                table[base + run.start() : base + run.end()] = class_
    return table


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


def read_words(texts: Iterable[str]) -> Words:
    """How often each word occurs; memory grows with the number of different words only.

    texts are streamed. Raises Rejected("lone_surrogate").
    """
    reader = Reader()
    for number, text in enumerate(texts):
        reader.read(text, f"text {number}")
    return reader.words()


@compiled
def _scan(codes: Any, last: int, classes_: Any, pool: Any, ends: Any, counts: Any, slots: Any, used: Any) -> Any:
    """Count the pieces of a text; give their numbers, and how many characters they take.

    Unless it is the last part of a text, a piece at its end may go on behind it: it is left for the next part.
    """
    numbers = np.empty(len(codes), np.int32)
    found, at = 0, 0
    while at < len(codes):
        end = _piece_end(codes, at, classes_)
        if end + 2 >= len(codes) and last == 0 and at > 0:  # two more characters could make it another piece
            break
        numbers[found] = _count(codes, at, end, pool, ends, counts, slots, used)
        found += 1
        at = end
    return numbers[:found].copy(), at


@compiled
def _piece_end(codes: Any, at: int, classes_: Any) -> int:
    """Where the piece that begins at `at` ends; the pattern's alternatives in their order."""
    size = len(codes)
    if codes[at] == 39 and at + 1 < size:  # an apostrophe, then s d m t, or ll ve re
        one = codes[at + 1]
        if one in (115, 100, 109, 116):
            return at + 2
        two = codes[at + 2] if at + 2 < size else 0
        if (one == 108 and two == 108) or (one in (118, 114) and two == 101):
            return at + 3
    begin = at + 1 if codes[at] == 32 and at + 1 < size and classes_[codes[at + 1]] != _SPACE else at
    class_ = classes_[codes[begin]]
    end = begin + 1
    while end < size and end - begin < RUN_LIMIT and classes_[codes[end]] == class_:
        end += 1
    if class_ == _SPACE and end < size and end - at > 1 and classes_[codes[end]] != _SPACE:
        return end - 1  # the last space belongs to what follows
    return end


@compiled
def _slot(codes: Any, at: int, end: int, pool: Any, ends: Any, slots: Any) -> int:
    """The slot of this word in the hash table: taken by it, or free for it."""
    digest = np.uint64(end - at)
    for i in range(at, end):
        digest = (digest ^ np.uint64(codes[i])) * _MIX
        digest ^= digest >> np.uint64(29)
    mask = len(slots) - 1
    slot = np.int64(digest >> np.uint64(1)) & mask
    while slots[slot] != 0:
        number = slots[slot] - 1
        begin = ends[number - 1] if number > 0 else 0
        if ends[number] - begin == end - at:
            same = True
            for i in range(end - at):
                if pool[begin + i] != codes[at + i]:
                    same = False
                    break
            if same:
                return int(slot)
        slot = (slot + 1) & mask
    return int(slot)


@compiled
def _count(codes: Any, at: int, end: int, pool: Any, ends: Any, counts: Any, slots: Any, used: Any) -> int:
    """One more of this word; its number."""
    slot = _slot(codes, at, end, pool, ends, slots)
    if slots[slot] == 0:
        for i in range(at, end):
            pool[used[1]] = codes[i]
            used[1] += 1
        ends[used[0]] = used[1]
        counts[used[0]] = 0
        used[0] += 1
        slots[slot] = used[0]
    counts[slots[slot] - 1] += 1
    return int(slots[slot] - 1)


@compiled
def _absorb(codes: Any, bounds: Any, more: Any, pool: Any, ends: Any, counts: Any, slots: Any, used: Any) -> Any:
    """Count words that lie one behind the other, each to its bound; their numbers."""
    numbers = np.empty(len(bounds), np.int32)
    at = 0
    for word in range(len(bounds)):
        numbers[word] = _count(codes, at, bounds[word], pool, ends, counts, slots, used)
        counts[numbers[word]] += more[word] - 1
        at = bounds[word]
    return numbers


@compiled
def _rehash(pool: Any, ends: Any, slots: Any, number: int) -> None:
    """Put the first `number` words into an empty table."""
    for word in range(number):
        begin = ends[word - 1] if word > 0 else 0
        slots[_slot(pool, begin, ends[word], pool, ends, slots)] = word + 1
