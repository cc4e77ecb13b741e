import numpy as np
import pytest

from common.constants import ROLES
from common.coordizer.artifacts import FIRST_MERGE, from_parts, prefix, to_parts
from common.coordizer.build import Kept, build, built, narrowed, pieces, read
from common.coordizer.encode import Encoder
from common.coordizer.place import bearings, text_basin
from common.coordizer.trace import Look, spelled
from common.coordizer.train import train_words
from common.errors import Rejected
from common.geometry.simplex import distance

SENTENCES = {
    "vocab": "heron: a large wading bird with a long neck; a grey bird of the marsh. marsh: low wet ground. ",
    "strategy": "Congress should plan the budget, review the treaty and measure the results of every office. ",
    "percept": "The sea was cold and grey; salt wind stung our eyes and the whale breathed beside the boat. ",
    "heart": "O sing again, my heart, of spring, and let the rhythm of the rain return to everything. ",
}
DOCUMENTS = [(role, SENTENCES[role] * 6) for role in ROLES for _ in range(3)]


@pytest.fixture(scope="module")
def made():
    return build(DOCUMENTS, vocab_size=400, seed=3)


def test_the_whole_pipeline_makes_a_valid_coordizer(made):
    assert FIRST_MERGE < made.vocab_size <= 400
    assert to_parts(from_parts(to_parts(made))) == to_parts(made)


def test_sentences_lie_nearest_their_own_role(made):
    encoder, table = Encoder(made), bearings(made.basins)
    homes = {role: text_basin(encoder.encode(SENTENCES[role]), table) for role in ROLES}
    halves = {role: SENTENCES[role][40:] for role in ROLES}
    for role, half in halves.items():
        basin = text_basin(encoder.encode(half), table)
        assert min(ROLES, key=lambda home, basin=basin: float(distance(basin, homes[home]))) == role


@pytest.mark.parametrize("threads", [1, 3])
def test_the_result_does_not_depend_on_the_threads(made, threads):
    assert to_parts(build(DOCUMENTS, vocab_size=400, seed=3, threads=threads)) == to_parts(made)


def test_another_seed_gives_other_basins(made):
    assert to_parts(build(DOCUMENTS, vocab_size=400, seed=4)) != to_parts(made)


def test_the_manifest_tells_where_it_comes_from(made):
    assert made.provenance.documents == dict.fromkeys(ROLES, 3)
    assert made.provenance.size_bytes == {role: 18 * len(SENTENCES[role]) for role in ROLES}
    assert len(made.provenance.corpus_sha256) == 64
    assert made.provenance.corpus_sha256 != build(DOCUMENTS[:-1], vocab_size=300).provenance.corpus_sha256


def test_bytes_that_never_occur_have_basins_of_their_own(made):
    assert len(np.unique(made.basins, axis=0)) == made.vocab_size


def test_progress_rises_to_one():
    shares = []
    build(DOCUMENTS, vocab_size=300, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("documents", [[], [("heart", "")]])
def test_no_text_is_rejected(documents):
    with pytest.raises(Rejected, match="no_documents"):
        build(documents, vocab_size=300)


def test_words_are_spelled_as_the_encoder_spells_them(made):
    corpus = read(DOCUMENTS, 3)
    training = train_words(corpus.words, vocab_size=400, seed=3)
    for role, texts in corpus.texts.items():
        assert spelled(texts[0], training).tolist() == Encoder(made).encode(SENTENCES[role] * 6).tolist()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("batch", [1, 5, 100])
def test_a_text_is_read_alike_by_any_number_of_threads(monkeypatch, batch, threads):
    whole = read(DOCUMENTS, 3)
    monkeypatch.setattr("common.coordizer.build.BATCH", batch)
    parted = read(iter(DOCUMENTS), 3, threads)
    assert parted.words.raw.tobytes() == whole.words.raw.tobytes()
    assert parted.words.counts.tolist() == whole.words.counts.tolist()
    assert parted.provenance == whole.provenance
    for role in ROLES:
        assert [text.tolist() for text in parted.texts[role]] == [text.tolist() for text in whole.texts[role]]


def test_a_torn_text_is_named_by_its_place_whoever_reads_it(monkeypatch):
    monkeypatch.setattr("common.coordizer.build.BATCH", 2)
    with pytest.raises(Rejected, match="lone_surrogate: text 12: lone surrogate"):
        read([*DOCUMENTS, ("heart", "\ud800")], 3, threads=2)


@pytest.mark.parametrize("vocab_size", [FIRST_MERGE, 300, 399])
def test_narrowed_text_is_what_the_prefix_s_own_encoder_spells(made, vocab_size):
    whole, small = Encoder(made), Encoder(prefix(made, vocab_size))
    text = pieces(
        {role: [whole.encode(sentence), whole.encode(sentence[::-1])] for role, sentence in SENTENCES.items()}
    )
    found = narrowed(text, made.merges, vocab_size)
    expected = [small.encode(piece) for s in SENTENCES.values() for piece in (s, s[::-1])]
    assert np.split(found.ids, found.starts[1:-1])[3].tolist() == expected[3].tolist()
    assert found.ids.tolist() == np.concatenate(expected).tolist()
    assert found.role.tolist() == text.role.tolist()


def test_a_watched_training_tells_phi_in_its_manifest_and_changes_nothing_else(made):
    watched = built(read(DOCUMENTS, 3), vocab_size=400, watch=True)
    assert (watched.basins == made.basins).all()
    assert [ids for ids, *_ in watched.trace] == sorted({ids for ids, *_ in watched.trace})
    assert watched.trace[-1][0] == watched.vocab_size
    assert from_parts(to_parts(watched)).trace == watched.trace


def test_a_collapsed_training_is_refused(monkeypatch):
    looks = tuple(Look(300 + i, None, 0.1, 0.0 if i < 3 else 0.5) for i in range(6))
    monkeypatch.setattr("common.coordizer.build.Watch.looks", lambda *_: looks)
    with pytest.raises(Rejected, match="collapsed"):
        built(read(DOCUMENTS, 3), vocab_size=300, watch=True)


def test_a_stopped_build_goes_on_from_what_was_kept(made):
    kept = []
    whole = built(read(DOCUMENTS, 3), vocab_size=400, watch=True, keep=kept.append)
    assert (whole.basins == made.basins).all()
    for merges in kept[::4]:
        again = built(read(DOCUMENTS, 3), vocab_size=400, watch=True, start=merges)
        assert to_parts(again) == to_parts(whole)


def test_documents_may_be_a_stream(made):
    assert to_parts(build(iter(DOCUMENTS), vocab_size=400, seed=3)) == to_parts(made)


@pytest.mark.parametrize(("texts", "every"), [(10, 1), (11, 2), (20, 2), (21, 4)])
def test_of_too_much_text_an_even_choice_is_kept(texts, every):
    kept = Kept(limit=100)
    for number in range(texts):
        kept.offer(np.full(10, number, np.int32))
    assert [text[0] for text in kept.texts] == list(range(0, texts, every))
    assert sum(map(len, kept.texts)) <= 100


def test_one_text_beyond_the_limit_is_cut():
    kept = Kept(limit=100)
    kept.offer(np.zeros(1000, np.int32))
    assert [len(text) for text in kept.texts] == [100]
