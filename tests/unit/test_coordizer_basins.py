import numpy as np
import pytest

from common.constants import ROLE_FACULTIES, ROLES
from common.coordizer.artifacts import count_distinct
from common.coordizer.basins import (
    WINDOW_TOKENS,
    byte_basins,
    distinct,
    plsa,
    role_cells,
    windows,
)
from common.errors import Rejected
from common.geometry.simplex import distance, from_float16, to_float16

V = 60  # ids 0-9 belong to the first role, 10-19 to the second, ...; 40-49 to all; 50-59 to none


def stream(role, tokens=3000, seed=0):
    rng = np.random.default_rng([seed, ROLES.index(role)])
    own = rng.integers(0, 10, tokens) + 10 * ROLES.index(role)
    return np.where(rng.random(tokens) < 0.5, own, rng.integers(40, 50, tokens)).astype(np.int32)


def start(seed=5):
    return np.random.default_rng(seed).dirichlet(np.ones(64), V)


@pytest.fixture(scope="module")
def learned():
    return plsa({role: windows(stream(role)) for role in ROLES}, start(), seed=1)


def own_cells(role):
    shared = set.intersection(*[set(role_cells(r)) for r in ROLES])
    return sorted(set(role_cells(role)) - shared)


@pytest.mark.parametrize(("tokens", "number"), [(0, 0), (1, 1), (WINDOW_TOKENS, 1), (WINDOW_TOKENS + 1, 2)])
def test_windows_count_every_token_once(tokens, number):
    ids = stream("vocab", tokens)
    cut = windows(ids)
    assert len(cut.starts) == number + 1
    assert cut.counts.sum() == tokens
    dense = np.bincount(cut.token, weights=cut.counts, minlength=V)
    assert dense.tolist() == np.bincount(ids, minlength=V).tolist()


def test_a_role_speaks_of_its_own_faculties_and_the_shared_ones():
    assert [len(role_cells(role)) for role in ROLES] == [32, 32, 24, 24]
    assert [len(own_cells(role)) for role in ROLES] == [8 * len(ROLE_FACULTIES[role]) for role in ROLES]
    assert set(np.concatenate([role_cells(role) for role in ROLES])) == set(range(64))


def test_learned_basins_lie_on_the_simplex(learned):
    assert learned.shape == (V, 64)
    assert (learned > 0).all()
    assert learned.sum(axis=1) == pytest.approx(np.ones(V), abs=1e-12)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_s_own_words_lie_in_its_own_faculties(learned, role):
    mine = learned[10 * ROLES.index(role) : 10 * ROLES.index(role) + 10]
    others = [cell for other in ROLES if other != role for cell in own_cells(other)]
    assert mine[:, own_cells(role)].sum(axis=1).min() > 0.3
    assert mine[:, others].sum(axis=1).max() < 0.02


def test_a_word_of_no_document_keeps_its_midpoint(learned):
    assert distance(learned[50:], start()[50:]).max() < 0.2


def test_plsa_is_deterministic_and_its_seed_matters(learned):
    data = {role: windows(stream(role)) for role in reversed(ROLES)}
    assert (plsa(data, start(), seed=1) == learned).all()
    assert (plsa(data, start(), seed=2) != learned).any()


def test_a_role_weighs_the_same_however_much_text_it_has(learned):
    data = {role: windows(np.tile(stream(role), 8 if role == "heart" else 1)) for role in ROLES}
    heart = [own_cells("heart")]
    more = plsa(data, start(), seed=1)[40:50][:, heart].sum()
    assert more == pytest.approx(learned[40:50][:, heart].sum(), rel=0.3)


def test_roles_without_text_are_left_out_and_no_text_at_all_is_rejected():
    one = plsa({"heart": windows(stream("heart")), "vocab": windows(stream("vocab", 0))}, start(), seed=0)
    assert one.shape == (V, 64)
    with pytest.raises(Rejected, match="no_documents"):
        plsa({"vocab": windows(stream("vocab", 0))}, start(), seed=0)


def test_equal_basins_are_moved_apart_and_no_further_than_needed():
    rows = start()
    rows[10:30] = rows[9]
    stored = distinct(rows)
    assert count_distinct(stored) == V
    assert (stored[:10] == to_float16(rows[:10])).all()
    assert distance(from_float16(stored), rows).max() < 0.06
    assert (distinct(rows) == stored).all()


def test_distinct_basins_stay_as_they_are():
    assert (distinct(start()) == to_float16(start())).all()


def test_many_tokens_at_a_vertex_are_moved_apart():
    rows = np.zeros((700, 64))
    rows[:, 3] = 1.0
    assert count_distinct(distinct(rows)) == 700


def test_byte_basins_are_near_for_bytes_in_the_same_places():
    words = [b"ba", b"ca", b"be", b"ce", b"bi", b"ci", b"19", b"28"]
    raw = np.frombuffer(b"".join(words), np.uint8)
    basins = byte_basins(raw, np.full(8, 2), np.full(8, 50), seed=0)
    assert basins.shape == (256, 64)
    assert distance(basins[ord("b")], basins[ord("c")]) < distance(basins[ord("b")], basins[ord("1")])


@pytest.mark.parametrize("raw", [b"", b"a"])
def test_bytes_without_neighbours_have_basins_too(raw):
    array = np.frombuffer(raw, np.uint8)
    basins = byte_basins(array, np.full(len(raw), 1), np.full(len(raw), 5), seed=0)
    assert basins.sum(axis=1) == pytest.approx(np.ones(256))
