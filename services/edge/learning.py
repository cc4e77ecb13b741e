"""The record and the pure rooms together: what is due, a fold on disk, a settlement on disk. Each is one transaction.

Knows no broker. The shell sees to it that a fold and a settlement never overlap: both read residues and write them.
"""

from collections.abc import Mapping
from typing import Final

from common.constants import ROLES, Role
from common.geometry.integration import NO_MOMENTS, integration
from common.wire.codec import pack
from common.wire.messages import Bundle
from common.wire.packet import PacketBody, base_prefix
from services.edge.answer import Gauges, Serving
from services.edge.record import Domain, Packet, Record
from services.edge.sleep import Rhythm, due, fold, overdue, settle

TERRITORY_MIN_BYTES: Final = 4096  # chosen: of 4 KB of one domain's text 3 % look strange, of 1 KB 7 % (territory.py)


def due_domains(record: Record, serving: Serving, rhythm: Rhythm, *, asked_s: float, now_s: float) -> list[Domain]:
    """The domains whose fresh text is to be folded now. A domain that the bundle does not know waits for one that does.

    asked_s: when the edge was last asked anything in this life; the record knows of lives before.
    """
    last_s = max(asked_s, record.last_at_s())
    away = {packet.domain for packet in record.packets("pending", "sent")}
    return [
        fresh.domain
        for fresh in record.fresh()
        if (fresh.domain is None or fresh.domain in serving.constellation.domains)
        and due(now_s, fresh, last_s, rhythm, in_flight=fresh.domain in away) == "sleep"
    ]


def fold_domain(
    record: Record, serving: Serving, domain: Domain, *, gauges: Gauges, crystal_bytes: int, now_s: float
) -> PacketBody:
    """Counts a domain's fresh text and leaves a pending packet, both or neither; returns the packet's body."""
    waiting = record.unfolded(domain)
    done = fold(
        serving.constellation,
        domain,
        [each for _, each in waiting],
        record.residue(domain),
        crystal_bytes=crystal_bytes,
        phi=_phi(gauges),
    )
    packet = Packet(
        sequence=record.sequence,
        domain=domain,
        status="pending",
        at_s=now_s,
        base_version=serving.bundle,
        base=base_prefix(serving.digest),
        basin=done.body.basin,
        body=pack(done.body),
        counts=done.carried,
    )
    record.slept(domain, [row for row, _ in waiting], done.residue, packet)
    return done.body


def go_home(record: Record, serving: Serving, rhythm: Rhythm) -> int:
    """Gives a due handful of strange texts to their nearest domains: what stays away is a territory; how many went.

    Less than TERRITORY_MIN_BYTES (or what this edge sleeps on, if that is less) after the longest interval is not.
    """
    waiting = record.unfolded(None)
    if sum(each.size_bytes for _, each in waiting) >= min(TERRITORY_MIN_BYTES, rhythm.after_bytes):
        return 0
    record.move({row: serving.constellation.route(each.basin).steps[0].name for row, each in waiting})
    return len(waiting)


def settle_bundle(
    record: Record, serving: Serving, bundle: Bundle, *, key: bytes, entry_id: str, now_s: float
) -> tuple[int, ...]:
    """Takes what a bundle's packets carried out of the residues, and moves the cursor; the sequences it named.

    Whether the bundle is used here does not matter: the centre has the counts. Doing it twice is doing it once.
    """
    settled = settle(
        serving.constellation,
        bundle.packets,
        own=(key, record.epoch),
        packets=record.packets("pending", "sent", "lost"),
        residues=record.residues(),
        waiting=record.unfolded(None),
    )
    record.settle(settled.acknowledged, settled.residues, settled.moved, cursor=entry_id, at_s=now_s)
    return settled.acknowledged


def give_up(record: Record, *, now_s: float) -> list[int]:
    """Marks the packets that were waited for too long as lost; their sequences. The residue has their counts still."""
    lost = overdue(now_s, record.packets("sent"))
    if lost:
        record.lose(lost, at_s=now_s)
    return lost


def _phi(gauges: Gauges) -> Mapping[Role, float | None]:
    return {role: integration(gauges.get(role, NO_MOMENTS)).phi for role in ROLES}
