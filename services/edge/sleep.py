"""Sleep: when an edge folds what it read into counts, what a fold makes, and what an acknowledgement takes away.

    fresh text ──fold──▶ residue ──select──▶ packet ──sent──▶ (batch, candidate, gates) ──▶ bundle names the packet
                            ▲                                                                        │
                            └───────── residue minus what the packet carried (balance.py) ◀──────────┘

Pure: time is an argument. Rules it keeps: text is screened (screen.py), then scored, and the gate's statistics taken,
before it is counted; what was kept as probe text is never counted; counts leave the residue only when a bundle names
the packet that carried them, and leave the edge under another name only when the centre has dropped that packet; of one
domain at most one packet is on its way; no two nodes keep quite the same time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from common.constants import PHASES, ROLES, Role
from common.constellation.constellation import Constellation
from common.geometry.simplex import distance
from common.kernels import gate as gates
from common.kernels.kernel import Reading
from common.kernels.memory import Ids, Memory, Table, count
from common.wire import basin as basins
from common.wire import proposals
from common.wire.mentions import NO_HASHES, Hashes
from common.wire.messages import PacketRef
from common.wire.ngrams import ORDERS, Crystals, implied
from common.wire.packet import PACKET_GATE_MAX_BYTES, PacketBody
from services.edge.answer import Interaction
from services.edge.balance import EMPTY, Balance, bounded, total
from services.edge.crystals import SHARDS
from services.edge.hearing import hear
from services.edge.mentions import Private
from services.edge.proposals import Growing, Proposed, proposed
from services.edge.record import Domain, Fresh, Packet
from services.edge.screen import screened
from services.edge.telling import tell

AGAIN_AFTER_S: Final = 1800.0  # chosen: longer than a batch, its training and its gates take
LOST_AFTER_S: Final = 4 * 86_400.0  # chosen: each of the three on the way gives a message up after a day (consumer.py)
IDLE_SPREAD: Final = 2.0  # chosen: a thousand nodes that fall idle at once send 100 packets a second, at 5 s idle time
MAX_SPREAD: Final = 0.25  # of the longest interval; earlier, since it is the longest
PUT_OFF_MAX_S: Final = 60.0  # chosen: of an interval of an hour, what nobody notices
NAP_MAX_BYTES: Final = 65_536  # of text: a fold of about a second, where queries go on meanwhile
KAPPA_TOLD_MAX: Final = 1e6  # a perfect loop reads 6e10, which no centre believes; thousands are a loop already

NO_MERGES: Final = Proposed((), NO_HASHES)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """HEART's clock: sleep once `after_bytes` are fresh and nobody asked for `idle_s`; at the latest after `max_s`."""

    after_bytes: int
    idle_s: float
    max_s: float

    def of(self, node: str, domain: Domain) -> "Rhythm":
        """The fleet's rhythm as one node keeps it for one domain: always the same, and each its own, so that nodes
        which fall idle, or come back from an outage, at one moment do not sleep at one moment.

        Idle time is up to 1 + IDLE_SPREAD times as long, the longest interval up to MAX_SPREAD shorter.
        """
        share = _lot(node, domain or "") / 2**64
        idle_s, max_s = self.idle_s * (1 + IDLE_SPREAD * share), self.max_s * (1 - MAX_SPREAD * share)
        return Rhythm(self.after_bytes, idle_s, max_s)


Due = Literal["sleep", "nothing_fresh", "in_flight", "waking", "too_little", "busy"]


def due(
    now_s: float,
    fresh: Fresh | None,
    last_query_s: float,
    rhythm: Rhythm,
    *,
    in_flight: bool,
    crowded: bool = False,
    awake_s: float = 0.0,
) -> Due:
    """Whether a domain's fresh text is to be folded and sent now, or why not.

    fresh: what waits, None for nothing; last_query_s: when the edge was last asked anything; crowded: whether queries
    wait for others: then even what is overdue is put off, PUT_OFF_MAX_S at most; awake_s: when this life of
    the edge began: nothing is folded in its first idle time, so that a fleet comes back before it sleeps. What lies in
    the future is of a clock that was set back since: nobody knows how long ago it was.
    """
    if fresh is None or fresh.interactions == 0:
        return "nothing_fresh"
    if in_flight:
        return "in_flight"
    if abs(now_s - awake_s) < rhythm.idle_s:
        return "waking"
    age_s = abs(now_s - fresh.oldest_s)
    if age_s >= rhythm.max_s:
        return "busy" if crowded and age_s < rhythm.max_s + PUT_OFF_MAX_S else "sleep"
    if fresh.size_bytes < rhythm.after_bytes:
        return "too_little"
    return "busy" if crowded or abs(now_s - last_query_s) < rhythm.idle_s else "sleep"


