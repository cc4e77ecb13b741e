from hypothesis import given
from hypothesis import strategies as st

from common.trust.rings import EVERYBODY, is_open, place


@given(st.text(max_size=64))
def test_every_node_has_a_place_that_never_changes_and_is_in_the_ring_of_everybody(node):
    assert place(node) == place(node)
    assert 0 <= place(node) < EVERYBODY
    assert is_open(EVERYBODY, node)
    assert not is_open(0, node)


def test_places_are_what_another_implementation_computes():
    assert [place(f"edge-{number}") for number in (1, 2, 3)] == [57177, 42458, 60549]


def test_places_spread_evenly():
    inside = sum(is_open(EVERYBODY // 10, f"edge-{number}") for number in range(10_000))
    assert 900 < inside < 1_100


@given(st.text(max_size=64), st.integers(0, EVERYBODY))
def test_a_ring_is_open_to_exactly_the_places_below_it(node, ring):
    assert is_open(ring, node) == (place(node) < ring)
