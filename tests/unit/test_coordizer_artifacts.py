import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from common.coordizer import artifacts
from common.coordizer.artifacts import (
    FIRST_MERGE,
    JSON_MAX_VALUES,
    PART_MAX_BYTES,
    PARTS,
    TOKEN_MAX_BYTES,
    Coordizer,
    Provenance,
    check_merges,
    digest,
    from_parts,
    lineage,
    prefix,
    printable,
    to_parts,
    token_bytes,
    vocabulary,
)
from common.errors import Corrupt, Rejected
from common.geometry.simplex import to_float16

PROVENANCE = Provenance("ab" * 32, {"vocab": 2, "heart": 1}, {"vocab": 20, "heart": 10}, seed=7)
MERGES = np.array([[116, 104], [FIRST_MERGE, 101], [32, FIRST_MERGE + 1]], np.int32)  # th, the, " the"


def basins(rows=FIRST_MERGE + 3):
    return to_float16(np.random.default_rng(0).dirichlet(np.ones(64), rows))


@pytest.fixture
def coordizer():
    return Coordizer(MERGES.copy(), basins(), 0.5, PROVENANCE)


def resealed(parts, **changed):
    """The parts with some changed, and a manifest that promises just these."""
    parts = parts | {name.replace("__", "."): body for name, body in changed.items()}
    manifest = json.loads(parts["manifest.json"])
    manifest["parts"] = {name: hashlib.sha256(parts[name]).hexdigest() for name in PARTS[:3]}
    return parts | {"manifest.json": json.dumps(manifest).encode()}


def with_manifest(parts, fields):
    manifest = json.loads(parts["manifest.json"]) | fields
    return parts | {"manifest.json": json.dumps(manifest).encode()}


def test_four_parts_make_the_round_trip_bit_for_bit(coordizer):
    parts = to_parts(coordizer)
    back = from_parts(parts)
    assert set(parts) == set(PARTS)
    assert to_parts(back) == parts
    assert (back.merges == coordizer.merges).all()
    assert (back.basins == coordizer.basins).all()
    assert (back.lam, back.provenance) == (coordizer.lam, coordizer.provenance)


def test_a_lineage_is_one_vocabulary_s_and_no_other_s_of_its_size(coordizer):
    merges = coordizer.merges
    assert lineage(merges) == lineage([tuple(pair) for pair in merges.tolist()])
    others = [merges[:-1], merges[::-1], np.concatenate([merges[:-1], merges[:1]]), merges[:0]]
    assert len({lineage(merges), *map(lineage, others)}) == 1 + len(others)


def test_the_parts_are_what_other_programs_read(coordizer, tmp_path):
    parts = to_parts(coordizer)
    (tmp_path / "b.npy").write_bytes(parts["basin_coords.npy"])
    assert (np.load(tmp_path / "b.npy", allow_pickle=False) == coordizer.basins).all()
    assert json.loads(parts["merge_rules.json"]) == MERGES.tolist()
    assert json.loads(parts["vocab.json"])["Ġthe"] == FIRST_MERGE + 2


def test_ids_are_bytes_then_special_tokens_then_merges():
    table = token_bytes(MERGES)
    assert table[:256] == [bytes([byte]) for byte in range(256)]
    assert table[256:259] == [b"", b"", b""]
    assert table[259:] == [b"th", b"the", b" the"]
    assert vocabulary(MERGES) == {printable(t): i for i, t in enumerate(table) if t} | artifacts.SPECIALS


def test_the_byte_alphabet_is_one_visible_character_a_byte():
    forms = [printable(bytes([byte])) for byte in range(256)]
    assert len(set(forms)) == 256
    assert all(form.isprintable() and not form.isspace() for form in forms)


