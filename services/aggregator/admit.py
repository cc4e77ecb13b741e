"""Whether a packet is counted: the whole question, asked of one packet, its key's replay window and the known bundles.

    open_packet   malformed, oversized                                 the envelope, nothing believed yet
    admit         unknown_key, bad_signature                           who says it
                  stale_epoch, replayed, stale_sequence                was it counted before
                  base_window, clock                                   is it of now
                  implausible                                          can it be true

In this order, so that nothing is decoded that was not signed by an enrolled edge. Everything is refused as Rejected and
never retried; only a bad signature is Corrupt, because somebody publishes under another's name, and that is an alarm.
Knows nothing of streams or hashes: the caller stores the packet and the window that `admit` returns, or neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from nacl.signing import VerifyKey

from common.errors import Rejected
from common.kernels import gate
from common.wire import basin, crystals, mentions, packet, proposals
from common.wire.crystals import PACKET_MAX_COUNTED, PACKET_MAX_ENTRIES, PACKET_MAX_TOTAL, Crystals
from common.wire.mentions import Hashes
from common.wire.messages import PacketRef
from common.wire.ngrams import implied
from common.wire.packet import Envelope, PacketBody
from common.wire.proposals import Proposal
from services.aggregator.bases import Base, Bases, find
from services.aggregator.replay import ReplayWindow, advance

CLOCK_WINDOW_S: Final = 300.0  # settled: DESIGN.md, section 7
KAPPA_MAX: Final = 1e9  # chosen: a pure loop reads in the thousands; this is float noise around R = 1
FRESH_MAX_BYTES: Final = 1 << 28  # chosen: more than an edge reads in a day; keeps the sums of a batch exact
GATE_ROUNDING: Final = 1.05
BITS_PER_BYTE_MAX: Final = 64.0  # what a domain may state (common/constellation/domains.py); uniform bytes take 8

Floats = npt.NDArray[np.float64]
Enrolled = Mapping[bytes, tuple[str, VerifyKey]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A packet that counts. node: who sent it; told: its n-grams, with the shorter ones that they imply; window: its
    key's replay window once it is counted.
    """

    ref: PacketRef
    node: str
    base: Base
    body: PacketBody
    told: Crystals
    window: ReplayWindow


def open_packet(raw: bytes) -> Envelope:
    """The envelope of a packet, signature unchecked. Raises Rejected: oversized, malformed."""
    try:
        return packet.open_envelope(raw)
    except Rejected as error:
        code = "oversized" if error.code == "packet_too_large" else "malformed"
        raise Rejected(code, f"no sleep packet: {error.message}") from None


def admit(
    envelope: Envelope, *, enrolled: Enrolled, replay: ReplayWindow | None, entry_ms: int, bases: Bases
) -> Admitted:
    """The packet, once everything about it holds.

    enrolled: key id to node and key; replay: the key's window, None before its first packet; entry_ms: when the broker
    took the packet, by its clock; bases: not empty. Raises Rejected and Corrupt with the codes of this file's head.
    """
    node, verify_key = _signer(envelope, enrolled)
    body = _body(envelope, verify_key)
    window = advance(replay, epoch=envelope.epoch, sequence=envelope.sequence)
    base = _base(envelope, bases)
    _check_clock(envelope, entry_ms)
    told = _check_body(body, base)
    return Admitted(envelope.ref, node, base, body, told, window)


def _signer(envelope: Envelope, enrolled: Enrolled) -> tuple[str, VerifyKey]:
    if envelope.key not in enrolled:
        raise Rejected(
            "unknown_key",
            f"key {envelope.key.hex()} is not enrolled: put the node's .pub file into trust/edges to let it in",
        )
    return enrolled[envelope.key]


def _body(envelope: Envelope, verify_key: VerifyKey) -> PacketBody:
    try:
        return packet.verify(envelope, verify_key)
    except Rejected as error:  # signed, but no body: an edge with another version of this software
        raise Rejected("malformed", f"no packet body: {error.message}") from None


def _base(envelope: Envelope, bases: Bases) -> Base:
    base = find(bases, envelope.base_version, envelope.base)
    if base is None:
        known = ", ".join(f"{b.version} ({b.prefix.hex()})" for b in bases)
        raise Rejected(
            "base_window",
            f"based on bundle {envelope.base_version} ({envelope.base.hex()}); packets may be based on {known}: "
            "the edge must apply a current bundle first",
        )
    return base