def overdue(now_s: float, packets: Sequence[Packet]) -> list[int]:
    """The sequences of sent packets of which nothing was said for LOST_AFTER_S: what they carried goes out under
    another name. Not before: a centre that only took long would count it twice. One that carries no counts is lost
    after AGAIN_AFTER_S.
    """
    return [
        packet.sequence
        for packet in packets
        if packet.status == "sent" and now_s - packet.at_s >= (LOST_AFTER_S if packet.counts.entries else AGAIN_AFTER_S)
    ]


def unheard(now_s: float, packets: Sequence[Packet], asked_s: Mapping[int, float]) -> list[Packet]:
    """The sent packets to be handed to the broker once more, under their names: nothing was said of them for
    AGAIN_AFTER_S, nor of the last time that they were. asked_s: when that was, by sequence. A time in the future is of
    a clock that was set back since.

    A broker that has them, or had them, takes them as the same; one that lost them takes them now.
    """
    return [
        packet
        for packet in packets
        if packet.status == "sent"
        and min(abs(now_s - at_s) for at_s in (packet.at_s, asked_s.get(packet.sequence, packet.at_s))) >= AGAIN_AFTER_S
    ]


def beyond(epoch: int, now_s: float) -> int:
    """A sequence above all that were given since this second, the epoch: an edge makes less than a packet a second."""
    return int(now_s) - epoch


def is_probe(client: str, query_id: str, share: int) -> bool:
    """Whether an interaction is kept as probe text: one in `share`, by its name, so that a redelivery agrees."""
    return _lot(client, query_id) % share == 0


def turn_of(node: str, domain: Domain, sequence: int) -> int:
    """Which share of the contexts goes first in a packet: the next one each time, on each node from its own on.

    A domain's sequences may be as far apart as there are domains; every SHARDS^2 one share is passed over, so that no
    number of domains keeps one from its turn.
    """
    return _lot(node, domain or "") + sequence + sequence // SHARDS**2


