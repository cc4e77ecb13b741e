"""What led to what, from a query to the bundles that its packet went into: found by the ids that each step says.

Pure: what edges and the centre have goes in, steps come out, each with the ids of those that caused it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from common.runtime import causes
from common.wire.bundle import CORRECTS, TAKES_BACK, candidate_id
from common.wire.fields import MAX_BATCH_PACKETS
from common.wire.messages import Batch, Bundle, Candidate, PacketRef
from services.edge.record import Asked
from services.edge.record import Packet as Sealed
from services.publisher.fleet import Fleet

GENESIS: Final = "genesis-"
CAUSES_MAX: Final = MAX_BATCH_PACKETS  # that a step says; how many there are stands beside them


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was made of another. at_s: since 1970, None where nobody kept it. said: what became of it.
    caused_by: ids of those before it, CAUSES_MAX at most.
    """

    kind: Literal["query", "packet", "batch", "candidate", "bundle"]
    id: str
    at_s: float | None
    said: str
    trace_id: str
    caused_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """A packet that an edge of this home keeps. ref: None while it was not sealed; at_s: when it was sealed last, else
    made; queries: ids of those in it.
    """

    node: str
    packet: Sealed
    ref: PacketRef | None
    at_s: float
    queries: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Centre:
    """What the broker has. arriving: packets that nobody has looked at; accepted: since when they wait for a batch;
    ended: of those that are in none, why. batches: with where they lie. candidates: that wait, or were refused and
    whose letter is there. refused: reasons, by id, also of releases that were taken back.
    """

    arriving: frozenset[PacketRef] = frozenset()
    accepted: Mapping[PacketRef, float] = field(default_factory=dict)
    ended: Mapping[PacketRef, str] = field(default_factory=dict)
    batches: Sequence[tuple[str, Batch]] = ()
    candidates: Sequence[Candidate] = ()
    refused: Mapping[str, tuple[float, Sequence[str]]] = field(default_factory=dict)
    bundles: Sequence[Bundle] = ()
    fleet: Fleet = field(default_factory=Fleet)


def of_query(node: str, asked: Asked, made: Made | None, centre: Centre) -> list[Step]:
    """A query that an edge of this home keeps, and what came of it. made: the packet that it was counted in."""
    said = f"asked by {asked.client} at {node}, {asked.domain or 'new territory'}: {_fate(asked)}"
    trace_id = causes.query(asked.client, asked.query_id).trace_id
    first = Step("query", asked.query_id, asked.at_s, said, trace_id)
    return [first, *([] if made is None else of_packet(made, made.ref, centre))]


def of_packet(made: Made | None, ref: PacketRef | None, centre: Centre) -> list[Step]:
    """A packet, and what came of it. made: as its edge keeps it; None for one of another home."""
    names = _holding(ref, centre)
    name = f"{made.node}:{made.packet.sequence}" if made is not None else ""
    trace_id = ""
    if ref is not None:
        name, trace_id = causes.packet_name(ref), causes.packet(ref).trace_id
    said = "" if made is None else f"packet {made.packet.sequence} of {made.node}, {made.packet.status}; "
    said += "has not left" if ref is None else _found(ref, names, centre)
    queries = () if made is None else made.queries
    if queries:
        said += f"; {len(queries)} queries are in it"
    at_s = None if made is None else made.at_s
    first = Step("packet", name, at_s, said, trace_id, queries[:CAUSES_MAX])
    return [first, *(step for each in names for step in of_candidate(each, centre))]


def knows(ref: PacketRef, centre: Centre) -> bool:
    """Whether the centre says anything of a packet."""
    return ref in centre.accepted or ref in centre.arriving or ref in centre.ended or bool(_holding(ref, centre))


def of_candidate(name: str, centre: Centre) -> list[Step]:
    """What a trainer made, or is to make, under this id: its batch, itself, and the bundles that it became."""
    bundles = [bundle for bundle in centre.bundles if bundle.id == name]
    return [*_batch(name, bundles, centre), *_candidate(name, bundles, centre), *_bundles(bundles, centre)]


