import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.constants import CELLS, ROLES
from common.coordizer.basins import own_cells
from common.coordizer.place import bearings, salience, text_basin
from common.errors import Rejected
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, from_float16, to_float16

V = 40
BASINS = to_float16(np.random.default_rng(3).dirichlet(np.full(CELLS, 0.3), V))
TABLE = bearings(BASINS)
TOKENS = st.lists(st.integers(0, V - 1), min_size=1, max_size=60)


def spread_over(cells):
    row = np.full(CELLS, 1e-4)
    row[cells] = 1.0
    return to_float16(row / row.sum())


def chord_cost(at, ids):
    points = from_float16(BASINS[ids])
    return float((salience(BASINS)[ids] * np.square(2 * np.sin(distance(at, points) / 4))).sum())


@settings(max_examples=50)
@given(TOKENS, st.integers(0, 99))
def test_a_text_lies_where_the_weighted_squares_of_its_chords_are_least(ids, seed):
    found = text_basin(np.array(ids, np.int32), TABLE)
    aside = np.random.default_rng(seed).dirichlet(np.ones(CELLS))
    for share in (1e-3, 0.1, 1.0):
        assert chord_cost(found, ids) <= chord_cost((1 - share) * found + share * aside, ids) + 1e-9


@settings(max_examples=50)
@given(TOKENS)
def test_a_text_lies_near_the_frechet_mean_of_its_tokens(ids):
    exact = frechet_mean(from_float16(BASINS[ids]), salience(BASINS)[ids])
    assert distance(text_basin(np.array(ids, np.int32), TABLE), exact) < 0.1


@settings(max_examples=50)
@given(TOKENS)
def test_the_order_of_a_text_s_tokens_does_not_move_its_basin(ids):
    one, other = (text_basin(np.array(some, np.int32), TABLE) for some in (ids, ids[::-1]))
    assert distance(one, other) < 1e-12
    assert one.sum() == pytest.approx(1.0, abs=1e-12)


def test_one_token_lies_at_its_own_basin():
    assert distance(text_basin(np.array([7, 7], np.int32), TABLE), from_float16(BASINS[7])) < 1e-6


def test_a_token_of_one_role_is_salient_and_one_of_all_roles_is_not():
    all_roles = np.concatenate([own_cells(role)[:8] for role in ROLES])
    rows = np.stack([spread_over(own_cells("heart")), spread_over(all_roles)])
    assert salience(rows)[0] > 1.5
    assert salience(rows)[1] < 0.01


@pytest.mark.parametrize("role", ROLES)
def test_a_salient_word_outweighs_many_that_say_little(role):
    rows = np.stack([spread_over(own_cells(role)), spread_over(np.concatenate([own_cells(r)[:8] for r in ROLES]))])
    found = text_basin(np.array([0] + [1] * 9, np.int32), bearings(rows))
    assert found[own_cells(role)].sum() > 0.9


def test_a_text_of_tokens_that_say_nothing_lies_at_their_even_mean():
    rows = np.zeros((2, CELLS), np.float16)
    for number in (0, 1):
        rows[number, [own_cells(role)[number] for role in ROLES]] = 0.25
    assert salience(rows).max() == 0.0
    middle = frechet_mean(from_float16(rows))
    assert distance(text_basin(np.array([0, 1], np.int32), bearings(rows)), middle) < 1e-6


def test_an_empty_text_has_no_basin():
    with pytest.raises(Rejected, match="no_tokens"):
        text_basin(np.empty(0, np.int32), TABLE)
