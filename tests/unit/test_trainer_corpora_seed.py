"""The choice of a slice, and the slice that is committed."""

import gzip
import hashlib
import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from common.constants import ROLES
from common.errors import Unavailable
from services.trainer.corpora import seed
from services.trainer.corpora.document import digest, documents, make
from services.trainer.corpora.duplicates import overlap, shingles
from services.trainer.corpora.fetch import lock
from services.trainer.corpora.passages import MIN_BYTES, TARGET_BYTES
from services.trainer.corpora.split import part_of, split

DATA = Path(__file__).parents[2] / "data"
DOMAINS = (*ROLES, "unseen/scripture")
NOTHING = np.empty(0, np.uint64)


@cache
def prose(number, words=250):
    rng = random.Random(number)
    return " ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(words))


@pytest.fixture(scope="module")
def supply():
    return [
        make("heart", "made", f"{parent}/{part}", prose(10 * parent + part), parent=digest(f"parent {parent}"))
        for parent in range(150)
        for part in range(2)
    ]


def take(rows, budget=100_000, name="seed", fit=lambda _: True):
    return seed.choose(rows, budget, name, fit)


@pytest.fixture(scope="module")
def slices():
    return {domain: documents(domain, root=DATA) for domain in DOMAINS}


@pytest.fixture(scope="module")
def fives(slices):
    """The word 5-grams of every committed document."""
    return {row.id: shingles(row.text) for rows in slices.values() for row in rows}


def test_a_choice_does_not_depend_on_the_order_of_the_supply(supply):
    assert take(supply) == take(supply[::-1])
    assert take(supply) != take(supply, name="another seed")


def test_a_choice_fills_each_part_to_its_share(supply):
    chosen = take(supply)
    for part, share in seed.SHARES.items():
        size_bytes = sum(row.size_bytes for row in chosen if part_of(row.parent) == part)
        assert share * 100_000 - 2 * TARGET_BYTES < size_bytes <= share * 100_000


def test_a_choice_takes_one_passage_of_each_parent_before_a_second_of_any(supply):
    order = list(seed.spread(supply, "seed"))
    assert len({row.parent for row in order[:150]}) == 150
    assert sorted(row.id for row in order) == sorted(row.id for row in supply)


def test_a_choice_holds_no_two_passages_that_share_a_tenth(supply):
    halves = supply[::2]
    twins = [make("heart", "made", row.title, row.text[:180] + prose(row.title)[180:]) for row in halves]
    chosen = [row.title for row in take(halves + twins, 120_000)]
    assert len(set(chosen)) == len(chosen) > 60


def test_a_choice_holds_nothing_unfit(supply):
    assert not [row for row in take(supply, fit=lambda row: not row.title.endswith("/1")) if row.title.endswith("/1")]


def test_a_supply_that_cannot_fill_a_part_is_told_apart(supply):
    with pytest.raises(Unavailable, match="corpus_short: held_out lacks"):
        take([row for row in supply if part_of(row.parent) != "held_out"])


@pytest.mark.parametrize(("size", "fit"), [(MIN_BYTES - 1, False), (MIN_BYTES, True)])
def test_only_passages_of_a_kilobyte_are_fit(size, fit):
    assert seed.is_fit(make("heart", "made", "t", prose(1)[:size]), NOTHING) is fit


def test_a_passage_that_quotes_forbidden_text_is_not_fit():
    own = make("heart", "made", "t", prose(1))
    mostly = make("heart", "made", "t", prose(1, 30) + " " + prose(2))
    assert not seed.is_fit(own, shingles(own.text))
    assert not seed.is_fit(mostly, shingles(own.text))
    assert seed.is_fit(own, shingles(prose(2)))


@pytest.fixture
def sources(monkeypatch):
    """Every pinned source yields made-up documents; one poem quotes scripture."""

    def read(source, _path, domain):
        if source == "recipes":
            return [make(domain, source, "Soup", prose(9_999))]
        first = 1000 * list(lock()).index(source)
        rows = [make(domain, source, str(number), prose(number)) for number in range(first, first + 150)]
        quoted = prose(1000 * list(lock()).index("scripture"))
        return [*rows, make(domain, source, "psalm", f"{quoted} {prose(8_888)}")] if source == "poetry" else rows

    monkeypatch.setattr(seed, "extract", read)
    monkeypatch.setattr(seed, "cached", lambda source, cache: cache / source.file)
    monkeypatch.setattr(seed, "SLICE_BYTES", 30_000)


def titles(domain, root):
    return {row.title for row in documents(domain, root=root)}


