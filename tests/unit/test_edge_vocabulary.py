"""An edge on a bundle whose vocabulary grew: what it had counted is what it would have counted in the new one."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from micro import MICRO, SENTENCES
from test_edge_learning import KEY, bundle_naming

from common.coordizer.artifacts import pairs_from
from common.coordizer.encode import Encoder
from common.geometry.simplex import distance
from common.kernels import memory_file
from common.kernels.memory import Table, count, merge, subtract
from common.kernels.recount import recount
from services.edge import vocabulary
from services.edge.answer import Interaction, Serving
from services.edge.learning import fold_domain, follow_vocabulary, forget, judge, relearned, settle_bundle
from services.edge.record import Record, texts

TEXTS = st.lists(st.sampled_from([*SENTENCES.values(), "The sea was grey. ", "a@b.org é "]), min_size=1, max_size=4)


def same(one, other):
    return memory_file.to_bytes(one) == memory_file.to_bytes(other)


def counted(constellation, *texts):
    return count([constellation.encoder.encode(text) for text in texts], 3)


@pytest.fixture
def old(micro):
    return Serving(micro, 4, "cd" * 32, "node-1")


@pytest.fixture
def new(micro_larger):
    return Serving(micro_larger, 5, "ef" * 32, "node-1")


def read(record, serving, texts, domain="heart", first=0):
    constellation = serving.constellation
    for n, text in enumerate(texts, first):
        ids = constellation.encoder.encode(text)
        basin, size = constellation.basin(ids), len(text.encode())
        record.texts.add(
            Interaction(f"q{n}", "c", text, 100.0 + n, domain, basin, len(ids), size, 9.0, 60.0, "CRYSTAL"),
            b"",
            probe=False,
        )


def folded(record, serving, domain="heart"):
    return fold_domain(record, serving, domain, gauges={}, crystal_bytes=300, now_s=200.0)


def moved(record, old, new):
    follow_vocabulary(record, old)
    return follow_vocabulary(record, new)


SAID = [SENTENCES["heart"] * 2, SENTENCES["percept"]]


def test_counts_of_kept_text_are_bit_for_bit_those_of_the_text_encoded_anew(record, old, new, micro_larger):
    read(record, old, SAID)
    folded(record, old)
    assert moved(record, old, new)
    assert same(record.residue("heart"), counted(micro_larger, *SAID))
    assert len(record.merges) == len(micro_larger.coordizer.merges)
    assert ids_of(record) == [micro_larger.encoder.encode(text).tolist() for text in reversed(SAID)]


def ids_of(record):
    return [each.ids.tolist() for each in record.texts.counted()]


@pytest.mark.parametrize(("more", "exact"), [(-1, 0), (0, 1), (1, 1)])
def test_text_that_is_too_much_to_count_anew_is_counted_from_its_n_grams_the_newest_last(
    record, old, new, micro, micro_larger, monkeypatch, more, exact
):
    monkeypatch.setattr(vocabulary, "EXACT_MAX_TOKENS", len(micro.encoder.encode(SAID[1])) + more)
    monkeypatch.setattr(texts, "COUNTED_PAGE", 1)
    read(record, old, SAID)
    folded(record, old)
    moved(record, old, new)
    pairs = pairs_from(micro_larger.coordizer.merges, MICRO.vocab)
    rest = recount(counted(micro, *SAID[: 2 - exact]), pairs, MICRO.vocab)
    assert same(record.residue("heart"), merge([counted(micro_larger, *SAID[2 - exact :]), rest]))
    assert ids_of(record) == [micro_larger.encoder.encode(text).tolist() for text in reversed(SAID)]


def test_following_a_vocabulary_twice_is_following_it_once(record, old, new):
    read(record, old, SAID)
    folded(record, old)
    moved(record, old, new)
    before = record.residue("heart")
    assert not follow_vocabulary(record, new)
    assert same(record.residue("heart"), before)


def test_a_text_folded_in_the_old_vocabulary_is_forgotten_in_the_new_one(record, old, new, micro_larger):
    read(record, old, SAID)
    folded(record, old)
    packet = record.packets("pending")[0]
    record.sent(packet.sequence, b"raw", at_s=1.0)
    moved(record, old, new)
    done = forget(record, "c", "q0")
    assert (done.counts, [left.sequence for left in done.left]) == ("taken", [0])
    assert same(record.residue("heart"), counted(micro_larger, SAID[1]))


def test_a_packet_that_has_not_left_is_withdrawn_with_its_text(record, old, new):
    read(record, old, SAID)
    folded(record, old)
    moved(record, old, new)
    assert forget(record, "c", "q0").withdrawn == (0,)
    assert record.residue("heart").entries == 0
    assert [each.query_id for _, each in record.texts.unfolded("heart")] == ["q1"]


def test_a_rejected_text_gets_back_exactly_what_was_taken(record, old, new, micro_larger):
    read(record, old, SAID)
    folded(record, old)
    record.sent(0, b"raw", at_s=1.0)
    judge(record, "c", "q0", "rejected")
    moved(record, old, new)
    assert same(record.residue("heart"), counted(micro_larger, SAID[1]))
    judge(record, "c", "q0", None)
    assert same(record.residue("heart"), counted(micro_larger, *SAID))


def test_a_packet_over_the_old_vocabulary_still_settles(record, old, new, micro_larger):
    """And takes from the residue what the centre counts of it: its n-grams, re-counted."""
    read(record, old, SAID)
    carried = folded(record, old).carried
    record.sent(0, b"raw", at_s=1.0)
    moved(record, old, new)
    settle_bundle(record, new, bundle_naming(0), key=KEY, entry_id="5-0", now_s=300.0)
    anew = recount(carried, pairs_from(micro_larger.coordizer.merges, MICRO.vocab), MICRO.vocab)
    assert same(record.residue("heart"), subtract(counted(micro_larger, *SAID), anew))
    assert record.packets("acknowledged")[0].sequence == 0


def test_what_is_left_of_text_that_is_gone_is_counted_from_its_n_grams(record, old, new, micro, micro_larger):
    read(record, old, SAID)
    folded(record, old)
    record.forget(1, "heart", None)  # as its age would
    gone = counted(micro, SAID[0])
    moved(record, old, new)
    anew = recount(gone, pairs_from(micro_larger.coordizer.merges, MICRO.vocab), MICRO.vocab)
    assert same(record.residue("heart"), merge([counted(micro_larger, SAID[1]), anew]))


def test_back_to_the_smaller_vocabulary_nothing_larger_is_left(record, old, new, micro):
    read(record, new, SAID)
    follow_vocabulary(record, new)
    folded(record, new)
    record.forget(1, "heart", None)
    assert follow_vocabulary(record, old)
    residue = record.residue("heart")
    assert memory_file.from_bytes(memory_file.to_bytes(residue), MICRO.vocab).entries
    assert all(
        count_ <= total
        for count_, total in zip(counted(micro, SAID[1]).tables[0].totals, residue.tables[0].totals, strict=True)
    )
    assert relearned(record, replace(old, local=None)).answering.bits(micro.encoder.encode(SAID[1]), "heart") > 0


def test_into_a_vocabulary_that_grew_otherwise_only_what_both_know_is_taken(record, old, new, micro, micro_larger):
    """As on an edge that missed a rollback and saw the growth after it."""
    merges, known = micro_larger.coordizer.merges, len(micro.coordizer.merges)
    other = replace(micro_larger.coordizer, merges=np.concatenate([merges[:known], merges[known:][::-1]]))
    read(record, new, SAID)
    follow_vocabulary(record, new)
    folded(record, new)
    record.forget(1, "heart", None)
    gone = record.residue("heart")
    otherwise = replace(micro_larger, coordizer=other, encoder=Encoder(other))
    assert follow_vocabulary(record, replace(new, constellation=otherwise))
    kept = counted(otherwise, SAID[1])
    assert gone.tokens > record.residue("heart").tokens - kept.tokens >= 0
    assert forget(record, "c", "q1").counts == "taken"
    assert record.merges == tuple(map(tuple, other.merges.tolist()))


def test_what_answers_here_keeps_what_it_learned(record, old, new):
    said = "And it came to pass that the people went up unto the mountain, and the people saw. "
    read(record, old, [said] * 3)
    folded(record, old)
    before = bits(relearned(record, old).answering, said)
    moved(record, old, new)
    after = bits(relearned(record, new).answering, said)
    assert after < 1.05 * before < 0.6 * bits(old.constellation, said)


def bits(constellation, text):
    return constellation.bits(constellation.encoder.encode(text), "heart")


def test_a_prompt_lies_where_it_lay(micro, micro_larger):
    for text in SENTENCES.values():
        before, after = (each.basin(each.encoder.encode(text)) for each in (micro, micro_larger))
        assert distance(before, after) < 0.1
        nearest = [each.route(each.basin(each.encoder.encode(text))).steps[0].name for each in (micro, micro_larger)]
        assert nearest[0] == nearest[1]


@settings(max_examples=25)
@given(texts=TEXTS, more=TEXTS, gone=st.integers(0, 3), taken=st.booleans())
def test_whatever_happened_before_forgetting_all_kept_text_leaves_nothing_of_it(
    micro, micro_larger, texts, more, gone, taken
):
    old, new = Serving(micro, 4, "cd" * 32, "n"), Serving(micro_larger, 5, "ef" * 32, "n")
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder) / "edge.db", now_s=1000.0)
        follow_vocabulary(record, old)
        read(record, old, texts)
        folded(record, old)
        record.sent(0, b"raw", at_s=1.0)
        if taken:
            settle_bundle(record, old, bundle_naming(0), key=KEY, entry_id="5-0", now_s=300.0)
        read(record, old, more, first=len(texts))
        folded(record, old)
        record.sent(1, b"raw", at_s=1.0)
        if gone and gone <= len(texts):
            record.forget(gone, "heart", None)
        follow_vocabulary(record, new)
        for table in record.residue("heart").tables:
            again = Table.of(table.keys, table.counts, table.contexts, table.totals)
            assert np.array_equal(again.totals, table.totals)
        for n in range(len(texts) + len(more)):
            forget(record, "c", f"q{n}")
        left = record.residue("heart")
        if not gone or gone > len(texts):
            assert left.entries == 0
        record.close()
