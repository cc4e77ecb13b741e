import numpy as np
import pytest

from common.constants import ROLES
from common.coordizer.basins import own_cells
from common.coordizer.build import pieces
from common.coordizer.place import bearings, salience, text_basin
from common.coordizer.refine import SHARE_MIN, SHARED_MAX, _parts, refine, refined, shares_of
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, to_float16

V = 60  # ids 0-9 belong to the first role, 10-19 to the second, ...; 40-49 to all; 50-59 to none


def document(role, rng, tokens=60):
    own = rng.integers(0, 10, tokens) + 10 * ROLES.index(role)
    return np.where(rng.random(tokens) < 0.3, own, rng.integers(40, 50, tokens)).astype(np.int32)


def texts(seed=0, number=40):
    rng = np.random.default_rng(seed)
    return {role: [document(role, rng) for _ in range(number)] for role in ROLES}


@pytest.fixture(scope="module")
def start():
    return np.random.default_rng(5).dirichlet(np.ones(64), V)


@pytest.fixture(scope="module")
def learned(start):
    return refined(start, [pieces(texts())], seed=1)


def routed(basins, held_out):
    stored = to_float16(basins)
    table = bearings(stored)
    homes = {role: frechet_mean(np.stack([text_basin(ids, table) for ids in some])) for role, some in texts().items()}

    def nearest(ids):
        basin = text_basin(ids[:8], table)
        return min(ROLES, key=lambda name: float(distance(basin, homes[name])))

    hits = [nearest(ids) == role for role, some in held_out.items() for ids in some]
    return np.mean(hits)


def test_refined_basins_lie_on_the_simplex(learned):
    assert learned.shape == (V, 64)
    assert (learned > 0).all()
    assert learned.sum(axis=1) == pytest.approx(np.ones(V), abs=1e-12)


def test_refined_basins_route_texts_that_were_not_seen(start, learned):
    held_out = texts(seed=9, number=20)
    assert routed(learned, held_out) > 0.9
    assert routed(learned, held_out) > routed(start, held_out) + 0.2


def test_refining_moves_mass_among_roles_and_never_within_one(start, learned):
    for role in ROLES:
        cells = own_cells(role)
        before, after = start[:, cells], learned[:, cells]
        assert after / after.sum(1, keepdims=True) == pytest.approx(before / before.sum(1, keepdims=True), rel=1e-5)


def test_shared_mass_is_kept_up_to_its_limit(start, learned):
    own = np.concatenate([own_cells(role) for role in ROLES])
    shared = 1.0 - learned[:, own].sum(axis=1)
    assert shared == pytest.approx(np.minimum(1.0 - start[:, own].sum(axis=1), SHARED_MAX), rel=1e-4)


def test_a_token_that_never_occurs_claims_no_role(learned):
    stored = to_float16(learned)
    assert salience(stored)[50:].max() < 0.1
    assert salience(stored)[:40].min() > 0.5


def test_no_share_falls_below_its_minimum():
    shares = shares_of(np.array([[0.0, 0.0, 0.0, 0.0], [900.0, 0.0, 0.0, -900.0]]))
    assert shares.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert shares.min() == pytest.approx(SHARE_MIN)


def test_refining_is_deterministic_and_its_seed_matters(start, learned):
    assert (refined(start, [pieces(texts())], seed=1) == learned).all()
    assert (refined(start, [pieces(texts())], seed=2) != learned).any()


def test_roles_without_text_are_left_out(start):
    some = {role: ids for role, ids in texts().items() if role in ("vocab", "heart")}
    shares = refine(_parts(start), [pieces(some)], seed=0)
    assert np.isfinite(shares).all()
    assert shares[:10, 0].min() > shares[:10, 3].max()


def test_tokens_of_another_spelling_learn_their_roles_where_they_stand(start):
    """Ids 0-39 never occur in the second spelling, where 50-53 stand for a role each; both are learned."""
    narrow = {
        role: [np.where(ids < 40, 50 + ids // 10, ids).astype(np.int32) for ids in some]
        for role, some in texts().items()
    }
    shares = refine(_parts(start), [pieces(texts()), pieces(narrow)], seed=0)
    assert shares[50:54].argmax(axis=1).tolist() == [0, 1, 2, 3]
    assert shares[50:54].max(axis=1).min() > 0.5
    assert shares[:40].argmax(axis=1).tolist() == [token // 10 for token in range(40)]
