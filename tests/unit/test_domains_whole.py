"""One kind of text that two edges open at once, through fold, cut, consolidation and settlement: one domain, each count
once.
"""

from dataclasses import replace

import numpy as np
import pytest
from aggregator_packets import KEYS
from test_trainer_consolidate import HELD_OUT, REPLAY
from test_trainer_endings import story

from common.constants import ROLES
from common.constellation.parts import load
from common.kernels.memory import merge, subtract
from common.wire.bundle import digest, part_of, sign
from common.wire.codec import unpack
from common.wire.messages import Candidate, Evidence
from common.wire.packet import PacketBody, key_id, open_envelope, seal
from services.aggregator.bases import base_of, expects
from services.aggregator.cut import Limits, cut
from services.edge.answer import Interaction, Serving
from services.edge.learning import fold_domain, rehome, settle_bundle
from services.edge.record import Record
from services.trainer.consolidate import consolidate
from services.trainer.updates import crystals_of

TEXTS = 3


def released(parts, version, packets=()):
    candidate = Candidate(
        id=f"c{version}", parent=version - 1, parent_digest="" if version == 1 else "ab" * 32, evidence=Evidence(),
        parts={path: part_of(data) for path, data in parts.items()}, packets=packets,
    )  # fmt: skip
    return sign(candidate, version=version, released_at_s=1.0, signing_key=KEYS[7])


def slept(record, serving, key, number):
    """An edge reads its own text of the kind, and what it would send."""
    for n in range(TEXTS):
        text = story("law", 10 * number + n)
        ids = serving.constellation.encoder.encode(text)
        basin = serving.constellation.basin(ids)
        record.texts.add(
            Interaction(f"q{n}", "c", text, 1.0, None, basin, len(ids), len(text), 9.0, None, None), b"", probe=False
        )
    fold_domain(record, serving, None, gauges={}, crystal_bytes=1024, now_s=2.0)
    (packet,) = record.packets("pending")
    raw = seal(
        unpack(PacketBody, packet.body), signing_key=key, epoch=record.epoch, sequence=packet.sequence,
        base_version=packet.base_version, base=packet.base, at_s=2.0,
    )  # fmt: skip
    record.leaving(packet.sequence, raw)
    return raw


@pytest.fixture
def records(tmp_path):
    opened = [Record(tmp_path / f"edge-{n}.db", now_s=1000.0) for n in range(2)]
    yield opened
    for record in opened:
        record.close()


def test_two_edges_that_open_one_kind_of_text_at_once_end_in_one_domain(micro, micro_parts, records, monkeypatch):
    monkeypatch.setattr("services.aggregator.territories.LINK_RADIUS_RAD", 0.0)  # as where small sleeps scatter
    first = released(micro_parts, 1)
    serving = Serving(micro, 1, digest(first), "node")
    raws = [slept(record, serving, KEYS[n], n) for n, record in enumerate(records)]
    domains, merges = micro_parts["domains.json"], micro_parts["coordizer/merge_rules.json"]
    base = base_of(first, domains=domains, kernel=micro_parts["kernels/heart.safetensors"], merges=merges)
    priors = {role: expects([micro_parts[f"memories/{role}.bin"]], base.vocab_size) for role in base.domains}
    base = replace(base, priors=priors)
    ledger = {open_envelope(raw).ref.packed: raw for raw in raws}
    batch = cut(ledger, bases=(base,), pending={}, limits=Limits(2, 60.0, 100_000)).batch
    assert [update.opened for update in batch.domains] == [True, True]
    parts = consolidate(micro_parts, batch, replay=REPLAY, held_out=HELD_OUT, steps=0, seed=0).parts
    second = released(parts, 2, batch.packets)
    after = load(parts)
    (name,) = set(after.domains) - set(ROLES)
    assert after.domains[name].formerly == tuple(each.name for each in batch.domains if each.name != name)
    now = Serving(after, 2, digest(second), "node")
    for n, record in enumerate(records):
        key, whole = key_id(KEYS[n].verify_key), record.residue(None)
        assert settle_bundle(record, now, second, key=key, entry_id="5-0", now_s=3.0) == (0,)
        assert rehome(record, now) == []
        (packet,) = record.packets("acknowledged")
        assert alike(record.residue(name), subtract(whole, packet.counts))
        assert set(record.balances()) <= {name}
    assert alike(after.memories[name], merge([crystals_of(update, micro) for update in batch.domains]))


def alike(one, other):
    return all(
        np.array_equal(a.keys, b.keys) and np.array_equal(a.counts, b.counts)
        for a, b in zip(one.tables, other.tables, strict=True)
    )
