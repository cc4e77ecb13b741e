import sys
from collections import Counter
from dataclasses import astuple

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from common.coordizer import words
from common.coordizer.words import PATTERN, RUN_LIMIT, Reader, classes, read_words
from common.errors import Rejected

TEXTS = st.text(alphabet=st.sampled_from("ab1 \n\t.'sé日\x00"), max_size=80)


def pieces(text):
    return regex.findall(PATTERN, text)


def count_words(texts):
    found = read_words(texts)
    ends = found.lengths.cumsum()
    strings = [found.raw[end - size : end].tobytes().decode() for end, size in zip(ends, found.lengths, strict=True)]
    return Counter(dict(zip(strings, found.counts.tolist(), strict=True)))


@settings(max_examples=100)
@given(TEXTS)
def test_the_words_of_a_text_join_to_the_text(text):
    assert "".join(pieces(text)) == text


@settings(max_examples=300)
@given(st.one_of(TEXTS, st.text(alphabet="' sdmtlrve\n\t \u00a0\u3000", max_size=200), st.text()))
def test_the_scanner_finds_the_pieces_of_the_pattern_in_their_order(text):
    reader = Reader()
    numbers = reader.read(text)
    found = reader.words()
    ends = found.lengths.cumsum()
    strings = [found.raw[end - size : end].tobytes().decode() for end, size in zip(ends, found.lengths, strict=True)]
    assert [strings[number] for number in numbers] == pieces(text)


@pytest.mark.parametrize("end", ["", "x", " x", "'s", "'", "'l"])
@pytest.mark.parametrize("length", [RUN_LIMIT - 1, RUN_LIMIT, RUN_LIMIT + 1, 2 * RUN_LIMIT])
def test_spaces_before_a_word_are_cut_as_the_pattern_says(length, end):
    for space in " \n\u3000":
        assert count_words([space * length + end]) == Counter(pieces(space * length + end))


def test_every_character_has_the_class_that_the_pattern_gives_it():
    table = classes()
    for plane in range(0, sys.maxunicode + 1, 1 << 16):
        codes = [code for code in range(plane, plane + (1 << 16)) if not 0xD800 <= code < 0xE000]
        text = "".join(map(chr, codes))
        for number, one in ((1, r"\p{L}"), (2, r"\p{N}"), (3, r"\s")):
            assert [code for code in codes if table[code] == number] == [ord(c) for c in regex.findall(one, text)]


@pytest.mark.parametrize("chunk", [RUN_LIMIT + 2, 100, 1000])
def test_reading_in_chunks_finds_the_same_words(monkeypatch, chunk):
    text = "the cat's  hat \n\n 123" * 40 + "x" * 200 + " " * 150 + "end"
    expected = Counter(pieces(text))
    monkeypatch.setattr(words, "_CHUNK", chunk)
    assert count_words([text]) == expected


@pytest.mark.parametrize(("length", "parts"), [(RUN_LIMIT - 1, 1), (RUN_LIMIT, 1), (RUN_LIMIT + 1, 2)])
@pytest.mark.parametrize("character", ["a", "7", "!", "日"])
def test_a_run_is_cut_at_its_limit(character, length, parts):
    assert len(pieces(character * length)) == parts


def test_counts_add_over_texts():
    assert count_words(["a b", "a"]) == Counter({"a": 2, " b": 1})


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\ude00\ud83d"])
def test_a_lone_surrogate_is_rejected_with_its_place(text):
    with pytest.raises(Rejected, match="lone_surrogate: text 1: lone surrogate U\\+"):
        count_words(["fine", text])


def test_an_astral_character_is_no_lone_surrogate():
    assert count_words(["\U0001f600"]) == Counter({"\U0001f600": 1})


def test_readers_of_the_parts_come_to_the_words_and_numbers_of_one_reader():
    parts = [["the cat sat", "on the mat, the end"], [""], ["a cat sat on é 日本 the 😀"]]
    whole, joined = Reader(), Reader()
    for texts in parts:
        expected = [whole.read(text).tolist() for text in texts]
        own = Reader()
        numbers = [own.read(text) for text in texts]
        here = joined.absorb(own.words())
        assert [here[some].tolist() for some in numbers] == expected
    for one, other in zip(astuple(joined.words()), astuple(whole.words()), strict=True):
        assert one.tolist() == other.tolist()
