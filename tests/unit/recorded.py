"""What tests of an edge's record put into it, and how they look at its files."""

import numpy as np

from common.kernels.memory import count
from services.edge.answer import Interaction
from services.edge.balance import Balance
from services.edge.record import Packet, Record

DAY_S = 86_400.0


def interaction(query_id="q", **fields):
    basis = {
        "client": "c", "text": "hello", "at_s": 10.0, "domain": "heart", "basin": np.full(64, 1 / 64), "tokens": 2,
        "size_bytes": 5, "bits": 9.5, "kappa": 3.0, "phase": "FOAM",
    }  # fmt: skip
    return Interaction(query_id=query_id, **(basis | fields))


def counts(*ids):
    return count([np.array(ids, np.int32)], 3)


def packet(record, domain="heart", **fields):
    basis = {
        "sequence": record.sequence, "status": "pending", "at_s": 1.0, "base_version": 4, "base": b"b" * 8,
        "basin": b"\1" * 64, "body": b"body", "counts": counts(1, 2),
    }  # fmt: skip
    return Packet(domain=domain, **(basis | fields))


def balance(*ids):
    return Balance(counts(*ids))


def entries(memory):
    return [(table.keys.tolist(), table.counts.tolist(), table.totals.tolist()) for table in memory.tables]


def slept(record, domain="heart", **fields):
    """Whatever waits is folded, each text as the ids 7 8."""
    rows = {row: np.array([7, 8], np.int32) for row, _ in record.texts.unfolded(domain)}
    record.slept(rows, balance(7, 8), packet(record, domain, **fields))


def pruned(record, now_s, **limits):
    return record.texts.prune(now_s=now_s, **{"max_age_s": 30 * DAY_S, "max_bytes": 1 << 30} | limits)


def in_the_files(record, text):
    """Whether any file of the record holds these bytes."""
    return any(text.encode() in path.read_bytes() for path in record._file.path.parent.iterdir())


def reopened(record, now_s=2000.0):
    record.close()
    return Record(record._file.path, now_s=now_s)
