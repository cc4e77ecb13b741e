"""Cutting a batch: which packets of the ledger go, and the batch they make.

    accepted   ref ─▶ when the broker took it            small: looked at each second
    due        batch_packets wait, or the oldest is batch_age_s old
    chosen     the oldest MAX_BATCH_PACKETS of them
    cut        read, settle on domains, merge, name: the Batch, and what could not be in it
    silent     packets that mention or propose, and bring no crystals: their edges are told, no batch is made of them
    mute       packets none of whose n-grams counts yet (quorum.py): they stay in the ledger for others that say the
               same, PATIENCE times as long as a packet waits otherwise; then a batch names them and says nothing more,
               so that a bundle settles them

The same packets against the same bundle make the same batch, byte for byte, whatever order or crash they came through.
A packet whose base left the window while it waited is refused alone. What does not fit stays in the ledger.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from common.coordizer.artifacts import lineage
from common.errors import Rejected
from common.geometry.means import frechet_mean, spread
from common.geometry.simplex import distance
from common.wire import basin
from common.wire import packet as packets_
from common.wire.fields import KEY_ID_BYTES, MAX_BATCH_PACKETS, MESSAGE_MAX_BYTES
from common.wire.mentions import Hashes
from common.wire.messages import Batch, PacketRef, batch_id
from common.wire.ngrams import implied
from common.wire.proposals import Proposal
from services.aggregator.account import Note
from services.aggregator.admit import Admitted, read_crystals, read_mentions, read_merges
from services.aggregator.bases import Base, Bases, find
from services.aggregator.claims import Claim, claimed
from services.aggregator.merge import Merged, Quorum, check_vocabulary, merged
from services.aggregator.pool import Pool, kept
from services.aggregator.quorum import needed
from services.aggregator.quota import NODE_TERRITORIES, Nodes, counting, node_of
from services.aggregator.territories import PENDING_CUTS, Place, Settled, Waiting, founders, read_basin, settle

Floats = npt.NDArray[np.float64]

PATIENCE: Final = 15  # chosen: a quarter of an hour at 60 s; after half an hour an edge hands a packet in once more
FRAME_BYTES: Final = 64 * 1024  # of a batch beside its crystals: 256 references, 64 domains with basins and gates
CROWDED: Final = "new territory, but no more domains can be opened"
GREEDY: Final = (
    f"new territory, but its node has opened {NODE_TERRITORIES} domains alone: one that another node brings text of, "
    "or that has ended, makes room"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """packets: as many make a batch due; age_s: so does one that waited this long; mass_cap: counts a packet brings;
    crystal_edges: nodes that must bring an n-gram, where enough are enrolled.
    """

    packets: int
    age_s: float
    mass_cap: int
    crystal_edges: int = 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """Who brings packets. nodes: of each enrolled key its node; founded: of each domain of which one node alone has
    brought text so far, that node; cuts: how many made a batch; pool: what waits for a quorum.
    """

    nodes: Nodes
    founded: Mapping[str, str]
    cuts: int = 0
    pool: Pool = field(default_factory=dict)


STRANGERS: Final = Fleet({}, {})
NOT_READ: Final[Mapping[bytes, Admitted]] = {}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A packet of the ledger that no batch can take any more."""

    ref: bytes
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cut:
    """batch: None when no packet is in it; note: what it is made of, for the account; taken: the refs in it; opened:
    its places that no bundle knows; founded: as of Fleet, from now on; distances: by key id, of its packets in the
    batch the farthest from the robust centre of its domain, rad; spreads: by domain, of the basins that two nodes or
    more brought, their mean distance from their mean, rad; pool: as of Fleet, for the next; claim: what the batch has
    of it, and will bring to it.

    silent: packets that are dealt with and in no batch; mentions, proposals: of the taken and the silent, by key id,
    the oldest packet first.
    """

    batch: Batch | None
    note: Note | None
    pool: Pool
    claim: Claim | None
    taken: tuple[bytes, ...]
    refused: tuple[Refusal, ...]
    opened: tuple[Place, ...]
    founded: Mapping[str, str]
    distances: Mapping[bytes, float]
    spreads: Mapping[str, float]
    silent: tuple[PacketRef, ...] = ()
    mentions: tuple[tuple[bytes, Hashes], ...] = ()
    proposals: tuple[tuple[bytes, tuple[Proposal, ...]], ...] = ()