def _check_clock(envelope: Envelope, entry_ms: int) -> None:
    off_s = envelope.at_s - entry_ms / 1000
    if abs(off_s) > CLOCK_WINDOW_S:
        word = "after" if off_s > 0 else "before"
        raise Rejected(
            "clock",
            f"signed {abs(off_s):.0f} s {word} the broker took it; {CLOCK_WINDOW_S:.0f} s are allowed: "
            "set the edge's clock, or seal the packet when it is sent",
        )


def _check_body(body: PacketBody, base: Base) -> Crystals:
    """The n-grams of a body that can be true, with those that they imply: what a merge will add."""
    if body.domain is not None and body.domain not in base.domains:
        raise Rejected("implausible", f"domain {body.domain} is not in bundle {base.version}: send it as new territory")
    if body.kappa is not None and body.kappa > KAPPA_MAX:
        raise Rejected("implausible", f"kappa is {body.kappa:.3g}; the limit is {KAPPA_MAX:.0g}")
    if body.tokens > PACKET_MAX_TOTAL or body.fresh_bytes > FRESH_MAX_BYTES:
        raise Rejected(
            "implausible",
            f"{body.tokens} tokens and {body.fresh_bytes} fresh bytes in one sleep; "
            f"{PACKET_MAX_TOTAL} and {FRESH_MAX_BYTES} are the limits",
        )
    if body.fresh_bits > BITS_PER_BYTE_MAX * body.fresh_bytes:
        raise Rejected(
            "implausible",
            f"{body.fresh_bits:.0f} bits for {body.fresh_bytes} fresh bytes; "
            f"{BITS_PER_BYTE_MAX:.0f} bits a byte is the limit",
        )
    try:
        basin.from_bytes8(body.basin)
        _check_gate(read_gate(body), body.tokens)
        found = read_crystals(body, base)
        read_mentions(body)
        read_merges(body, base)
        told = implied(found)
    except Rejected as error:
        raise Rejected("implausible", f"{error.code}: {error.message}") from None
    _check_counts(found, body.tokens)
    return told


def _check_gate(sums: Floats | None, tokens: int) -> None:
    """Each token is heard in one bucket. The wire rounds a bucket's tokens by 4.5 % (gate.py)."""
    heard = 0.0 if sums is None else float(sums.sum())
    if heard > GATE_ROUNDING * tokens + gate.BUCKETS:
        raise Rejected("bad_gate", f"a gate that heard {heard:.0f} tokens where {tokens} were read")


def read_crystals(body: PacketBody, base: Base) -> Crystals:
    """The crystals of a packet; none when it brings none. Raises Rejected as crystals.decode."""
    if not body.crystals:
        return crystals.crystals(())
    prior = base.prior(body.domain, body.kernel)
    return crystals.decode(body.crystals, base.vocab_size, PACKET_MAX_ENTRIES, max_total=PACKET_MAX_TOTAL, prior=prior)


def read_gate(body: PacketBody) -> Floats | None:
    """Gate statistics (BUCKETS, experts), None when the packet brings none. Raises Rejected("bad_gate")."""
    return gate.from_bytes(body.gate, len(body.gate) // gate.BUCKETS) if body.gate else None


def read_mentions(body: PacketBody) -> Hashes:
    """The hashes that a packet mentions. Raises Rejected("bad_mentions")."""
    return mentions.decode(body.mentions, mentions.PACKET_MAX_MENTIONS)


def read_merges(body: PacketBody, base: Base) -> tuple[Proposal, ...]:
    """The merges that a packet proposes. Raises Rejected("bad_merges")."""
    return proposals.decode(body.merges, base.vocab_size)


def _check_counts(found: Crystals, tokens: int) -> None:
    """Each token ends one n-gram an order, so the counts of an order cannot exceed the tokens read, now or earlier."""
    for order, table in enumerate(found.orders):
        counted = int(table.counts.sum(dtype=np.uint64))
        if counted > tokens + PACKET_MAX_COUNTED:
            raise Rejected(
                "implausible",
                f"n-grams of {order + 1} tokens counted {counted} times in {tokens} tokens; "
                f"at most {PACKET_MAX_COUNTED} may have waited from earlier texts",
            )
