"""Documents: files of them, their split by content, their near duplicates."""

import gzip
import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import Corrupt, Rejected, Unavailable
from services.trainer.corpora.document import compress, digest, documents, make, pack
from services.trainer.corpora.duplicates import deduplicate, overlap, shingles
from services.trainer.corpora.passages import MIN_BYTES, TARGET_BYTES, passages, sentences
from services.trainer.corpora.split import part_of, split

WORDS = [f"{first}{last}" for first in "abcdefghij" for last in ("ra", "lo", "mi", "tu", "ke")]


def prose(seed, words=300):
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def write(root, rows, domain="heart"):
    path = root / f"{domain}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compress(pack(rows)))
    return path


def test_written_documents_are_read_back_with_the_last_part_of_the_name_as_their_domain(tmp_path):
    rows = [
        make("scripture", "made", "one", "In the beginning\nwas é"),
        make("scripture", "made", "two", "and the end"),
    ]
    write(tmp_path, rows, "unseen/scripture")
    assert documents("unseen/scripture", root=tmp_path) == rows
    assert documents("scripture", root=tmp_path / "unseen") == rows


def test_the_same_documents_give_the_same_bytes_without_a_time_in_them():
    rows = [make("heart", "made", "one", prose(1))]
    assert compress(pack(rows)) == compress(pack(rows))
    assert compress(b"x")[4:8] == bytes(4)


@pytest.mark.parametrize("name", ["../heart", "a/b/c", "/etc/passwd", "Heart", "", "a" * 65, "heart\n"])
def test_a_domain_that_is_no_slug_never_becomes_a_path(name, tmp_path):
    with pytest.raises(Rejected, match="unknown_domain"):
        documents(name, root=tmp_path)


def test_a_domain_without_a_file_is_unavailable_and_named(tmp_path):
    with pytest.raises(Unavailable, match="'vocab'"):
        documents("vocab", root=tmp_path)


def test_a_truncated_file_is_corrupt(tmp_path):
    path = write(tmp_path, [make("heart", "made", "one", prose(1))])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Corrupt, match="no whole gzip"):
        documents("heart", root=tmp_path)


def test_a_changed_text_no_longer_matches_its_id(tmp_path):
    path = write(tmp_path, [make("heart", "made", "one", "a quiet sea")])
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"quiet", b"wild!")))
    with pytest.raises(Corrupt, match="does not match its text"):
        documents("heart", root=tmp_path)


