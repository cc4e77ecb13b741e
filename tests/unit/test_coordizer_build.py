import numpy as np
import pytest

from common.constants import ROLES
from common.coordizer.artifacts import FIRST_MERGE, from_parts, to_parts
from common.coordizer.basins import salience, text_basin
from common.coordizer.build import build, sample
from common.coordizer.encode import Encoder
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
def built():
    return build(DOCUMENTS, vocab_size=400, seed=3)


def test_the_whole_pipeline_makes_a_valid_coordizer(built):
    assert FIRST_MERGE < built.vocab_size <= 400
    assert to_parts(from_parts(to_parts(built))) == to_parts(built)


def test_sentences_lie_nearest_their_own_role(built):
    encoder, weights = Encoder(built), salience(built.basins)
    homes = {role: text_basin(encoder.encode(SENTENCES[role]), built.basins, weights) for role in ROLES}
    halves = {role: SENTENCES[role][40:] for role in ROLES}
    for role, half in halves.items():
        basin = text_basin(encoder.encode(half), built.basins, weights)
        assert min(ROLES, key=lambda home, basin=basin: float(distance(basin, homes[home]))) == role


@pytest.mark.parametrize("threads", [1, 3])
def test_the_result_does_not_depend_on_the_threads(built, threads):
    assert to_parts(build(DOCUMENTS, vocab_size=400, seed=3, threads=threads)) == to_parts(built)


def test_another_seed_gives_other_basins(built):
    assert to_parts(build(DOCUMENTS, vocab_size=400, seed=4)) != to_parts(built)


def test_the_manifest_tells_where_it_comes_from(built):
    assert built.provenance.documents == dict.fromkeys(ROLES, 3)
    assert built.provenance.size_bytes == {role: 18 * len(SENTENCES[role]) for role in ROLES}
    assert len(built.provenance.corpus_sha256) == 64
    assert built.provenance.corpus_sha256 != build(DOCUMENTS[:-1], vocab_size=300).provenance.corpus_sha256


def test_bytes_that_never_occur_have_basins_of_their_own(built):
    assert len(np.unique(built.basins, axis=0)) == built.vocab_size


def test_progress_rises_to_one():
    shares = []
    build(DOCUMENTS, vocab_size=300, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("documents", [[], [("heart", "")]])
def test_no_text_is_rejected(documents):
    with pytest.raises(Rejected, match="no_documents"):
        build(documents, vocab_size=300)


@pytest.mark.parametrize(("limit", "length"), [(59_999, 1), (60_000, 2), (60_001, 2)])
def test_a_long_corpus_gives_an_even_sample(limit, length):
    texts = ["a" * 30_000, "b" * 30_000]
    taken = sample(texts, limit)
    assert (taken == texts) == (length == 2)
    assert sum(map(len, taken)) <= limit
    assert {piece[0] for piece in taken} == {"a", "b"}
