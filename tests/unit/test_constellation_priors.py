import numpy as np

from common.constellation.priors import prior_of
from common.kernels import memory_file
from common.kernels.memory import Memory, count
from common.wire.levels import LEVELS

TEXT = np.array([5, 7, 5, 7, 5, 9, 5, 7], np.int32)


def rows(prior):
    """What is expected, as numbers: the level of each token, the followers of each with theirs."""
    levels, starts, followers, heard = (each.tolist() for each in prior.expected)
    pairs = {
        (token, followers[at]): heard[at]
        for token in range(len(levels))
        for at in range(starts[token], starts[token + 1])
    }
    return {token: level for token, level in enumerate(levels) if level}, pairs


def test_tokens_and_pairs_are_expected_as_often_as_they_were_heard():
    assert rows(prior_of([count([TEXT])], 16)) == ({5: 4, 7: 3, 9: 1}, {(5, 7): 3, (5, 9): 1, (7, 5): 2, (9, 5): 1})
    assert [LEVELS[level - 1] for level in (4, 3, 1)] == [4, 3, 1]


def test_a_domain_expects_what_its_role_and_it_heard_together():
    both, apart = prior_of([count([TEXT]), count([TEXT])], 16), prior_of([count([TEXT, TEXT])], 16)
    assert both.name == apart.name
    assert rows(both)[0] == {5: 6, 7: 5, 9: 2}


def test_who_heard_nothing_expects_nothing():
    for silent in ([], [Memory(())], [count([], 3)]):
        prior = prior_of(silent, 16)
        assert rows(prior) == ({}, {})
        assert len(prior.expected.starts) == 17


def test_what_an_edge_has_and_what_the_centre_reads_from_the_bundle_s_part_expect_the_same(micro, micro_parts):
    part = memory_file.from_bytes(micro_parts["memories/heart.bin"], 320)
    own = prior_of(micro.kernel("heart").memories, 320)
    assert prior_of([part], 320).name == own.name
    assert prior_of(micro.kernel("percept").memories, 320).name != own.name
