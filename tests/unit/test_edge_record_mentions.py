"""What an edge mentioned and what is common, on disk."""

import numpy as np
import pytest
from recorded import balance, counts, interaction, packet, reopened

from services.edge.record import mentions
from services.edge.record import record as steps


def hashes(*values):
    return np.array(values, np.uint32)


def mentioning(record, *values):
    """A sleep whose packet mentions these; its sequence."""
    sequence = record.sequence
    record.slept({}, balance(), packet(record, counts=counts()), None, hashes(*values))
    return sequence


def known(record):
    return record.mentions.mentioned().tolist(), record.mentions.common().tolist()


def test_what_was_mentioned_and_what_is_common_is_known_after_a_restart(record):
    mentioning(record, 9, 2**32 - 1)
    mentioning(record, 9, 4)
    record.mentions.heard(hashes(4, 5), [], cursor="7-0", at_s=2.0)
    record.close()
    again = reopened(record, now_s=3000.0)
    assert known(again) == ([9, 2**32 - 1], [4, 5])
    assert (again.mentions.common_cursor, again.cursor) == ("7-0", None)
    again.close()


def test_hearing_settles_packets_and_twice_is_once(record):
    sequence = mentioning(record, 9)
    for _ in range(2):
        record.mentions.heard(hashes(9), [sequence], cursor="7-0", at_s=2.0)
    assert known(record) == ([], [9])
    assert [packet.sequence for packet in record.packets("acknowledged")] == [sequence]


def test_what_a_lost_packet_mentioned_goes_out_again_and_what_a_pending_one_did_not_yet(record):
    lost, waiting = mentioning(record, 1, 2), mentioning(record, 3)
    record.sent(lost, b"raw", at_s=2.0)
    record.lose([lost, waiting], at_s=3.0)
    assert known(record) == ([3], [])


def test_what_a_withdrawn_packet_mentioned_was_never_mentioned(record):
    record.texts.add(interaction(), b"", probe=False)
    rows = {row: np.array([7, 8], np.int32) for row, _ in record.texts.unfolded("heart")}
    record.slept(rows, balance(7, 8), packet(record), None, hashes(1, 2))
    record.forget(record.texts.find("c", "q").row, "heart", balance(), [0])
    assert known(record) == ([], [])


@pytest.mark.parametrize(("limit", "kept"), [(3, [3, 4]), (4, [1, 2, 3, 4]), (5, [1, 2, 3, 4])])
def test_of_mentions_the_oldest_packet_s_go_first(record, monkeypatch, limit, kept):
    monkeypatch.setattr(steps, "MENTIONED_MAX", limit)
    mentioning(record, 1, 2)
    mentioning(record, 3, 4)
    assert known(record) == (kept, [])


@pytest.mark.parametrize(("limit", "kept"), [(3, [3, 4]), (4, [1, 2, 3, 4]), (5, [1, 2, 3, 4])])
def test_of_what_is_common_what_was_told_first_goes_first(record, monkeypatch, limit, kept):
    monkeypatch.setattr(mentions, "COMMON_MAX", limit)
    record.mentions.heard(hashes(1, 2), [], cursor="1-0", at_s=2.0)
    record.mentions.heard(hashes(3, 4), [], cursor="2-0", at_s=2.0)
    assert known(record) == ([], kept)