def due(accepted: Mapping[bytes, int], now_ms: int, limits: Limits, nodes: Nodes = STRANGERS.nodes) -> bool:
    """Whether a batch is due. accepted: packets by ref, with when the broker took them."""
    if not accepted:
        return False
    if now_ms - min(accepted.values()) >= 1000 * limits.age_s:
        return True
    return counting((ref[:KEY_ID_BYTES] for ref in accepted), limits.packets, nodes) >= limits.packets


def patient(accepted: Mapping[bytes, int], now_ms: int, limits: Limits) -> bool:
    """Whether mute packets may stay for others: none has waited too long, and they are not a whole batch yet."""
    young = now_ms - min(accepted.values()) < 1000 * limits.age_s * PATIENCE
    return young and len(accepted) < MAX_BATCH_PACKETS


def chosen(accepted: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The packets to cut now, oldest first: no key waits for ever because others sort before it."""
    return tuple(sorted(accepted, key=lambda ref: (accepted[ref], ref))[:MAX_BATCH_PACKETS])


def cut(
    ledger: Mapping[bytes, bytes],
    *,
    bases: Bases,
    pending: Mapping[str, Place],
    limits: Limits,
    fleet: Fleet | None = None,
    admitted: Mapping[bytes, Admitted] = NOT_READ,
    patience: bool = False,
) -> Cut:
    """What becomes of these packets.

    ledger: ref to raw packet, oldest first (`chosen`), 1 to MAX_BATCH_PACKETS; admitted once, and not verified again.
    bases: not empty, the newest is what the batch is for. pending: what earlier batches opened, see `awaited`. fleet:
    None: whoever sends may, and each key is a node. admitted: by a packet's bytes, what need not be read again.
    patience: whether mute packets stay.
    """
    current = bases[-1]
    read, refused = _read(ledger, bases, fleet, admitted)
    fleet = fleet or STRANGERS
    silent = [one for one in read if (one.body.mentions or one.body.merges) and not one.body.crystals]
    waiting = [one for one in read if one not in silent]
    age = {ref: place for place, ref in enumerate(ledger)}
    by_ref = sorted(waiting, key=lambda one: one.ref)
    settled = settle(by_ref, current, pending, founded=fleet.founded, nodes=fleet.nodes)
    refused += [Refusal(one.ref, "too_many_domains", CROWDED) for one in settled.crowded]
    refused += [Refusal(one.ref, "too_many_territories", GREEDY) for one in settled.greedy]
    who = set(fleet.nodes.values())
    pool = kept(fleet.pool, current, places=settled.places, nodes=who, cuts=fleet.cuts)
    quorum = Quorum(needed(limits.crystal_edges, len(who)), pool, fleet.cuts)
    updates = tuple(_updates(settled, age, current, limits.mass_cap, fleet.nodes, quorum))
    mute = quorum.edges > 1 and not any(update.brought for update in updates)
    if mute and patience:
        updates = ()
    left = {**pool, **{update.update.name: update.pool for update in updates}}
    brought = {update.update.name: update.taken for update in updates}
    batch = _batch(updates, current, mute=mute) if updates else None
    taken = tuple(sorted(one.ref for update in updates for one in update.taken))
    heard = [one for one in read if one in silent or one.ref in taken]
    return Cut(
        batch=batch,
        note=None if mute else _note(batch, updates, fleet.cuts, current),
        claim=_claim(batch, updates, fleet.cuts),
        pool=kept(left, current, places=settled.places, nodes=who, cuts=fleet.cuts),
        taken=taken,
        refused=tuple(refused),
        opened=tuple(settled.places[u.update.name] for u in updates if u.update.opened),
        founded=founders(settled, brought, fleet.founded, fleet.nodes),
        distances=_distances(updates),
        spreads=_spreads(updates, fleet.nodes),
        silent=tuple(one.packet for one in silent),
        mentions=tuple((one.packet.key, read_mentions(one.body)) for one in heard if one.body.mentions),
        proposals=tuple((one.packet.key, read_merges(one.body, one.base)) for one in heard if one.body.merges),
    )


def awaited(noted: Mapping[str, tuple[Place, int]], current: Base, cuts: int) -> dict[str, Place]:
    """The noted places that a bundle may still bring: neither it nor an heir is known, and a batch named it lately.

    noted: with how many batches had been cut when one last did; cuts: how many have been now.
    """
    known = current.domains.keys() | current.heirs.keys()
    return {name: place for name, (place, at) in noted.items() if name not in known and cuts - at < PENDING_CUTS}


def _read(
    ledger: Mapping[bytes, bytes],
    bases: Bases,
    fleet: Fleet | None = None,
    admitted: Mapping[bytes, Admitted] = NOT_READ,
) -> tuple[list[Waiting], list[Refusal]]:
    waiting, refused = [], []
    for ref, raw in ledger.items():
        try:
            if fleet is not None and ref[:KEY_ID_BYTES] not in fleet.nodes:
                raise Rejected("unknown_key", "its key was enrolled when it came, and is no more")  # noqa: TRY301
            waiting.append(_waiting(ref, raw, bases, admitted.get(raw)))
        except Rejected as error:
            refused.append(Refusal(ref, error.code, error.message))
    return waiting, refused


def _waiting(ref: bytes, raw: bytes, bases: Bases, known: Admitted | None) -> Waiting:
    if known is None:
        envelope = packets_.open_envelope(raw)
        packet, version, prefix = envelope.ref, envelope.base_version, envelope.base
    else:
        packet, version, prefix = known.ref, known.base.version, known.base.prefix
    base = find(bases, version, prefix)
    if base is None:
        raise Rejected(
            "base_window",
            f"based on bundle {version}, which left the window of {len(bases)} while the packet waited",
        )
    if known is None:
        body = packets_.admitted_body(envelope)
        told = implied(read_crystals(body, base))
    else:
        body, told = known.body, known.told
    found = Waiting(ref, packet, base, body, told, read_basin(body))
    check_vocabulary(found, bases[-1])
    return found


def _updates(
    settled: Settled,
    age: Mapping[bytes, int],
    current: Base,
    mass_cap: int,
    nodes: Nodes,
    quorum: Quorum,
) -> Iterable[Merged]:
    """Domain by domain in the order of their names, while the batch has room."""
    room = MESSAGE_MAX_BYTES - FRAME_BYTES
    for name in sorted(settled.members):
        oldest_first = sorted(settled.members[name], key=lambda one: age[one.ref])
        place = settled.places[name]
        found = merged(
            place,
            oldest_first,
            mass_cap=mass_cap,
            current=current,
            room_bytes=room,
            nodes=nodes,
            quorum=quorum,
        )
        if found is not None:
            room -= len(found.update.crystals)
            yield found


def _distances(updates: Sequence[Merged]) -> dict[bytes, float]:
    found: dict[bytes, float] = {}
    for update in updates:
        centre = basin.from_bytes16(update.update.basin)
        for one in update.taken:
            found[one.packet.key] = max(found.get(one.packet.key, 0.0), float(distance(one.basin, centre)))
    return found


def _spreads(updates: Sequence[Merged], nodes: Nodes) -> dict[str, float]:
    """One node's own packets differ as its texts do: that says nothing of how far nodes are from each other."""
    found: dict[str, float] = {}
    for update in updates:
        own: dict[str, list[Floats]] = {}
        for one in update.taken:
            own.setdefault(node_of(nodes, one.packet.key), []).append(one.basin)
        if len(own) > 1:
            found[update.update.name] = spread(np.stack([frechet_mean(np.stack(basins)) for basins in own.values()]))
    return found


def _note(batch: Batch | None, updates: Sequence[Merged], number: int, current: Base) -> Note | None:
    if batch is None:
        return None
    return Note(batch.id, number, current.vocab_size, {update.update.name: update.brought for update in updates})


def _claim(batch: Batch | None, updates: Sequence[Merged], number: int) -> Claim | None:
    if batch is None:
        return None
    lent = {each.update.name: [one for one in each.brought if one.cut < number] for each in updates}
    return claimed(number, batch.id, lent, {each.update.name: each.waits for each in updates})


def _batch(updates: Sequence[Merged], current: Base, *, mute: bool) -> Batch:
    packets = tuple(one.packet for update in updates for one in update.taken)
    return Batch(
        id=batch_id(packets),
        base_version=current.version,
        base_digest=current.digest,
        domains=() if mute else tuple(update.update for update in updates),
        packets=packets,
        vocabulary=lineage(current.merges),
    )
