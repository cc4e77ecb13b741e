import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.client.draft import Draft, complaint, ending, extended
from common.errors import Rejected, Unavailable
from common.wire.fields import ANSWER_MAX_CHARS, PIECE_MAX_CHARS
from common.wire.inference import Answer, Piece, Problem


def piece(index, text="a", node="edge-1", tokens=1):
    return Piece(query_id="q", client="c", node=node, index=index, text=text, tokens=tokens)


def answer(text="", **changed):
    known = {"query_id": "q", "client": "c", "node": "edge-1", "bundle": 1, "finish": "stop"}
    return Answer(**{**known, "text": text, **changed})


def drafted(pieces):
    """The draft of all that follows, and the pieces that a reader was given."""
    so_far, given_out = Draft(), []
    for each in pieces:
        longer = extended(so_far, each)
        if longer is not None:
            so_far = longer
            given_out.append(each)
    return so_far, given_out


def read(pieces):
    """As a reader puts them together: index 0 begins anew."""
    text = ""
    for each in pieces:
        text = each.text if each.index == 0 else text + each.text
    return text


def test_pieces_in_order_are_the_text():
    assert drafted([piece(0, "Zum "), piece(1, "Meer", tokens=2)])[0] == Draft("edge-1", 2, "Zum Meer", 3)


@pytest.mark.parametrize("late", [piece(1), piece(3), piece(2, node="edge-2")], ids=["seen", "gap", "another edge's"])
def test_a_piece_that_does_not_follow_is_none(late):
    so_far, _ = drafted([piece(0), piece(1)])
    assert extended(so_far, late) is None


def test_a_piece_that_comes_twice_is_given_once():
    assert drafted([piece(0), piece(0), piece(1), piece(1)])[1] == [piece(0), piece(1)]


def test_index_0_begins_anew_and_the_edge_that_lost_the_query_is_not_heard_any_more():
    said = [piece(0, "old"), piece(0, "new", "edge-2"), piece(1, "old"), piece(1, "er", "edge-2")]
    assert drafted(said)[0].text == "newer"


@pytest.mark.parametrize(
    ("so_far", "fits"),
    [
        (Draft("edge-1", 5, "a" * (ANSWER_MAX_CHARS - 1)), True),
        (Draft("edge-1", 5, "a" * ANSWER_MAX_CHARS), False),
        (Draft("edge-1", ANSWER_MAX_CHARS - 1), True),
        (Draft("edge-1", ANSWER_MAX_CHARS), False),
    ],
)
def test_a_draft_grows_to_the_size_of_an_answer_and_not_beyond(so_far, fits):
    assert (extended(so_far, piece(so_far.index)) is not None) is fits


def test_the_ending_is_what_the_pieces_did_not_say():
    so_far, _ = drafted([piece(0, "Zum ")])
    assert list(ending(so_far, answer("Zum Meer", completion_tokens=3))) == [piece(1, "Meer", tokens=2)]


def test_an_answer_without_any_piece_is_said_whole_in_pieces_of_the_bounded_size():
    said = list(ending(Draft(), answer("a" * (PIECE_MAX_CHARS + 1), completion_tokens=9)))
    assert [(each.index, len(each.text), each.tokens) for each in said] == [(0, PIECE_MAX_CHARS, 9), (1, 1, 0)]


def test_nothing_is_missing_from_a_whole_draft():
    assert list(ending(drafted([piece(0, "all")])[0], answer("all"))) == []


@pytest.mark.parametrize("text", ["other words", ""])
def test_an_answer_of_other_words_than_its_pieces_begins_anew(text):
    so_far, given_out = drafted([piece(0, "lost with its edge")])
    assert read([*given_out, *ending(so_far, answer(text))]) == text


NODES = st.sampled_from(["edge-1", "edge-2"])
PIECES = st.lists(st.builds(piece, st.integers(0, 3), st.text(max_size=3), NODES, st.integers(0, 2)), max_size=20)


@given(PIECES, st.text(max_size=10))
def test_whatever_comes_a_reader_ends_with_the_answers_text(pieces, text):
    so_far, given_out = drafted(pieces)
    assert read(given_out) == so_far.text
    assert read([*given_out, *ending(so_far, answer(text))]) == text


@given(PIECES)
def test_a_reader_is_never_given_a_gap(pieces):
    indices = [each.index for each in drafted(pieces)[1]]
    assert all(after in (0, before + 1) for before, after in zip([-1, *indices], indices, strict=False))


def test_an_answer_without_a_problem_is_no_error():
    assert complaint(answer("fine")) is None


@pytest.mark.parametrize(
    ("finish", "retry_after_s", "kind"),
    [
        ("refused", None, Rejected),
        ("refused", 0.0, Unavailable),
        ("refused", 2.5, Unavailable),
        ("cancelled", None, Unavailable),
    ],
)
def test_a_problem_is_the_error_that_it_was_at_the_edge(finish, retry_after_s, kind):
    problem = Problem(code="overloaded", message="ask later", retry_after_s=retry_after_s)
    error = complaint(answer(finish=finish, problem=problem))
    assert type(error) is kind
    assert (error.code, error.message) == ("overloaded", "ask later")
    assert getattr(error, "retry_after_s", None) == retry_after_s
