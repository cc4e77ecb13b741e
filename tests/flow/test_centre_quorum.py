"""What one node alone says waits at the centre for two more, through a real broker and restarts."""

import numpy as np
import pytest
from centre import NODES, Centre
from micro import MICRO

from common.constellation import parts
from common.kernels import gate, memory
from common.runtime import keys
from common.wire.crystals import crystals, decode, encode, entry
from services.aggregator.app.hashes import POOL

pytestmark = pytest.mark.anyio
EDGES = [*NODES, "edge-4", "edge-5"]
GIVEN = {"batch_packets": 2, "batch_age_s": 0.1, "crystal_edges": 3}


@pytest.fixture
def centre(tmp_path, broker_url, broker, micro_parts, monkeypatch):
    monkeypatch.setattr("services.aggregator.app.CUT_EVERY_S", 0.02)
    keys.init(tmp_path, EDGES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


def unknown(micro):
    """A pair of tokens that the bundle has not met."""
    held = set(micro.memories["percept"].tables[1].keys.tolist())
    return next((a, b) for a in range(3, 90) for b in range(3, 90) if a << 15 | b not in held)


def pairs(batch):
    found = decode(batch.domains[0].crystals, MICRO.vocab, 1 << 16).orders[1]
    return {
        (key >> 15, key & 0x7FFF): count for key, count in zip(found.keys.tolist(), found.counts.tolist(), strict=True)
    }


async def has_counted(centre, number):
    return len(await centre.counted()) == number


async def test_a_pair_counts_once_three_nodes_have_brought_it_whatever_was_restarted_between(centre, eventually, micro):
    bundle, (a, b) = await centre.release(), unknown(micro)
    said = encode(crystals([entry((a,), b, count=2, total=2)]), MICRO.vocab)
    for node in range(3):
        async with centre.running("aggregator", **GIVEN):
            await centre.send(centre.packet(bundle, node, crystals=said))
            await eventually(lambda many=node + 1: has_counted(centre, many))
        waits = await centre.broker.read_hash(POOL)
        assert list(waits) == (["percept"] if node < 2 else [])
    assert [pairs(batch) for batch in await centre.batches()] == [{}, {}, {(a, b): 6}]


async def test_what_a_domain_was_taught_counts_at_once_and_what_its_role_knows_waits(centre, eventually, micro):
    """Wrong followers that a role's memory happens to know are wrong; in a domain's own is what a quorum brought."""
    (a, b), known = unknown(micro), int(micro.memories["percept"].tables[1].keys[0])
    own = memory.count([np.array([a, b], np.int32)], 3)
    rows = tuple(map(tuple, gate.prior(3).tolist()))
    change = {"name": "d-own", "memories": ("percept", "d-own"), "gate": rows}
    domains = {**micro.domains, "d-own": micro.domains["percept"].model_copy(update=change)}
    bundle = await centre.release(change=parts.memory_part("d-own", own) | parts.domains_part(domains))
    pair = {(a,): b, (known >> 15,): known & 0x7FFF}
    said = encode(crystals([entry(context, token, count=2, total=2) for context, token in pair.items()]), MICRO.vocab)
    async with centre.running("aggregator", **GIVEN):
        await centre.send(centre.packet(bundle, domain="d-own", crystals=said))
        await eventually(lambda: has_counted(centre, 1))
    assert pairs((await centre.batches())[0]) == {(a, b): 2}
    assert list(await centre.broker.read_hash(POOL)) == ["d-own"]
