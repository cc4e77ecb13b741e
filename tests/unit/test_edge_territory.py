import math

import pytest

from common.geometry.routing import Route, Step
from services.edge.territory import OPEN_MIN_BYTES, limit, territory

RADIUS, OWN, KB = 0.8, 4.0, 1024  # of every domain in the micro constellation
EDGE = RADIUS * limit(KB)


def routed(*steps):
    return Route(tuple(Step(name, distance, 0.5) for name, distance in steps), 1.0, abstained=False)


def judge(micro, distance, *, badly=1.0, size_bytes=KB):
    found = routed(("heart", distance), ("vocab", 3.0))
    return territory(found, micro.domains, bits=OWN * badly * size_bytes, size_bytes=size_bytes)


@pytest.mark.parametrize(("distance", "expected"), [(EDGE - 1e-6, "heart"), (EDGE + 1e-6, None)])
def test_a_text_far_from_every_domain_is_new_territory(micro, distance, expected):
    assert judge(micro, distance) == expected


@pytest.mark.parametrize(("badly", "expected"), [(1.249, "heart"), (1.251, None)])
def test_bad_prediction_makes_up_for_distance(micro, badly, expected):
    assert judge(micro, EDGE / 1.25, badly=badly) == expected


def test_what_is_well_predicted_may_lie_farther_out(micro):
    assert judge(micro, EDGE * 1.1, badly=0.8) == "heart"


def test_one_domain_that_reaches_it_is_enough(micro):
    wide = {"heart": micro.domains["heart"], "vocab": micro.domains["vocab"].model_copy(update={"radius_rad": 2.0})}
    found = routed(("heart", 0.9), ("vocab", 1.0))
    assert territory(found, wide, bits=OWN * KB, size_bytes=KB) == "heart"
    assert territory(found, micro.domains, bits=OWN * KB, size_bytes=KB) is None


@pytest.mark.parametrize(("size_bytes", "expected"), [(OPEN_MIN_BYTES - 1, "heart"), (OPEN_MIN_BYTES, None)])
def test_a_short_text_opens_nothing(micro, size_bytes, expected):
    assert judge(micro, 2.5, size_bytes=size_bytes) == expected


def test_the_limit_narrows_as_texts_grow():
    limits = [limit(size_bytes) for size_bytes in (512, 1024, 4096, 16_384)]
    assert limits == sorted(limits, reverse=True)
    assert math.isclose(limits[1], 0.95)


@pytest.mark.parametrize("own", [None, 0.0])
def test_a_domain_without_a_figure_of_its_own_is_judged_by_distance_alone(micro, own):
    blank = {"heart": micro.domains["heart"].model_copy(update={"bits_per_byte": own})}
    assert territory(routed(("heart", EDGE - 1e-6)), blank, bits=1e9, size_bytes=KB) == "heart"


@pytest.mark.parametrize(("distance", "expected"), [(0.0, "heart"), (1e-9, None)])
def test_a_domain_without_extent_holds_its_own_point_only(micro, distance, expected):
    point = {"heart": micro.domains["heart"].model_copy(update={"radius_rad": 0.0})}
    assert territory(routed(("heart", distance)), point, bits=OWN * KB, size_bytes=KB) == expected
