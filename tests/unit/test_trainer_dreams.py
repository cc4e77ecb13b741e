"""What a state learns asleep: replayed text and dreams, in a run that can be killed."""

import numpy as np
import pytest
from micro import MICRO
from test_trainer_consolidate import REPLAY, run, update
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constellation.parts import load
from common.coordizer.artifacts import EOS
from common.kernels import memory
from services.trainer import dreams as room
from services.trainer import loop
from services.trainer.dreams import (
    DREAMS,
    REPLAY_SHARE,
    WINDOWS,
    dream,
    joined,
    learned,
    lesson,
    replayed,
    spoken,
)

STEPS = 6


@pytest.fixture(scope="module")
def merged(micro, micro_parts):
    return load(run(micro_parts, update(micro)).parts)


@pytest.fixture
def given(merged):
    return lesson(merged, "d-new", REPLAY, STEPS, np.random.default_rng(1))


def bits_of(state):
    return {name: tensor.tobytes() for name, tensor in state.weights.items()}


def test_dreams_begin_with_the_domain_s_own_crystals(merged):
    dreams = dream(merged, "d-new", np.random.default_rng(1))
    starts = np.concatenate([[-1], np.flatnonzero(dreams == EOS)[:-1]]) + 1
    known = set(merged.memories["d-new"].tables[2].keys.tolist())
    assert {int(memory.pack(dreams[s : s + 3], 2)[0]) for s in starts} <= known
    assert (len(starts), dreams[-1]) == (DREAMS, EOS)
    assert np.array_equal(dreams, dream(merged, "d-new", np.random.default_rng(1)))


def test_a_text_as_it_stands_goes_on_with_its_own_tokens():
    one, other = np.array([3, 4, 5], np.int32), np.array([6, 7], np.int32)
    both = joined([spoken(one), spoken(other)])
    assert both.text.tolist() == [3, 4, 5, 6, 7]
    assert both.following.tolist() == [4, 5, EOS, 7, EOS]


@pytest.mark.parametrize("steps", [1, 2, 100])
def test_replay_takes_whole_texts_by_lot_until_the_steps_have_enough(merged, steps):
    size = len(merged.encoder.encode(REPLAY["percept"][0][:300])) + 1
    given = {"percept": [REPLAY["percept"][0][:300]] * 20}
    found = replayed(merged, "percept", given, steps, np.random.default_rng(1))
    wanted = min(20, -(-steps * WINDOWS * MICRO.context // size))
    assert (len(found), int((found == EOS).sum())) == (wanted * size, wanted)


def test_of_a_lesson_a_fifth_is_dreamt(merged, given):
    known = replayed(merged, "percept", REPLAY, STEPS, np.random.default_rng(1))
    dreamt = len(given.text) - len(known)
    assert given.text[: len(known)].tolist() == known.tolist()
    assert np.array_equal(given.following[:-1][given.text[:-1] != EOS], given.text[1:][given.text[:-1] != EOS])
    assert dreamt >= DREAMS * (MICRO.context // 2)
    assert dreamt <= max(len(known) / REPLAY_SHARE, DREAMS * (MICRO.context + 1))


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_STEPS", 2)


def test_a_run_killed_between_two_checkpoints_ends_in_the_same_bits_and_words(
    merged, given, often, tmp_path, monkeypatch
):
    state = merged.states["percept"]
    whole = learned(state, given, STEPS, 1, None)
    step = loop._step

    def dies(run, *args):
        if run.step == 3:
            raise KeyboardInterrupt
        return step(run, *args)

    monkeypatch.setattr(loop, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        learned(state, given, STEPS, 1, tmp_path)
    monkeypatch.setattr(loop, "_step", lambda run, *args: step(run, *args) if run.step >= 2 else pytest.fail("from 0"))
    again = learned(state, given, STEPS, 1, tmp_path)
    assert bits_of(again[0]) == bits_of(whole[0])
    assert again[1] == whole[1]


def test_a_torn_checkpoint_is_made_again(merged, given, often, tmp_path):
    state = merged.states["percept"]
    whole = learned(state, given, STEPS, 1, tmp_path)
    (kept,) = tmp_path.glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-3])
    assert bits_of(learned(state, given, STEPS, 1, tmp_path)[0]) == bits_of(whole[0])


@pytest.mark.parametrize("other", ["text", "following", "seed", "steps", "state"])
def test_a_checkpoint_of_another_run_is_not_gone_on_from(merged, given, often, tmp_path, other):
    state, steps, seed = merged.states["percept"], STEPS, 1
    learned(state, given, steps, seed, tmp_path)
    odd = {
        "text": room.Lesson(np.roll(given.text, 1), given.following),
        "following": room.Lesson(given.text, np.roll(given.following, 1)),
    }.get(other, given)
    state = merged.states["heart"] if other == "state" else state
    seed, steps = seed + (other == "seed"), steps + (other == "steps")
    found = learned(state, odd, steps, seed, tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    assert bits_of(found[0]) == bits_of(learned(state, odd, steps, seed, None)[0])