def _lot(one: str, other: str) -> int:
    """A number below 2^64 that two names draw, the same everywhere."""
    return int.from_bytes(hashlib.sha256(f"{one}\0{other}".encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """ids: what was counted of each text; balance: with that in it, until a bundle has taken it; carried: what the
    packet says of it, and what that implies. local_bits: the fresh text's code length by what answers here, before it
    was counted; heard: what a gate may learn from it; gate: the bundle's, or where a new domain's begins; mentioned: by
    the packet.
    """

    ids: tuple[Ids, ...]
    balance: Balance
    body: PacketBody
    carried: Memory
    local_bits: float
    heard: Sequence[Reading]
    gate: gates.Floats
    mentioned: Hashes


def fold(  # noqa: PLR0913 -- what was read, what is known, and what may leave
    constellation: Constellation,
    domain: Domain,
    interactions: Sequence[Interaction],
    balance: Balance,
    *,
    crystal_bytes: int,
    phi: Mapping[Role, float | None],
    turn: int = 0,
    accepted: Sequence[str] = (),
    local: Constellation | None = None,
    private: Private | None = None,
    growing: Growing | None = None,
) -> Folded:
    """Scores and counts fresh text of one domain (None: new territory), and packs what is worth sending.

    constellation: the bundle's, which the packet is measured against; interactions: at least one; phi: of each role's
    kernel, as it runs; turn: see turn_of; accepted: texts of this domain, fresh or counted before, whose n-grams weigh
    up in the selection. local: what answers here, None for the bundle's; private: in private mode, what may be said;
    growing: what merges are proposed by, None: none are.
    """
    fresh = hear(constellation, domain, interactions, balance.residue, local or constellation)
    kernel, role = fresh.kernel, fresh.role
    grown = bounded(balance.seen(count(fresh.texts, ORDERS)))
    praised = count([constellation.encoder.encode(screened(text)) for text in accepted], ORDERS)
    merges = NO_MERGES if growing is None else proposed(constellation.coordizer, fresh.said, growing)
    told = tell(
        constellation.coordizer,
        grown.residue,
        kernel,
        praised,
        budget_bytes=crystal_bytes,
        turn=turn,
        prior=fresh.prior,
        private=private,
        merges=merges.mentions,
    )
    gate = _statistics(kernel.gate, fresh.known)
    kappas = [each.kappa for each in interactions if each.kappa is not None]
    body = PacketBody(
        kernel=role,
        domain=domain,
        basin=basins.to_bytes8(fresh.basin),
        interactions=len(interactions),
        tokens=sum(map(len, fresh.texts)),
        fresh_bytes=sum(map(_size_bytes, interactions, fresh.said)),
        fresh_bits=fresh.bits,
        phi=phi.get(role),
        kappa=min(float(np.median(kappas)), KAPPA_TOLD_MAX) if kappas else None,
        phases=_phases(interactions),
        gate=gate if len(gate) <= PACKET_GATE_MAX_BYTES else b"",
        crystals=told.crystals,
        mentions=told.mentions,
        merges=proposals.encode(merges.said),
    )
    carried = as_memory(implied(told.sent))
    return Folded(tuple(fresh.texts), grown, body, carried, fresh.local_bits, fresh.heard, kernel.gate, told.mentioned)


def _size_bytes(each: Interaction, said: str) -> int:
    """Of the text whose bits are told."""
    return each.size_bytes if said == each.text else len(said.encode("utf-8", "replace"))


def as_memory(found: Crystals) -> Memory:
    """Crystals as the memory that they add."""
    return Memory(tuple(Table.of(each.keys, each.counts, each.contexts, each.totals) for each in found.orders))


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """What a bundle changes here: packets it took, the balances then, rows of fresh text that found a domain.

    opened: the domain that new territory's balance went to; None where it did not move.
    """

    acknowledged: tuple[int, ...]
    balances: dict[Domain, Balance]
    moved: dict[int, Domain]
    opened: Domain


def settle(
    constellation: Constellation,
    taken: Sequence[PacketRef],
    *,
    own: tuple[bytes, int],
    packets: Sequence[Packet],
    balances: Mapping[Domain, Balance],
    waiting: Sequence[tuple[int, Interaction]],
) -> Settled:
    """What a bundle that names the packets `taken` leaves to be sent.

    own: this edge's key id and epoch; packets: those not acknowledged yet, lost ones too; waiting: fresh text of new
    territory, by row. New territory's residue goes to the domain that its packet went to, and fresh text there to an
    opened domain that reaches it.
    """
    sequences = {ref.sequence for ref in taken if (ref.key, ref.epoch) == own}
    named = [packet for packet in packets if packet.sequence in sequences]
    left: dict[Domain, Balance] = {}
    for packet in named:
        before = left.get(packet.domain, balances.get(packet.domain, EMPTY))
        left[packet.domain] = before.told(packet.counts)
    opening = [packet for packet in named if packet.domain is None]
    target = _where_it_went(constellation, opening[-1]) if opening else None
    if target is not None:
        there = left.get(target, balances.get(target, EMPTY))
        left |= {target: total([there, left[None]]), None: EMPTY}
    moved: dict[int, Domain] = {
        row: domain for row, each in waiting if (domain := _reaching(constellation, each)) is not None
    }
    return Settled(tuple(packet.sequence for packet in named), left, moved, target)


def _where_it_went(constellation: Constellation, packet: Packet) -> str | None:
    """The domain that a packet of new territory was merged into; None while there is none.

    The opened one that is nearest its basin. Where that does not reach it, what was opened may have gone home at once:
    then a role that bears former names may be nearer.
    """
    basin = basins.from_bytes8(packet.basin)
    reach = sorted((float(distance(basin, each.basin_array)), name) for name, each in constellation.domains.items())
    opened = next(((away, name) for away, name in reach if name not in ROLES), None)
    if opened is not None and opened[0] <= constellation.domains[opened[1]].radius_rad:
        return opened[1]
    took = (name for _, name in reach if name not in ROLES or constellation.domains[name].formerly)
    return next(took, None)


def _reaching(constellation: Constellation, interaction: Interaction) -> str | None:
    step = constellation.route(interaction.basin).steps[0]
    near = step.distance_rad <= constellation.domains[step.name].radius_rad
    return step.name if near and step.name not in ROLES else None


def _statistics(gate: gates.Floats, readings: Sequence[Reading]) -> bytes:
    """Responsibilities under the gate that this text asks for."""
    experts = np.concatenate([reading.experts for reading in readings])
    buckets = np.concatenate([reading.buckets for reading in readings])
    learned = gates.learn(experts, buckets, gate)
    return gates.to_bytes(gates.responsibilities(experts, buckets, learned))


def _phases(interactions: Sequence[Interaction]) -> tuple[int, int, int, int]:
    foam, tacking, crystal, fracture = (sum(each.phase == phase for each in interactions) for phase in PHASES)
    return foam, tacking, crystal, fracture