@pytest.mark.parametrize("size", [FIRST_MERGE, FIRST_MERGE + 1, FIRST_MERGE + 3])
def test_a_prefix_keeps_ids_and_basins_and_names_its_parent(coordizer, size):
    cut = prefix(coordizer, size)
    assert cut.vocab_size == size
    assert token_bytes(cut.merges) == token_bytes(coordizer.merges)[:size]
    assert (cut.basins == coordizer.basins[:size]).all()
    assert cut.provenance.parent == (None if size == coordizer.vocab_size else digest(coordizer))


@pytest.mark.parametrize("size", [FIRST_MERGE - 1, FIRST_MERGE + 4])
def test_a_prefix_is_never_longer_than_the_whole_nor_shorter_than_the_bytes(coordizer, size):
    with pytest.raises(Rejected, match="vocab_size"):
        prefix(coordizer, size)


@pytest.mark.parametrize("name", PARTS[:3])
def test_a_flipped_bit_is_corrupt(coordizer, name):
    parts = to_parts(coordizer)
    body = bytearray(parts[name])
    body[len(body) // 2] ^= 1
    with pytest.raises(Corrupt, match=f"part_digest: {name}"):
        from_parts(parts | {name: bytes(body)})


@pytest.mark.parametrize("name", PARTS)
def test_a_missing_part_is_rejected(coordizer, name):
    parts = to_parts(coordizer)
    del parts[name]
    with pytest.raises(Rejected, match=f"{name} is missing"):
        from_parts(parts)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_above_its_limit_is_rejected_before_it_is_read(coordizer, name):
    with pytest.raises(Rejected, match="the limit is"):
        from_parts(to_parts(coordizer) | {name: b" " * (PART_MAX_BYTES + 1)})


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b"[]", b"null"])
def test_a_manifest_that_is_no_object_is_rejected(coordizer, body):
    with pytest.raises(Rejected, match="bad_artifact"):
        from_parts(to_parts(coordizer) | {"manifest.json": body})


@pytest.mark.parametrize(
    "fields",
    [
        {"format": "other"},
        {"v": 2},
        {"pattern": "."},
        {"specials": {}},
        {"parts": []},
        {"provenance": None},
        {"lam": -0.1},
        {"lam": "0.5"},
        {"lam": True},
        {"provenance": {"documents": {}, "size_bytes": {}, "seed": 0}},
        {"provenance": {"corpus_sha256": "", "documents": {"cook": 1}, "size_bytes": {}, "seed": 0}},
        {"provenance": {"corpus_sha256": "", "documents": {}, "size_bytes": {"heart": -1}, "seed": 0}},
    ],
)
def test_a_manifest_with_a_wrong_field_is_rejected(coordizer, fields):
    with pytest.raises(Rejected, match=r"bad_artifact: manifest\.json"):
        from_parts(with_manifest(to_parts(coordizer), fields))


@pytest.mark.parametrize(
    "rules", [b"{}", b"[[1]]", b"[[1,2,3]]", b"[[1,-1]]", b"[[1,32768]]", b"[[1,2.0]]", b"[[true,1]]", b"[1,2]", b"x"]
)
def test_merge_rules_of_the_wrong_form_are_rejected(coordizer, rules):
    with pytest.raises(Rejected, match=r"bad_artifact: merge_rules\.json"):
        from_parts(resealed(to_parts(coordizer), merge_rules__json=rules))


def test_a_vocabulary_that_is_not_the_merges_own_is_rejected(coordizer):
    with pytest.raises(Rejected, match="json does not list"):
        from_parts(resealed(to_parts(coordizer), vocab__json=b'{"a":97}'))


def test_a_forged_array_header_allocates_nothing(coordizer):
    parts = to_parts(coordizer)
    forged = parts["basin_coords.npy"].replace(b"(262, 64), ", b"(99999999, 64), ")
    wide = parts["basin_coords.npy"].replace(b"(262, 64), }   ", b"(262000, 64), }")
    torn = parts["basin_coords.npy"].replace(b"(262, 64), ", b'""", }     ')  # of which numpy's own reader raises more
    deep = parts["basin_coords.npy"].replace(b"(262, 64), ", b"-" * 11)
    for body in (forged, wide, torn, deep, b"\x93NUMPY", b"", parts["basin_coords.npy"][:-2]):
        with pytest.raises(Rejected, match=r"bad_artifact: basin_coords\.npy"):
            from_parts(resealed(parts, basin_coords__npy=body))


