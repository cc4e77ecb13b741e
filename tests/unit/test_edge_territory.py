import pytest

from common.geometry.routing import Route, Step
from services.edge.territory import BADLY_PREDICTED, NEAR_FACTOR, OPEN_MIN_BYTES, territory

RADIUS, OWN = 0.8, 4.0  # of every domain in the micro constellation


def judge(micro, distance, *, bits_per_byte=OWN, size_bytes=1024, second=2.0):
    steps = (Step("heart", distance, 0.9), Step("vocab", second, 0.1))
    found = Route(steps, second - distance, abstained=False)
    return territory(found, micro.domains, bits=bits_per_byte * size_bytes, size_bytes=size_bytes)


@pytest.mark.parametrize(("distance", "expected"), [(RADIUS - 1e-6, "heart"), (RADIUS, "heart"), (RADIUS + 1e-6, None)])
def test_a_text_beyond_every_radius_is_new_territory(micro, distance, expected):
    assert judge(micro, distance) == expected


def test_one_domain_that_reaches_it_is_enough(micro):
    wide = {"heart": micro.domains["heart"], "vocab": micro.domains["vocab"].model_copy(update={"radius_rad": 2.0})}
    steps = (Step("heart", 0.9, 0.9), Step("vocab", 1.0, 0.1))
    assert territory(Route(steps, 0.1, abstained=False), wide, bits=1.0, size_bytes=1024) == "heart"


@pytest.mark.parametrize(("factor", "expected"), [(0.999, "heart"), (1.0, "heart"), (1.001, None)])
def test_bad_prediction_opens_what_is_not_near(micro, factor, expected):
    assert judge(micro, RADIUS * (NEAR_FACTOR + 0.01), bits_per_byte=OWN * BADLY_PREDICTED * factor) == expected


@pytest.mark.parametrize(("distance", "expected"), [(0.599, "heart"), (0.6, "heart"), (0.601, None)])
def test_what_is_near_is_never_opened_by_bad_prediction(micro, distance, expected):
    assert round(NEAR_FACTOR * RADIUS, 9) == 0.6
    assert judge(micro, distance, bits_per_byte=OWN * 3) == expected


@pytest.mark.parametrize(("size_bytes", "expected"), [(OPEN_MIN_BYTES - 1, "heart"), (OPEN_MIN_BYTES, None)])
def test_a_short_text_opens_nothing(micro, size_bytes, expected):
    assert judge(micro, 1.5, size_bytes=size_bytes) == expected


def test_a_domain_without_a_figure_of_its_own_is_judged_by_distance_alone(micro):
    blank = {"heart": micro.domains["heart"].model_copy(update={"bits_per_byte": None})}
    steps = (Step("heart", RADIUS * 0.9, 1.0),)
    assert territory(Route(steps, 1.0, abstained=False), blank, bits=1e9, size_bytes=1024) == "heart"


@pytest.mark.parametrize(("distance", "expected"), [(0.0, "heart"), (1e-9, None)])
def test_a_domain_without_extent_holds_its_own_point_only(micro, distance, expected):
    point = {"heart": micro.domains["heart"].model_copy(update={"radius_rad": 0.0})}
    assert (
        territory(Route((Step("heart", distance, 1.0),), 1.0, abstained=False), point, bits=1.0, size_bytes=1024)
        == expected
    )
