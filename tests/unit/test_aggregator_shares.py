import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregator_quorum import packets, rows

from common.errors import Corrupt
from common.wire.ngrams import crystals, entry
from services.aggregator.quorum import Brought
from services.aggregator.shares import from_bytes, to_bytes


def told(shares):
    return {domain: [(one.node, one.cut, rows(one.crystals)) for one in each] for domain, each in shares.items()}


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["heart", "d-1"]), st.lists(packets(), min_size=1, max_size=3)))
def test_shares_come_back_to_the_count(shares):
    vocab, found = from_bytes(to_bytes(300, shares))
    assert (vocab, told(found)) == (300, told(shares))


def test_nothing_brought_comes_back_too():
    assert from_bytes(to_bytes(300, {})) == (300, {})
    assert told(from_bytes(to_bytes(300, {"heart": [Brought("a", 7, crystals(()))]}))[1])["heart"][0][:2] == ("a", 7)


@pytest.mark.parametrize(
    "data", [b"", b"x" * 40, zstandard.compress(b"\x80"), to_bytes(300, {})[:-1], zstandard.compress(b"\xc1")]
)
def test_what_no_aggregator_wrote_is_corrupt(data):
    with pytest.raises(Corrupt, match="shares"):
        from_bytes(data)


def test_a_share_takes_few_bytes():
    rng = np.random.default_rng(0)
    some = sorted({(int(a), int(b)) for a, b in rng.integers(0, 300, (1000, 2))})
    each = [entry((a,), b, count=2, total=4 * sum(x == a for x, _ in some)) for a, b in some]
    assert len(to_bytes(300, {"heart": [Brought("a", 1, crystals(each))]})) < 6 * len(some)