@pytest.mark.parametrize(("more", "told"), [(0, "no list of"), (1, "values")])
def test_json_of_so_many_values_is_read_and_no_more(coordizer, more, told):
    rules = b"[" + b",".join([b"0"] * (JSON_MAX_VALUES + more)) + b"]"
    with pytest.raises(Rejected, match=told):
        from_parts(resealed(to_parts(coordizer), merge_rules__json=rules))


@pytest.mark.parametrize("pair", [[-1, 97], [97, 256], [258, 97], [FIRST_MERGE + 3, 97], [97, 1 << 14]])
def test_a_merge_of_anything_but_bytes_and_earlier_merges_is_rejected(pair):
    with pytest.raises(Rejected, match="bad_merges: merge 3 joins"):
        check_merges(np.vstack([MERGES, np.array([pair], np.int32)]))


def test_two_ids_for_one_string_are_rejected():
    twice = np.array([[97, 98], [98, 99], [259, 99], [97, 260]], np.int32)  # ab, bc, ab+c, a+bc
    check_merges(twice[:3])
    with pytest.raises(Rejected, match="two ids"):
        check_merges(twice)


@pytest.mark.parametrize(
    ("length", "fine"), [(TOKEN_MAX_BYTES - 1, True), (TOKEN_MAX_BYTES, True), (TOKEN_MAX_BYTES + 1, False)]
)
def test_a_token_longer_than_any_word_is_rejected(length, fine):
    chain = np.array([[97 if n == 0 else FIRST_MERGE + n - 1, 97] for n in range(length - 1)], np.int32)
    if fine:
        check_merges(chain)
    else:
        with pytest.raises(Rejected, match=f"makes {length} bytes"):
            check_merges(chain)


def test_doubling_merges_are_stopped_before_their_strings_are_built():
    doubling = np.array([[97 if n == 0 else FIRST_MERGE + n - 1] * 2 for n in range(60)], np.int32)
    with pytest.raises(Rejected, match="the limit is"):
        check_merges(doubling)


def test_equal_basins_are_rejected():
    twins = basins()
    twins[5] = twins[9]
    with pytest.raises(Rejected, match="1 basins equal"):
        Coordizer(MERGES.copy(), twins, 0.5, PROVENANCE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.25, 0.5])
def test_basins_off_the_simplex_are_rejected(value):
    off = basins()
    off[3, 0] = value
    with pytest.raises(Rejected, match="off_simplex"):
        Coordizer(MERGES.copy(), off, 0.5, PROVENANCE)


@pytest.mark.parametrize("rows", [FIRST_MERGE + 2, FIRST_MERGE + 4])
def test_basins_for_another_number_of_tokens_are_rejected(rows):
    with pytest.raises(Rejected, match="bad_basins"):
        Coordizer(MERGES.copy(), basins(rows), 0.5, PROVENANCE)


def test_a_coordizer_cannot_be_changed(coordizer):
    with pytest.raises(ValueError, match="read-only"):
        coordizer.merges[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        coordizer.basins[0, 0] = 1


def test_the_digest_covers_everything(coordizer):
    other = basins()
    other[[0, 1]] = other[[1, 0]]
    changed = [
        Coordizer(MERGES[:2].copy(), basins()[:-1], 0.5, PROVENANCE),
        Coordizer(MERGES.copy(), other, 0.5, PROVENANCE),
        Coordizer(MERGES.copy(), basins(), 0.25, PROVENANCE),
        Coordizer(MERGES.copy(), basins(), 0.5, replace(PROVENANCE, seed=8)),
    ]
    assert len({digest(coordizer), *map(digest, changed)}) == 5
