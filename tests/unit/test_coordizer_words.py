from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.coordizer import words
from common.coordizer.words import RUN_LIMIT, count_words
from common.errors import Rejected

TEXTS = st.text(alphabet=st.sampled_from("ab1 \n\t.'sé日\x00"), max_size=80)


def pieces(text):
    return words._WORDS.findall(text)


@settings(max_examples=100)
@given(TEXTS)
def test_the_words_of_a_text_join_to_the_text(text):
    assert "".join(pieces(text)) == text


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
