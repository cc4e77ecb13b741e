"""A constellation routes, reads and speaks; one that could not is refused."""

from dataclasses import replace

import numpy as np
import pytest
from micro import SENTENCES

from common.constants import ROLES
from common.constellation.constellation import MARGIN_MIN_RAD
from common.errors import Rejected


@pytest.mark.parametrize("field", ["states", "homes", "domains"])
def test_a_constellation_without_a_role_is_rejected(micro, field):
    kept = {name: value for name, value in getattr(micro, field).items() if name != "percept"}
    with pytest.raises(Rejected, match="no kernel for percept"):
        replace(micro, **{field: kept})


def test_a_domain_whose_memory_is_not_there_is_rejected(micro):
    odd = micro.domains["heart"].model_copy(update={"memories": ("gone",)})
    with pytest.raises(Rejected, match="domain heart names memories that are not there: gone"):
        replace(micro, domains={**micro.domains, "heart": odd})


@pytest.mark.parametrize("role", ROLES)
def test_each_domain_s_own_words_are_routed_to_it(micro, role):
    found = micro.route(micro.basin(micro.encoder.encode(SENTENCES[role] * 3)))
    assert found.steps[0].name == role
    assert len(found.steps) == 4


def test_the_router_abstains_under_its_margin(micro):
    twin = micro.domains["percept"].model_copy(update={"name": "twin"})
    ids = micro.encoder.encode(SENTENCES["percept"] * 3)
    doubled = replace(micro, domains={**micro.domains, "twin": twin})
    alone = micro.route(micro.basin(ids))
    assert doubled.route(micro.basin(ids)).abstained
    assert alone.abstained == (alone.margin_rad < MARGIN_MIN_RAD)


def test_an_empty_text_lies_nowhere(micro):
    with pytest.raises(Rejected, match="no_tokens"):
        micro.basin(np.empty(0, np.int32))


def test_bits_are_the_sum_over_the_places_of_a_reading(micro):
    ids = micro.encoder.encode(SENTENCES["heart"])
    reading = micro.read(ids, "heart")
    assert micro.bits(ids, "heart") == pytest.approx(reading.bits(micro.domains["heart"].gate_array).sum())
    assert micro.bits(ids, "heart") < micro.bits(ids, "strategy")


def test_speech_is_a_function_of_its_generator(micro):
    prompt = micro.encoder.encode("The sea")
    said = [
        [s.token for s in micro.speak(prompt, {"percept": 0.7, "heart": 0.3}, max_tokens=8, temperature=1.0, rng=rng)]
        for rng in map(np.random.default_rng, (1, 1, 2))
    ]
    assert said[0] == said[1] != said[2]


def test_the_first_domain_leads_and_the_others_have_their_share(micro):
    prompt = micro.encoder.encode("The sea")
    said = {
        share: [
            s.token
            for s in micro.speak(
                prompt,
                {"percept": share, "strategy": 1 - share},
                max_tokens=6,
                temperature=0.0,
                rng=np.random.default_rng(0),
            )
        ]
        for share in (1.0, 0.0)
    }
    assert said[1.0] != said[0.0]