def candidates(beginning: str, centre: Centre) -> list[str]:
    """The ids that begin so, of candidates, and of batches that will be some."""
    known = {candidate_id(batch) for _, batch in centre.batches} | set(centre.refused)
    known |= {one.id for one in centre.candidates} | {bundle.id for bundle in centre.bundles}
    return sorted(name for name in known if name.startswith(beginning))


def _fate(asked: Asked) -> str:
    if asked.packet is not None:
        return "it was counted"
    if asked.folded:
        return "it was counted by an older release, which did not note where"
    if asked.probe:
        return "kept for trying bundles on, and never counted"
    return "its answer was rejected, so it is not counted" if asked.verdict == "rejected" else "it waits to be counted"


def _holding(ref: PacketRef | None, centre: Centre) -> list[str]:
    """The ids of the candidates, and of those to come, that a packet is in; the oldest first."""
    found = [bundle.id for bundle in sorted(centre.bundles, key=lambda one: one.version) if ref in bundle.packets]
    found += [one.id for one in centre.candidates if ref in one.packets]
    found += [candidate_id(batch) for _, batch in centre.batches if ref in batch.packets]
    return list(dict.fromkeys(found))


def _found(ref: PacketRef, names: Sequence[str], centre: Centre) -> str:
    ended = centre.ended.get(ref)
    if names:
        return (f"in {len(names)} batches" if len(names) > 1 else "in a batch") + (f"; {ended}" if ended else "")
    if ref in centre.accepted:
        return "waits at the centre for a batch"
    if ref in centre.arriving:
        return "lies in the stream, nobody has looked at it yet"
    return ended or "the centre says nothing of it: it is gone, or in what was long ago"


def _batch(name: str, bundles: Sequence[Bundle], centre: Centre) -> Iterator[Step]:
    for where, batch in centre.batches:
        if candidate_id(batch) == name:
            said = "waits for a trainer" if where == "waiting" else "came to no candidate: `qig dead list` says why"
            yield _of_packets(causes.batch(batch), batch.packets, said)
            return
    if name.startswith((GENESIS, TAKES_BACK, CORRECTS)):
        return
    made: Iterable[Candidate | Bundle] = (*bundles, *(one for one in centre.candidates if one.id == name))
    packets = next((one.packets for one in made), ())
    trace_id = causes.trace_of_candidate(name)
    yield _of_packets(causes.Cause("batch", name, trace_id), packets, "became a candidate")


def _of_packets(batch: causes.Cause, packets: Sequence[PacketRef], said: str) -> Step:
    named = tuple(map(causes.packet_name, packets[:CAUSES_MAX]))
    count = f"{len(packets)} packets: " if packets else ""
    return Step("batch", batch.name, None, count + said, batch.trace_id, named)


def _candidate(name: str, bundles: Sequence[Bundle], centre: Centre) -> Iterator[Step]:
    waits = any(one.id == name for one in centre.candidates) and name not in centre.refused
    at_s: float | None = None
    if bundles:
        said = "was released"
    elif name in centre.refused:
        at_s, reasons = centre.refused[name]
        said = f"was refused: {'; '.join(reasons)}"
    elif waits:
        said = "waits for the publisher"
    else:
        return
    batch = () if name.startswith((GENESIS, TAKES_BACK)) else (name,)
    yield Step("candidate", name, at_s, said, causes.trace_of_candidate(name), batch)


def _bundles(bundles: Sequence[Bundle], centre: Centre) -> Iterator[Step]:
    for bundle in bundles:
        counts = centre.fleet.counts(bundle.version)
        said = ", ".join(f"{number} {word}" for word, number in counts.items() if number) or "no edge has said anything"
        if bundle.id in centre.refused:
            said += f"; was taken back: {'; '.join(centre.refused[bundle.id][1])}"
        trace_id = causes.trace_of_candidate(bundle.id)
        yield Step("bundle", str(bundle.version), bundle.released_at_s, said, trace_id, (bundle.id,))
