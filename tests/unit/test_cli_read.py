import io
import sys

import pytest

from common.errors import Rejected, Unavailable
from common.wire.fields import QUERY_MAX_CHARS
from common.wire.inference import Answer
from services.cli import ask, read
from services.cli.app.ending import EXIT_INTERRUPTED
from services.edge.sleep import IDLE_SPREAD


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n \n", []),
        ("short", ["short"]),
        ("one two.\n\nthree", ["one two.\n\n", "three"]),
        ("one two\nthree", ["one two\n", "three"]),
        ("one two three", ["one two ", "three"]),
        ("a" * 25, ["a" * 10, "a" * 10, "a" * 5]),
        ("a b" + "c" * 10, ["a b" + "c" * 7, "ccc"]),
    ],
    ids=["nothing", "white space", "short", "paragraphs", "lines", "words", "no place", "too early a place"],
)
def test_a_text_is_cut_where_it_hurts_least(text, expected):
    assert list(read.pieces(text, 10)) == expected


def test_no_piece_is_longer_than_asked_and_no_letter_is_lost():
    text = "\n\n".join(f"Chapter {number}. " + "word " * number for number in range(200))
    cut = list(read.pieces(text))
    assert max(map(len, cut)) <= read.PIECE_CHARS < QUERY_MAX_CHARS
    assert "".join(cut) == text


def answer(bits, size, node, bundle):
    fields = {"query_id": "q", "client": "c", "text": "", "finish": "read", "prompt_bits": bits, "prompt_bytes": size}
    return Answer(**fields, node=node, bundle=bundle)


def test_a_reading_weighs_each_text_by_its_bytes():
    found = read.reading([answer(30.0, 10, "edge-2", 4), answer(30.0, 20, "edge-1", 3), answer(0.0, 0, "edge-1", 3)])
    assert found == read.Reading(3, 30, 2.0, (3, 4), ("edge-1", "edge-2"))


def given(files, tmp_path):
    return read.run(files, store=True, timeout_s=1.0, home=tmp_path, json=False)


def test_what_cannot_be_read_is_refused_before_any_broker_is_asked(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "latin").write_bytes("na\u00efve".encode("latin-1"))
    with pytest.raises(Rejected, match=r"bad_argument: there is no text in .*empty"):
        given([tmp_path / "empty"], tmp_path)
    with pytest.raises(Rejected, match=r"no_text: .*latin is no UTF-8 text \(byte 2\); .*iconv -f latin1"):
        given([tmp_path / "latin"], tmp_path)
    (tmp_path / "binary").write_bytes(b"PK\0\1")
    with pytest.raises(Rejected, match=r"no_text: .*binary is binary, no text: byte 2 is NUL"):
        given([tmp_path / "binary"], tmp_path)
    with pytest.raises(Unavailable, match=r"no_file: cannot read .*gone: No such file"):
        given([tmp_path / "gone"], tmp_path)


def test_a_text_on_standard_input_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The sea was calm")))
    with pytest.raises(Unavailable, match="no_broker"):  # after the text
        given([read.Path("-")], tmp_path)


def test_a_question_that_is_no_utf_8_is_refused_with_what_converts_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"na\xefve"), encoding="utf-8"))
    with pytest.raises(Rejected, match=r"no_text: standard input is no UTF-8 text \(byte 2\); .*iconv"):
        ask.run({"text": "-"}, timeout_s=1.0, home=tmp_path, json=False)


def test_a_closed_standard_input_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(Rejected, match="no_text: standard input is closed"):
        ask.run({"text": "-"}, timeout_s=1.0, home=tmp_path, json=False)
    with pytest.raises(Rejected, match="no_text: standard input is closed"):
        given([read.Path("-")], tmp_path)


def test_a_question_that_is_too_long_is_sent_to_qig_read(tmp_path):
    with pytest.raises(Rejected, match=r"at most 16,384 characters, this one 16,385: .*read FILE --home"):
        ask.run({"text": "a" * (QUERY_MAX_CHARS + 1)}, timeout_s=1.0, home=tmp_path, json=False)


@pytest.mark.parametrize(("size", "too_little"), [(19_999, True), (20_000, False), (20_001, False)])
def test_a_text_too_small_for_a_sleep_is_said_to_be(tmp_path, size, too_little):
    lines = "\n".join(read._lines(read.reading([answer(1.0, size, "edge-1", 3)]), True, tmp_path))
    assert ("too little for a sleep on its own: an edge wants 20 KB" in lines) == too_little


def test_who_gave_a_text_to_learn_from_is_told_what_comes_next_and_when(tmp_path):
    lines = "\n".join(read._lines(read.reading([answer(1.0, 120_000, "edge-1", 3)]), True, tmp_path))
    assert f"with 20 KB of new text sleeps once idle for 5 to {5 * (1 + IDLE_SPREAD):g} s" in lines
    assert "a batch of 8 packets, or of fewer 60 s after the first" in lines
    assert "bundle list --home" in lines


def test_who_gave_a_text_that_is_not_to_be_learned_is_told_nothing_of_it(tmp_path):
    assert len(list(read._lines(read.reading([answer(1.0, 120_000, "edge-1", 3)]), False, tmp_path))) == 1


@pytest.mark.parametrize(("read_before", "told"), [(0, "nobody"), (2, "nobody; 2 of 5 texts were read; what an edge")])
def test_what_fails_half_way_says_how_much_was_read(tmp_path, monkeypatch, read_before, told):
    async def fails(_url, _texts, *, tell, **_):
        for number in range(read_before):
            tell(number + 1)
        raise Unavailable("no_answer", "nobody")

    monkeypatch.setattr(read, "find_url", str)
    monkeypatch.setattr(read, "_read", fails)
    (tmp_path / "long").write_text("word " * read.PIECE_CHARS)
    with pytest.raises(Unavailable) as failed:
        given([tmp_path / "long"], tmp_path)
    assert failed.value.message.startswith(told)
    assert ("texts were read" in failed.value.message) == bool(read_before)


def test_who_cancels_is_told_how_many_of_the_texts_were_read(tmp_path, monkeypatch, capsys):
    async def cancelled_after_the_first(_url, _texts, *, tell, **_):
        tell(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(read, "find_url", str)
    monkeypatch.setattr(read, "_read", cancelled_after_the_first)
    (tmp_path / "long").write_text("word " * read.PIECE_CHARS)  # five pieces
    assert given([tmp_path / "long"], tmp_path) == EXIT_INTERRUPTED
    assert "cancelled: 1 of 5 texts were read; what an edge has read is learned" in capsys.readouterr().err
    read.run([tmp_path / "long"], store=False, timeout_s=1.0, home=tmp_path, json=False)
    assert "cancelled: 1 of 5 texts were read\n" in capsys.readouterr().err
