"""Batches on the micro constellation, and the jobs that ask a worker for their candidates."""

from micro import MICRO

from common.wire.bundle import part_of
from common.wire.codec import pack
from common.wire.crystals import crystals, encode, entry
from common.wire.messages import Batch, DomainUpdate, PacketRef, batch_id
from services.trainer.job import Job

SOUND = encode(crystals([entry((), 40, count=9, total=9), entry((40,), 41, count=9, total=9)]), MICRO.vocab)


def batch_of(sequence, crystals=SOUND):
    """One packet's batch, for PERCEPT."""
    ref = PacketRef(key=b"\x01" * 8, epoch=1, sequence=sequence)
    update = DomainUpdate(
        name="percept", kernel="percept", opened=False, basin=bytes(128), crystals=crystals, packets=1, tokens=9,
        fresh_bytes=30, fresh_bits=60.0,
    )  # fmt: skip
    return Batch(id=batch_id([ref]), base_version=1, base_digest="", domains=(update,), packets=(ref,))


def job_of(parts, text, batch, **change):
    """What a trainer asks for a batch on these parts."""
    listed = {path: part_of(data) for path, data in parts.items()}
    return Job(**{"batch": pack(batch), "parts": listed, "text": text.digest, "steps": 0, "seed": 0} | change)