@pytest.mark.parametrize("change", [{"title": 3}, {"extra": "x"}, {"parent": "zz"}, {"parent": "../x"}])
def test_a_row_of_another_shape_is_corrupt(change, tmp_path):
    row = json.loads(pack([make("heart", "made", "one", "a quiet sea")])) | change
    (tmp_path / "heart.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    with pytest.raises(Corrupt, match="corpus_file"):
        documents("heart", root=tmp_path)


@pytest.mark.parametrize("content", [b"not json\n", b"[1]\n", b"\xff\n"])
def test_a_line_that_is_no_object_is_corrupt(content, tmp_path):
    (tmp_path / "heart.jsonl.gz").write_bytes(gzip.compress(content))
    with pytest.raises(Corrupt, match="corpus_file"):
        documents("heart", root=tmp_path)


@pytest.mark.parametrize(("room", "fits"), [(-1, False), (0, True), (1, True)])
def test_a_file_is_refused_just_above_its_size_limit(room, fits, tmp_path, monkeypatch):
    rows = [make("heart", "made", "one", prose(1))]
    write(tmp_path, rows)
    monkeypatch.setattr("services.trainer.corpora.document.FILE_MAX_BYTES", len(pack(rows)) + room)
    if fits:
        assert documents("heart", root=tmp_path) == rows
    else:
        with pytest.raises(Corrupt, match="unpacks to more"):
            documents("heart", root=tmp_path)


def test_white_space_does_not_change_a_digest_and_a_letter_does():
    assert digest("a quiet  sea\n") == digest("a\nquiet sea")
    assert digest("a quiet sea") != digest("a quiet Sea")


@pytest.mark.parametrize(
    ("bucket", "part"),
    [(0, "held_out"), (4, "held_out"), (5, "validation"), (9, "validation"), (10, "train"), (99, "train")],
)
def test_the_parts_meet_at_five_and_ten_of_a_hundred(bucket, part):
    assert part_of(f"{1_234_500 + bucket:064x}") == part


def test_the_digest_decides_the_part_and_this_is_frozen():
    found = [part_of(digest(f"text {number}")) for number in range(40)]
    assert [number for number, part in enumerate(found) if part != "train"] == [0, 8, 31]


@given(st.sets(st.integers(0, 10**6), max_size=40), st.randoms())
@settings(max_examples=30)
def test_a_split_loses_nothing_and_does_not_look_at_the_order(numbers, rng):
    rows = [make("heart", "made", "t", f"text {number}") for number in numbers]
    shuffled = rng.sample(rows, len(rows))
    one, other = split(rows), split(shuffled)
    for part in ("train", "validation", "held_out"):
        assert sorted(row.id for row in getattr(one, part)) == sorted(row.id for row in getattr(other, part))
    assert len(one.train) + len(one.validation) + len(one.held_out) == len(rows)


def test_parts_of_one_parent_stay_together():
    rows = [make("heart", "made", str(number), prose(number), parent=digest("text 7")) for number in range(30)]
    assert len({len(split(rows).train), len(split(rows).validation), len(split(rows).held_out)} - {0}) == 1


def test_an_exact_duplicate_goes_even_with_other_white_space_and_under_five_words():
    rows = [
        make("heart", "made", "1", "a sea"),
        make("heart", "made", "2", "a  sea\n"),
        make("heart", "made", "3", "b"),
    ]
    assert [row.title for row in deduplicate(rows)] == ["1", "3"]


def test_a_duplicate_with_other_case_and_marks_goes():
    rows = [make("heart", "made", "1", prose(1)), make("heart", "made", "2", prose(1).upper().replace(" ", ", "))]
    assert [row.title for row in deduplicate(rows)] == ["1"]


@pytest.mark.parametrize("every", [1, 8])
@pytest.mark.parametrize("excerpt_first", [True, False])
def test_an_excerpt_of_a_third_is_caught_in_either_order(every, excerpt_first):
    rows = [
        make("heart", "made", "whole", prose(1, 600)),
        make("heart", "made", "part", " ".join(prose(1, 600).split()[200:400])),
    ]
    assert len(list(deduplicate(rows[::-1] if excerpt_first else rows, every=every))) == 1


@pytest.mark.parametrize(("shared", "kept"), [(34, 2), (35, 2), (36, 1)])
def test_a_document_is_dropped_just_above_the_limit_of_shared_shingles(shared, kept):
    first, second = prose(1, 104).split(), prose(2, 104).split()
    mixed = first[: shared + 4] + second[shared + 4 :]
    assert len(shingles(" ".join(mixed))) == 100
    rows = [make("heart", "made", "1", " ".join(first)), make("heart", "made", "2", " ".join(mixed))]
    assert len(list(deduplicate(rows, limit=0.35))) == kept


def test_formulas_spread_over_many_documents_do_not_make_a_duplicate():
    pieces = [prose(seed, 30) for seed in range(10)]
    rows = [make("heart", "made", str(seed), f"{piece} {prose(seed + 100, 270)}") for seed, piece in enumerate(pieces)]
    rows.append(make("heart", "made", "all", " ".join(pieces)))
    assert len(list(deduplicate(rows))) == 11


def test_different_documents_are_all_kept_in_order():
    rows = [make("heart", "made", str(seed), prose(seed)) for seed in range(20)]
    assert list(deduplicate(rows, every=8)) == rows


def test_a_sample_of_shingles_is_a_subset_of_about_the_asked_share():
    every, eighth = shingles(prose(1, 4000)), shingles(prose(1, 4000), every=8)
    assert set(eighth.tolist()) <= set(every.tolist())
    assert 0.1 < len(eighth) / len(every) < 0.15


def test_overlap_is_the_share_of_the_first_in_the_second():
    own, known = np.array([1, 2, 3, 9], np.uint64), np.array([2, 3, 4], np.uint64)
    assert overlap(own, known) == 0.5
    assert overlap(own, own) == 1.0
    assert overlap(own, own[:0]) == overlap(own[:0], own) == 0.0


@given(st.lists(st.text("ab .é", min_size=1, max_size=900), min_size=1, max_size=12))
@settings(max_examples=60)
def test_passages_keep_every_letter_in_order_and_stay_within_their_bounds(units):
    texts = passages(units, "\n")
    assert re.sub(r"\s", "", "".join(texts)) == re.sub(r"\s", "", "".join(units))
    assert all(len(text.encode()) <= TARGET_BYTES + MIN_BYTES for text in texts)


def test_a_short_last_passage_joins_the_one_before_it_and_a_long_one_stays():
    assert [len(text) for text in passages(["a" * 1500, "b" * (MIN_BYTES - 1)], "\n")] == [1500 + MIN_BYTES]
    assert [len(text) for text in passages(["a" * 1500, "b" * MIN_BYTES], "\n")] == [1500, MIN_BYTES]


def test_a_passage_is_full_at_its_target_and_a_byte_more_starts_the_next():
    assert [len(text) for text in passages(["a" * 999, "b" * 1000], "\n")] == [TARGET_BYTES]
    assert [len(text) for text in passages(["a" * 1000, "b" * 1000], "\n")] == [1000, 1000]


def test_a_paragraph_longer_than_a_passage_is_cut_at_a_sentence():
    sentence = "So we sailed on and on. "
    texts = passages([sentence * 230], "\n")
    assert len(texts) == 3
    assert all(text.startswith("So") and text.endswith("on.") for text in texts)


def test_sentences_end_after_their_marks_and_quotes():
    assert sentences('He said: "Go!" Then he went. Why?') == ["He said:", '"Go!"', "Then he went.", "Why?"]
