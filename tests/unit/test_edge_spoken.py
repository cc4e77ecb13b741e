import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.edge.spoken import Spoken

words = st.text("abé🌊 \n", max_size=30)


def said(micro, text, stops=()):
    """The pieces that a text of these words comes out in, token by token, and whether it stopped."""
    spoken = Spoken(micro.encoder, stops)
    pieces = [spoken.push([token]) for token in micro.encoder.encode(text).tolist()]
    return [*pieces, spoken.finish()], spoken.stopped


def test_a_character_of_many_bytes_comes_whole(micro):
    pieces, _ = said(micro, "a🌊b")
    assert "".join(pieces) == "a🌊b"
    assert "" in pieces


def test_nothing_of_a_stop_text_and_nothing_after_it_is_said(micro):
    pieces, stopped = said(micro, "one two END three", ["END"])
    assert ("".join(pieces), stopped) == ("one two ", True)


def test_what_only_looked_like_a_stop_text_is_said_after_all(micro):
    assert "".join(said(micro, "one EN two", ["END"])[0]) == "one EN two"
    assert "".join(said(micro, "one EN", ["END"])[0]) == "one EN"


@pytest.mark.parametrize("stops", [["ab", "b"], ["b", "ab"]])
def test_the_earliest_of_several_stop_texts_ends_it(micro, stops):
    assert "".join(said(micro, "xxab", stops)[0]) == "xx"


@given(text=words, stops=st.lists(st.text("abé🌊 \n", min_size=1, max_size=3), max_size=3))
def test_the_pieces_together_are_the_text_up_to_its_first_stop(micro, text, stops):
    pieces, stopped = said(micro, text, stops)
    ends = [found for found in map(text.find, stops) if found >= 0]
    assert "".join(pieces) == text[: min(ends, default=len(text))]
    assert stopped is bool(ends)


@given(text=words, stops=st.lists(st.text("abé🌊 \n", min_size=1, max_size=3), max_size=3))
def test_nothing_that_was_said_ever_ends_with_what_a_stop_text_would_take_back(micro, text, stops):
    pieces, _ = said(micro, text, stops)
    so_far = ""
    for piece in pieces[:-1]:
        so_far += piece
        assert not any(stop in so_far for stop in stops)
