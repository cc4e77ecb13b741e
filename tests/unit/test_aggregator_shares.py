import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import yaml
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_aggregator_quorum import packets, rows

from common.errors import Corrupt
from common.wire.ngrams import MAX_VOCAB, SHIFT, Crystals, Order, context_starts, crystals, entry
from services.aggregator.quorum import Brought
from services.aggregator.shares import MAX_BYTES, from_bytes, to_bytes

ROOT = Path(__file__).resolve().parents[2]
READ = 3.5  # bytes of memory for a byte of shares, at most
USUAL_BYTES = 233 << 20  # what an aggregator was seen to take (docs/deploy.md)


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


def counted(rng, size, bits):
    keys = np.unique(rng.integers(0, 1 << bits, size, dtype=np.uint64))
    starts = context_starts(keys)
    totals = np.full(len(starts), MAX_VOCAB, np.uint32)
    return Order(keys, np.ones(len(keys), np.uint32), keys[starts] >> SHIFT, totals)


@pytest.mark.parametrize(("nodes", "each"), [(20, 16_000), (500, 150)])
def test_shares_are_written_and_read_in_the_memory_that_the_aggregator_has(nodes, each):
    """What these take for a byte, the most that a cut may write takes too."""
    rng = np.random.default_rng(0)
    some = [
        Brought(
            f"edge-{n}", 1, Crystals(tuple(counted(rng, each * of // 8, 15 * k) for of, k in ((1, 1), (2, 2), (5, 3))))
        )
        for n in range(nodes)
    ]
    raw = len(zstandard.decompress(to_bytes(MAX_VOCAB, {"heart": some})))
    peaks = []
    tracemalloc.start()
    try:
        data = to_bytes(MAX_VOCAB, {"heart": some})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        _, found = from_bytes(data)
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert len(found["heart"]) == nodes
    wrote, read = (peak / raw for peak in peaks)
    assert wrote < 2.0
    assert read < READ
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert compose["services"]["aggregator"]["mem_limit"] == "1g"
    assert USUAL_BYTES + READ * MAX_BYTES <= 1 << 30


def test_a_share_takes_few_bytes():
    rng = np.random.default_rng(0)
    some = sorted({(int(a), int(b)) for a, b in rng.integers(0, 300, (1000, 2))})
    each = [entry((a,), b, count=2, total=4 * sum(x == a for x, _ in some)) for a, b in some]
    assert len(to_bytes(300, {"heart": [Brought("a", 1, crystals(each))]})) < 6 * len(some)
