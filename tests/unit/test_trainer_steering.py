import numpy as np
import pytest

from common.errors import Rejected
from common.kernels.generate import Step, Voice
from common.kernels.tacking import Helm
from services.trainer.steering import (
    PROMPT_STRIDE,
    PROMPT_TOKENS,
    conversations,
    distinct,
    figures,
    longest_loop,
    prompts,
    renewal_lengths,
    talk,
)

NOTHING = np.zeros(64, np.float32)


def step(kappa, phase, renewal=0, token=0):
    return Step(token, NOTHING, (NOTHING,), kappa, phase, Helm(gain=2.0, renewal=renewal))


def held(micro, seed, **options):
    asked = prompts([micro.encoder.encode("the whale of the sea beside the boat. " * 12)], 1)
    return conversations(micro, "percept", asked * 2, tokens=40, seed=seed, **options)


def test_conversations_follow_their_seed(micro):
    assert held(micro, 1) == held(micro, 1) != held(micro, 2)


def test_phases_of_a_conversation_add_up_to_one(micro):
    assert sum(held(micro, 1).phases.values()) == pytest.approx(1)


def test_a_conversation_goes_on_past_the_end_of_a_document(micro):
    voice = Voice(micro.kernel("vocab"), micro.homes["vocab"], 1.0)
    prompt = micro.encoder.encode("heron: a large wading bird")
    assert len(talk([voice], prompt, tokens=90, temperature=1.5, rng=np.random.default_rng(1))) == 90


def test_the_figures_are_those_of_the_steps():
    quiet = [step(None, None), *[step(40.0, "TACKING", token=t) for t in range(4)]]
    tight = [step(60.0, "CRYSTAL"), step(90.0, "FRACTURE", 1), step(80.0, "FRACTURE", 2), step(60.0, "CRYSTAL")]
    found = figures([quiet, tight])
    assert (found.kappa, found.band) == ((40 + 70) / 2, 2 / 8)
    assert found.phases == {"FOAM": 0.0, "TACKING": 0.5, "CRYSTAL": 0.25, "FRACTURE": 0.25}
    assert (found.renewals, found.longest_renewal, found.gain, found.longest_loop) == (1, 2, 2.0, 3)


@pytest.mark.parametrize(("ages", "lengths"), [([0, 0], []), ([1, 2, 0, 0, 1, 0], [2, 1]), ([0, 1, 2, 3], [3])])
def test_renewals_are_told_apart_and_an_open_one_counts(ages, lengths):
    assert renewal_lengths([step(60.0, "CRYSTAL", age) for age in ages]) == lengths


@pytest.mark.parametrize(
    ("ids", "longest"), [([1, 2, 3, 4, 5, 6], 0), ([7, 1, 2, 1, 2, 1, 9], 3), ([5] * 40, 39), (list(range(20)) * 3, 40)]
)
def test_a_loop_is_as_long_as_what_it_repeats(ids, longest):
    assert longest_loop(np.array(ids)) == longest


def test_distinct_is_the_share_of_different_four_grams():
    assert distinct(np.array([1, 2, 3, 4, 1, 2, 3, 4])) == 4 / 5
    assert distinct(np.arange(9)) == 1


def test_beginnings_are_asked_before_what_follows_them():
    long, short = np.arange(PROMPT_STRIDE + PROMPT_TOKENS), np.arange(PROMPT_TOKENS - 1)
    whole = np.arange(PROMPT_TOKENS) + 1000
    assert [ids[0] for ids in prompts([long, short, whole], 3)] == [0, 1000, PROMPT_STRIDE]


def test_prompts_begin_again_when_the_text_is_short():
    assert [ids[0] for ids in prompts([np.arange(PROMPT_TOKENS), np.arange(PROMPT_TOKENS) + 50], 3)] == [0, 50, 0]


def test_text_without_a_single_prompt_is_rejected():
    with pytest.raises(Rejected, match="2 texts, none of 32 tokens"):
        prompts([np.arange(PROMPT_TOKENS - 1)] * 2, 1)
