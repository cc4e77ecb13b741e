"""What comes out of an edge's file, as values."""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np

from common.constants import CELLS, Phase
from common.kernels import memory_file
from common.kernels.memory import Ids, Memory
from common.kernels.spec import MAX_VOCAB
from services.edge.answer import Interaction

Status = Literal["pending", "sent", "acknowledged", "lost", "taken_back"]
Verdict = Literal["accepted", "rejected"]
Domain = str | None
Merges = tuple[tuple[int, int], ...]

IDS: Final = np.dtype("<u2")  # of a token: MAX_VOCAB is 2^15
COLUMNS: Final = "id, query_id, client, text, at_s, domain, basin, tokens, size_bytes, bits, kappa, phase"


@dataclass(frozen=True, slots=True)
class Fresh:
    """What waits to be counted for one domain (None: new territory)."""

    domain: Domain
    interactions: int
    size_bytes: int
    oldest_s: float


class Settling(NamedTuple):
    """A bundle that settled packets. release: sha256, in hex, of its message."""

    version: int
    release: str


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet of this edge. body: packed PacketBody; counts: what it carries; at_s: when its status last changed.

    raw: the bytes that were last handed to the broker, or are about to be; None: it has certainly not left. settled_by:
    the bundle that named it, while it is acknowledged; None too for what a release before schema 6 settled.
    """

    sequence: int
    domain: Domain
    status: Status
    at_s: float
    base_version: int
    base: bytes
    basin: bytes
    body: bytes
    counts: Memory
    raw: bytes | None = None
    settled_by: Settling | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """How one interaction stands. domain: whose text it is; packet: the sequence of the packet made when it was folded.

    ids: what was counted; None while it waits, and for what a release before schema 2 folded. taken: what was taken out
    of the residue when the folded text was rejected.
    """

    row: int
    domain: Domain
    probe: bool
    folded: bool
    packet: int | None
    ids: Ids | None
    verdict: Verdict | None
    taken: Memory | None


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """A text that was counted. ids: what was counted of it; taken: as in Kept."""

    row: int
    domain: Domain
    text: str
    ids: Ids
    taken: Memory | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What is kept of a query besides its text. packet: the sequence of the one that it was counted in."""

    client: str
    query_id: str
    at_s: float
    domain: Domain
    probe: bool
    folded: bool
    verdict: Verdict | None
    packet: int | None


def packet_of(row: tuple) -> Packet:  # type: ignore[type-arg]  # rows of any columns
    """A row of the table `packets`."""
    sequence, domain, status, at_s, base_version, base, basin, body, counts, raw, *settled = row
    carried = memory_file.from_bytes(counts, MAX_VOCAB)
    settled_by = Settling(*settled) if settled and settled[0] is not None else None
    return Packet(sequence, domain, status, at_s, base_version, base, basin, body, carried, raw, settled_by)


def ids_of(blob: bytes | None) -> Ids | None:
    """What was counted of a text."""
    return None if blob is None else np.frombuffer(blob, IDS).astype(np.int32)


def counted_of(row: tuple) -> Counted:  # type: ignore[type-arg]
    """id, domain, text, ids and taken of a row."""
    number, domain, text, ids, taken = row
    memory = None if taken is None else memory_file.from_bytes(taken, MAX_VOCAB)
    return Counted(number, domain, text, np.frombuffer(ids, IDS).astype(np.int32), memory)


def interaction_of(row: tuple) -> Interaction:  # type: ignore[type-arg]
    """A row of COLUMNS."""
    query_id, client, text, at_s, domain, basin, tokens, size_bytes, bits, kappa, phase = row[1:]
    found: Phase | None = phase
    cells = np.frombuffer(basin, "<f8", CELLS)
    return Interaction(query_id, client, text, at_s, domain, cells, tokens, size_bytes, bits, kappa, found)
