import json
import runpy
from pathlib import Path

import pytest

from common.wire import crystals, export, layout, packet_vectors
from common.wire.codec import unpack
from common.wire.messages import MESSAGES

ROOT = Path(__file__).resolve().parents[2]
WIRE = ROOT / "docs" / "wire"


@pytest.fixture(scope="module")
def files():
    return export.render()


def test_the_committed_wire_documents_are_what_the_code_says(files):
    assert {name: (WIRE / name).read_bytes() for name in files} == files


def test_no_generated_document_is_left_over(files):
    found = {path.relative_to(WIRE).as_posix() for path in WIRE.rglob("*") if path.is_file()}
    assert found == {*files, *packet_vectors.render(), "README.md", "packet.md"}


def test_the_packets_of_the_documents_are_what_the_code_says():
    vectors = packet_vectors.render()
    assert {name: (WIRE / name).read_bytes() for name in vectors} == vectors
    page = (WIRE / "packet.md").read_text(encoding="utf-8")
    assert layout.drawn(page) == page


def test_the_drawing_of_the_golden_packet_covers_each_of_its_bytes():
    page = (WIRE / "packet.md").read_text(encoding="utf-8")
    block = page.split("made by `make docs` -->")[1].split("<!-- end")[0]
    rows = [line.split()[:2] for line in block.splitlines() if line.strip()[:1].isdigit()]
    at = 0
    for start, size in rows:
        assert int(start) == at
        at += int(size)
    assert at == len(export.golden_packet())


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="substring not found"):
        layout.drawn("# The sleep packet\n")


def test_rendering_twice_gives_the_same_bytes(files):
    assert export.render() == files


def test_every_message_has_a_schema_and_a_vector_in_both_forms(files):
    assert [type(message) for message in export.golden()] == list(MESSAGES)
    for message in export.golden():
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(message).__name__).lstrip("_")
        assert unpack(type(message), files[f"vectors/{name}.msgpack"]) == message
        assert unpack(type(message), files[f"vectors/{name}.json"]) == message
        assert set(json.loads(files[f"schemas/{name}.json"])["properties"]) == set(type(message).model_fields)


def test_the_golden_crystals_are_one_blob_on_every_machine(files):
    facts = json.loads(files["vectors/crystals.json"])
    assert files["vectors/crystals.bin"].hex() == facts["blob"]
    assert crystals.encode(export.golden_crystals(), facts["vocab_size"]).hex() == facts["blob"]


def test_export_writes_every_file(files, tmp_path):
    export.export(tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == set(files)


def test_the_pages_name_every_code_with_which_a_message_is_refused():
    text = (WIRE / "README.md").read_text() + (WIRE / "packet.md").read_text()
    for code in (
        "oversized",
        "garbage",
        "wrong_version",
        "unknown_field",
        "bad_field",
        "not_canonical",
        "packet_too_large",
        "bad_signature",
        "part_digest",
        "bad_crystals",
        "too_many_entries",
        "wrong_vocabulary",
    ):
        assert f"`{code}`" in text


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"old")])
def test_the_docs_script_names_a_stale_file_and_mends_it(damage, tmp_path, monkeypatch, capsys):
    script = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
    monkeypatch.setitem(script["main"].__globals__, "ROOT", tmp_path)
    assert script["main"]([]) == 0
    assert script["main"](["--check"]) == 0
    damage(tmp_path / "docs" / "wire" / "vectors" / "query.json")
    assert script["main"](["--check"]) == 1
    assert "docs/wire/vectors/query.json is stale" in capsys.readouterr().err
    assert script["main"]([]) == 0
    assert script["main"](["--check"]) == 0
