import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Rejected
from common.geometry.simplex import distance, slerp
from services.edge.atlas import atlas


def homes_of(seed, number, cells=64):
    rng = np.random.default_rng(seed)
    return {f"d{n}": row for n, row in enumerate(rng.dirichlet(np.ones(cells), number))}


def place(found, distances):
    """As the page does it."""
    lean = np.array([distances[name] for name in found.names]) ** 2 - found.mean_square
    return -0.5 * np.array(found.axes) @ lean


@given(st.integers(0, 1000), st.integers(1, 8))
def test_a_home_stands_exactly_on_its_own_place(seed, number):
    homes = homes_of(seed, number)
    found = atlas(homes)
    for name, at in zip(found.names, found.places, strict=True):
        distances = {other: float(distance(homes[name], homes[other])) for other in homes}
        assert place(found, distances) == pytest.approx(at, abs=1e-9)


def test_homes_on_two_axes_keep_their_distances():
    a, b = np.eye(3)[0] * 0.7 + 0.1, np.eye(3)[1] * 0.7 + 0.1
    homes = {"a": a, "b": b, "half": slerp(a, b, 0.5)}
    found = atlas(homes)
    (xa, _), (xb, _), (xh, _) = found.places
    assert abs(xa - xb) == pytest.approx(float(distance(a, b)))
    assert abs(xa - xh) == pytest.approx(abs(xb - xh))
    assert found.shown == pytest.approx(1.0)


def test_a_text_on_the_way_between_two_homes_is_drawn_between_them():
    a, b = np.eye(3)[0] * 0.7 + 0.1, np.eye(3)[1] * 0.7 + 0.1
    found, length = atlas({"a": a, "b": b}), float(distance(a, b))
    at = place(found, {"a": 0.25 * length, "b": 0.75 * length})
    assert np.abs(at - np.array(found.places[0])) == pytest.approx([0.25 * length, 0.0])


@given(st.integers(0, 1000))
def test_the_map_does_not_depend_on_the_order_of_the_homes(seed):
    homes = homes_of(seed, 5)
    assert atlas(dict(reversed(homes.items()))) == atlas(homes)


def test_four_homes_in_space_are_shown_in_part():
    assert 0.5 < atlas(homes_of(3, 4)).shown < 1.0


@pytest.mark.parametrize("number", [1, 2, 3])
def test_homes_that_do_not_differ_lie_in_the_middle(number):
    found = atlas(dict.fromkeys("abc"[:number], np.full(4, 0.25)))
    assert found.places == ((0.0, 0.0),) * number
    assert (found.axes, found.shown) == (((0.0,) * number,) * 2, 1.0)


def test_what_is_no_basin_is_refused():
    with pytest.raises(Rejected, match="off_simplex"):
        atlas({"a": np.ones(4)})