def test_a_built_slice_has_the_same_bytes_each_time_and_a_manifest(sources, tmp_path):
    for name in ("one", "two"):
        built = seed.build_seed(tmp_path / "cache", tmp_path / name, lambda *_: None)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    assert len(files) == len(built) + 1 == 6
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_built_slice_holds_neither_share_alike_text_nor_scripture_in_a_role(sources, tmp_path):
    seed.build_seed(tmp_path, tmp_path, lambda *_: None)
    assert "Soup" not in titles("percept", tmp_path)
    assert "psalm" not in titles("heart", tmp_path)
    assert titles("unseen/scripture", tmp_path)


def test_the_full_corpora_hold_share_alike_text_and_no_scripture_in_a_role(sources, tmp_path):
    built = {entry.domain: entry.documents for entry in seed.build_full(tmp_path, tmp_path, lambda *_: None)}
    assert built == {"vocab": 150, "strategy": 150, "percept": 151, "heart": 150, "unseen/scripture": 150}
    assert "Soup" in titles("percept", tmp_path)
    assert "psalm" not in titles("heart", tmp_path)


def test_building_reports_each_domain_from_zero_to_one_and_between(sources, tmp_path, monkeypatch):
    pins = {name: replace(source, text_bytes=225_000) for name, source in lock().items()}
    monkeypatch.setattr(seed, "lock", lambda: pins)
    seen = []
    seed.build_seed(tmp_path, tmp_path, lambda domain, part: seen.append((domain, part)))
    parts = [part for domain, part in seen if domain == "vocab"]
    assert parts[0] == 0.0
    assert parts[-1] == 1.0
    assert parts == sorted(parts)
    assert len(parts) > 50


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_committed_slice_is_what_its_manifest_says(domain, slices):
    entry = json.loads((DATA / "manifest.json").read_text())["domains"][domain]
    data = (DATA / entry["file"]).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size_bytes"], entry["sha256"])
    assert hashlib.sha256(gzip.decompress(data)).hexdigest() == entry["sha256_unpacked"]
    assert len(slices[domain]) == entry["documents"]
    assert sum(row.size_bytes for row in slices[domain]) == entry["text_bytes"]


def test_the_manifest_names_every_file_and_the_pinned_sources_it_came_from():
    entries = json.loads((DATA / "manifest.json").read_text())["domains"]
    assert {DATA / entry["file"] for entry in entries.values()} == set(DATA.rglob("*.gz"))
    pins = {source.sha256: source for source in lock().values()}
    for domain, entry in entries.items():
        used = [pins[source["archive_sha256"]] for source in entry["sources"]]
        assert used
        assert all(source.domain == domain and source.may_be_committed for source in used)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_three_parts_of_a_committed_slice_are_full_and_share_no_parent(domain, slices):
    parts = split(slices[domain])
    parents = [{row.parent for row in part} for part in (parts.train, parts.validation, parts.held_out)]
    assert sum(map(len, parents)) == len(set().union(*parents))
    assert min(sum(row.size_bytes for row in part) for part in (parts.validation, parts.held_out)) > 25_000
    assert sum(row.size_bytes for row in parts.train) > 250_000


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_committed_document_has_a_near_duplicate_in_another_part(domain, slices, fives):
    parts = split(slices[domain])
    for one, other in (
        (parts.train, parts.validation),
        (parts.train, parts.held_out),
        (parts.validation, parts.held_out),
    ):
        sets = [set(fives[row.id].tolist()) for row in other]
        for row in one:
            own = set(fives[row.id].tolist())
            assert max(len(own & its) / min(len(own), len(its)) for its in sets) < 0.1, row.title


@pytest.mark.parametrize("domain", DOMAINS)
def test_committed_documents_have_one_to_three_kilobytes_and_come_from_all_over_their_source(domain, slices):
    rows = slices[domain]
    assert all(MIN_BYTES <= row.size_bytes <= TARGET_BYTES + MIN_BYTES for row in rows)
    assert len({row.parent for row in rows}) > 0.6 * len(rows)
    assert {row.source for row in rows} == {
        source.name for source in lock().values() if source.domain == domain and source.may_be_committed
    }


@pytest.mark.parametrize("role", ROLES)
def test_no_role_has_seen_the_unseen_text(role, slices, fives):
    unseen = np.unique(np.concatenate([fives[row.id] for row in slices["unseen/scripture"]]))
    assert max(overlap(fives[row.id], unseen) for row in slices[role]) <= seed.SCRIPTURE_LIMIT


def test_the_notices_speak_of_every_committed_file():
    notice = (DATA / "NOTICE.md").read_text()
    assert all(f"## {domain}.jsonl.gz" in notice for domain in DOMAINS)
    assert "WordNet 3.1 Copyright 2011 by Princeton University" in notice
    assert "letters patent" in notice
