import xml.etree.ElementTree as ET

import numpy as np
import pytest

from common.constants import ROLES
from common.coordizer.trace import COLLAPSE_LOOKS, COLLAPSE_P, SAMPLE_WORDS, Look, Watch, _even, collapsed, read, svg
from common.coordizer.train import train_words
from common.coordizer.words import Reader

RNG = np.random.default_rng(0)
BASINS = RNG.dirichlet(np.full(64, 0.2), 50)


def looks(*values):
    return tuple(Look(300 + 100 * i, 0.2, value, p) for i, (value, p) in enumerate(values))


def test_a_stream_in_which_tokens_follow_each_other_reads_more_than_a_shuffled_one():
    stream = (np.arange(9600) % 50).astype(np.int32)
    assert read(stream, BASINS).phi > 0.3
    assert read(RNG.permutation(stream), BASINS).phi < 0.02


def test_a_stream_too_short_or_still_has_no_phi():
    assert read(np.zeros(10, np.int32), BASINS).phi is None
    assert read(RNG.integers(0, 50, 320).astype(np.int32), BASINS).phi is None
    assert read(np.full(6400, 7, np.int32), BASINS).phi is None


SURE, CHANCE, EDGE, LOST = (0.05, 1e-9), (0.001, 0.4), (0.01, COLLAPSE_P), (None, None)


@pytest.mark.parametrize(
    ("values", "fallen"),
    [
        ((SURE, CHANCE, CHANCE, CHANCE), True),
        ((SURE, LOST, CHANCE, EDGE), True),
        ((SURE, CHANCE, (0.02, COLLAPSE_P / 2), CHANCE), False),
        ((SURE, CHANCE, CHANCE), False),
        ((CHANCE, CHANCE, CHANCE, SURE), False),
        ((LOST, LOST, LOST, LOST), False),
        ((CHANCE,) * (COLLAPSE_LOOKS - 1), False),
        ((), False),
    ],
)
def test_a_collapse_is_chance_three_times_at_the_end(values, fallen):
    assert collapsed(looks(*values)) == fallen


def test_a_watch_looks_at_regular_counts_and_at_the_end():
    reader = Reader()
    text = reader.read("the heron waded through the marsh and the cold marsh was grey " * 300)
    watch = Watch([[text]] + [[]] * (len(ROLES) - 1))

    def checkpoint(done, now):
        if watch.due(done):
            watch.look(done, now())

    training = train_words(reader.words(), vocab_size=290, checkpoint=checkpoint)
    seen = watch.looks(training.midpoints)
    assert 8 <= len(seen) <= 12
    assert seen[-1].ids == 290
    assert all(look.phi == look.phi_midpoints for look in seen)


@pytest.mark.parametrize(("words", "taken"), [(5, 5), (SAMPLE_WORDS, SAMPLE_WORDS), (10 * SAMPLE_WORDS, SAMPLE_WORDS)])
def test_a_sample_is_even_and_bounded(words, taken):
    sample = _even(np.arange(words, dtype=np.int32))
    assert len(sample) == taken
    assert sample[-1] == words - 1


def test_the_drawing_is_well_formed_and_leaves_out_what_is_not_known():
    root = ET.fromstring(svg(looks(SURE, LOST, SURE)))
    lines = [line.get("points").split() for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [3, 2, 3]
    assert svg(()).startswith("<svg")
