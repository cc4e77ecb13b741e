import pytest

from common.errors import Corrupt
from services.aggregator.standing import Standing, taken, turned_away


def test_a_standing_counts_what_was_accepted_and_what_was_refused_by_code():
    found = turned_away(turned_away(taken(Standing(), 5000), "clock", 9000), "clock", 7000)
    assert found == Standing(accepted=1, refused={"clock": 2}, last_ms=9000)


@pytest.mark.parametrize("standing", [Standing(), Standing(3, {"clock": 1, "replayed": 2}, 12, 0.25)])
def test_a_standing_comes_back_from_the_broker(standing):
    assert Standing.unpack(standing.packed) == standing


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x01", b"\x81\xa1x\x01"])
def test_what_no_aggregator_wrote_is_corrupt(data):
    with pytest.raises(Corrupt, match="standing"):
        Standing.unpack(data)
