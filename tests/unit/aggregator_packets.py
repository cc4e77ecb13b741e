"""Packets to hold against the aggregator: every field right, so that a test changes the one it is about."""

import numpy as np
from nacl.signing import SigningKey

from common.constants import CELLS, ROLES
from common.constellation.domains import Domain
from common.coordizer.artifacts import FIRST_MERGE
from common.kernels import gate
from common.wire import basin
from common.wire.crystals import crystals, encode, entry
from common.wire.packet import PacketBody, key_id, open_envelope, seal
from services.aggregator.bases import Base

VOCAB = 512
MERGES = tuple((n // 16, n % 16) for n in range(VOCAB - FIRST_MERGE))
AT_MS = 1_700_000_000_000
KEYS = [SigningKey(bytes([n]) * 32) for n in range(8)]
ENROLLED = {key_id(key.verify_key): (f"edge-{n}", key.verify_key) for n, key in enumerate(KEYS)}
NODES = {key: node for key, (node, _) in ENROLLED.items()}


def peak(cell, share=0.5):
    """A basin with `share` of its mass in one cell: two of them lie 1.5 rad apart."""
    p = np.full(CELLS, (1 - share) / (CELLS - 1))
    p[cell] = share
    return p


ROLE_BASINS = {role: peak(8 * n) for n, role in enumerate(ROLES)}


def domain(name, at, role="percept", memories=None):
    names = memories or (name,)
    rows = tuple(map(tuple, gate.prior(1 + len(names)).tolist()))
    return Domain(
        name=name, role=role, memories=names, basin=tuple(at.tolist()), radius_rad=0.2, bits_per_byte=2.0, gate=rows
    )


def base(version, *extra, vocab=VOCAB):
    domains = {role: domain(role, at, role) for role, at in ROLE_BASINS.items()}
    domains |= {one.name: one for one in extra}
    return Base(version, f"{version:064x}"[::-1], vocab, MERGES[: vocab - FIRST_MERGE], domains)


BASES = (base(4), base(5), base(6))


def ngrams(*entries, vocab=VOCAB):
    return encode(crystals([entry(ctx, token, count=c, total=t) for ctx, token, c, t in entries]), vocab)


CRYSTALS = ngrams(((), 7, 4, 64), ((7,), 9, 3, 4))


def body(**change):
    at = change.pop("at", ROLE_BASINS["percept"])
    fields = {
        "kernel": "percept",
        "domain": "percept",
        "basin": basin.to_bytes8(at),
        "interactions": 3,
        "tokens": 300,
        "fresh_bytes": 1000,
        "fresh_bits": 2500.0,
        "phi": 0.8,
        "kappa": 60.0,
        "phases": (0, 1, 3, 0),
        "crystals": CRYSTALS,
    }
    return PacketBody(**{**fields, **change})


def packet(key=0, sequence=1, epoch=1, on=None, at_s=AT_MS / 1000, **change):
    """The raw bytes of a packet by edge `key`, on the newest base unless `on` says another."""
    based = on or BASES[-1]
    return seal(
        body(**change),
        signing_key=KEYS[key],
        epoch=epoch,
        sequence=sequence,
        base_version=based.version,
        base=based.prefix,
        at_s=at_s,
    )


def ledger(*raws):
    """The packets as the broker keeps them once admitted, in this order of arrival."""
    return {open_envelope(raw).ref.packed: raw for raw in raws}
