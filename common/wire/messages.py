"""Everything that crosses a process boundary, as frozen values. One stream of DESIGN.md section 5 carries one of these.

    queries ─ Query ▶ edge ─ Piece ... Answer ▶ answers:CLIENT    heart ◀ Heartbeat ─ every service
    cancel ─ Cancel ▶ every edge
    packets ─ (packet.py: signed bytes) ▶ aggregator ─ Batch ▶ trainer ─ Candidate ▶ publisher ─ Bundle ▶ edges
                                        common ◀ Common ─ aggregator ─▶ edges
    returned ─ Returned ▶ edges: packets that go into no bundle any more
    applied ◀ Applied ─ edge                                   {stream}:dead ◀ DeadLetter ─ every consumer

What clients and edges say to each other stands in inference.py, what fields are made of and the rules that all keep in
fields.py; here is the rest, and the list of all. Knows nothing of bytes, streams or signatures: codec.py packs,
bundle.py signs. Nothing longer than MESSAGE_MAX_BYTES travels in a stream: bigger things ride in the store, beside a
small message.
"""

import hashlib
import itertools
import struct
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from common.constants import Phase, Role
from common.wire.blob import Blob
from common.wire.fields import (
    COMMON_MAX_BYTES,
    CRYSTALS_MAX_BYTES,
    GATE_MAX_BYTES,
    KIB,
    LETTER_MAX_BYTES,
    MAX_BATCH_PACKETS,
    MAX_BUNDLE_PACKETS,
    MAX_CORRECTIONS,
    MAX_COUNT,
    MAX_DOMAINS,
    MAX_FIGURES,
    MAX_MERGE_EDGES,
    MAX_MERGES,
    MAX_PARTS,
    NOTE_MAX_BYTES,
    PART_MAX_BYTES,
    U32,
    Amount,
    Basin,
    Count,
    Digest,
    KeyId,
    Message,
    Name,
    ParentDigest,
    Path,
    Reason,
    Share,
    Signature,
    StreamName,
    Time,
    Token,
    Unit,
    Value,
)
from common.wire.inference import Answer, Cancel, Piece, Query


class PacketRef(Value):
    """Which packet: the edge's key, its life (epoch) and its place in it. Two packets never share one."""

    key: KeyId
    epoch: U32
    sequence: U32

    @property
    def packed(self) -> bytes:
        """16 bytes, big-endian, that sort like the reference."""
        return self.key + struct.pack(">II", self.epoch, self.sequence)


def ordered(packets: tuple[PacketRef, ...]) -> tuple[PacketRef, ...]:
    """The references in their one canonical order; a packet named twice is refused (it would count twice)."""
    ascending = tuple(sorted(packets, key=lambda ref: ref.packed))
    for one, other in itertools.pairwise(ascending):
        if one == other:
            raise ValueError(f"packet {one.packed.hex()} is named twice")
    return ascending


def batch_id(packets: Iterable[PacketRef]) -> str:
    """Sha256, in hex, of the packed references in ascending order: the same packets are the same batch."""
    return hashlib.sha256(b"".join(sorted(ref.packed for ref in packets))).hexdigest()


BatchPackets = Annotated[tuple[PacketRef, ...], Field(max_length=MAX_BATCH_PACKETS), AfterValidator(ordered)]
BundlePackets = Annotated[tuple[PacketRef, ...], Field(max_length=MAX_BUNDLE_PACKETS), AfterValidator(ordered)]


class DomainUpdate(Value):
    """What a batch's packets taught about one domain, merged."""

    name: Name
    kernel: Role
    opened: bool  # True: no bundle knows this domain yet
    basin: Basin
    crystals: Annotated[bytes, Blob(0, CRYSTALS_MAX_BYTES)]  # crystals.py, plain form
    gate: Annotated[bytes, Blob(0, GATE_MAX_BYTES)] = b""
    packets: Count
    tokens: Count
    fresh_bytes: Count
    fresh_bits: Amount  # code length of the fresh text, read before it was learned


class Merge(Value):
    """A merge that several edges proposed: two tokens which would be one, and how often each edge saw them so."""

    left: Token
    right: Token
    edges: Annotated[tuple[tuple[KeyId, Count], ...], Field(min_length=1, max_length=MAX_MERGE_EDGES)]


class Correction(Value):
    """What an earlier batch said of a domain, and what it says without a node that was disowned."""

    batch: Digest
    name: Name
    was: Annotated[bytes, Blob(0, CRYSTALS_MAX_BYTES)]  # crystals.py, plain form, as is `now`
    now: Annotated[bytes, Blob(0, CRYSTALS_MAX_BYTES)]


def correction_id(corrections: Iterable[Correction]) -> str:
    """Sha256, in hex, of all that they say, in their order."""
    told = (each.batch.encode() + each.name.encode() + b"\0" + each.was + each.now for each in corrections)
    return hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in told)).hexdigest()


class Batch(Message):
    """Packets merged by the aggregator, domain by domain, for the trainer; or corrections of earlier ones, and nothing
    else. Without domains: packets of which nothing counts yet, and which a bundle is to settle.

    vocabulary: the lineage (common/coordizer/artifacts.py) of the ids that it counts; "" where that is not told.
    """

    id: Digest
    base_version: Count
    base_digest: ParentDigest
    domains: Annotated[tuple[DomainUpdate, ...], Field(max_length=MAX_DOMAINS)]
    packets: BatchPackets
    merges: Annotated[tuple[Merge, ...], Field(max_length=MAX_MERGES)] = ()
    vocabulary: ParentDigest = ""
    corrections: Annotated[tuple[Correction, ...], Field(max_length=MAX_CORRECTIONS)] = ()

    @model_validator(mode="after")
    def check(self) -> Self:
        """A batch is what its id says, and names each domain once."""
        if self.corrections:
            if self.id != correction_id(self.corrections):
                raise ValueError(f"id {self.id} is not the hash of the {len(self.corrections)} corrections")
            if self.domains or self.packets or self.merges:
                raise ValueError("corrections come in a batch of their own")
            return self
        if not self.packets:
            raise ValueError("a batch without packets")
        if self.id != batch_id(self.packets):
            raise ValueError(f"id {self.id} is not the hash of the {len(self.packets)} packets")
        names = [domain.name for domain in self.domains]
        if len(set(names)) != len(names):
            raise ValueError("a domain is named twice")
        return self


class Common(Message):
    """What enough edges have mentioned, and the packets that did nothing but mention: no bundle will name them.

    hashes: a set in the form of mentions.py. An edge that shares the secret knows which of its own they are.
    """

    max_bytes: ClassVar[int] = COMMON_MAX_BYTES + 16 * KIB
    hashes: Annotated[bytes, Blob(0, COMMON_MAX_BYTES)] = b""
    packets: Annotated[tuple[PacketRef, ...], Field(max_length=MAX_BATCH_PACKETS), AfterValidator(ordered)] = ()


class Part(Value):
    """One file of a bundle, by content; its bytes lie in the store under the digest."""

    digest: Digest
    size_bytes: Annotated[int, Field(ge=0, le=PART_MAX_BYTES)]


class Figure(Value):
    """One measured number, before (None: there was none) and after.

    low, high: the 95 % confidence interval of after - before, where it is known; both or neither.
    """

    name: Name
    domain: Name | None = None
    before: float | None
    after: float
    unit: Unit
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def check(self) -> Self:
        """An interval has two ends, in their order."""
        if (self.low is None) != (self.high is None):
            raise ValueError(f"{self.name} has one end of an interval: give both or neither")
        if self.low is not None and self.high is not None and not self.low <= self.high:
            raise ValueError(f"{self.name} has an interval from {self.low} to {self.high}: its ends are exchanged")
        return self

    @model_serializer(mode="wrap")
    def _known(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an interval that is not known: what was signed before there were intervals keeps its bytes."""
        fields: dict[str, Any] = dump(self)
        return fields if self.low is not None else {k: v for k, v in fields.items() if k not in {"low", "high"}}


class Evidence(Value):
    """What was measured on a candidate, and which guards spoke while it was made."""

    figures: Annotated[tuple[Figure, ...], Field(max_length=MAX_FIGURES)] = ()
    guards: Annotated[tuple[Name, ...], Field(max_length=MAX_DOMAINS)] = ()
    seconds: Amount = 0.0


Parts = Annotated[dict[Path, Part], Field(min_length=1, max_length=MAX_PARTS)]


class Candidate(Message):
    """A constellation the trainer proposes: unsigned, with its evidence."""

    id: Name
    parent: Count  # 0: the genesis
    parent_digest: ParentDigest
    parts: Parts
    evidence: Evidence
    packets: BundlePackets = ()


class Bundle(Message):
    """A constellation the publisher released. `key` and `signature` are bundle.py's."""

    version: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    id: Name  # the candidate's
    parent: Count
    parent_digest: ParentDigest
    parts: Parts
    evidence: Evidence
    packets: BundlePackets = ()
    released_at_s: Time
    key: KeyId
    signature: Signature

    @model_validator(mode="after")
    def check(self) -> Self:
        """Versions only grow: a rollback is a higher version that points at old parts."""
        if self.parent >= self.version:
            raise ValueError(f"version {self.version} does not follow its parent {self.parent}")
        return self


TAKEN_BACK: Final = "taken_back"  # of Returned: a release had them, and is no more


class Returned(Message):
    """Packets that the centre has dropped for good: it will never count them, so their edges may send what they carried
    again, under other names. code "taken_back": also those that a release had counted.
    """

    packets: Annotated[
        tuple[PacketRef, ...], Field(min_length=1, max_length=MAX_BUNDLE_PACKETS), AfterValidator(ordered)
    ]
    code: Name
    reason: Reason = ""


Verdict = Literal["applied", "good", "refused", "reverted"]


class Applied(Message):
    """An edge's verdict on a bundle: tried on its own probe text and applied or refused; once applied, watched while it
    serves, and found good, or gone back from ("reverted").
    """

    max_bytes: ClassVar[int] = NOTE_MAX_BYTES
    node: Name
    version: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    verdict: Verdict
    reason: Reason = ""
    probe_before: Amount | None = None  # bits per byte
    probe_after: Amount | None = None
    at_s: Time


class Heartbeat(Message):
    """A service says that it lives, and how its kernels are; the maps are keyed by domain.

    bits_per_byte, local_bits_per_byte: of the text last learned there, before it was learned, under the bundle's kernel
    and under the one that answers.
    """

    max_bytes: ClassVar[int] = NOTE_MAX_BYTES
    node: Name
    service: Name
    at_s: Time
    bundle: Count
    ready: bool
    phases: Annotated[dict[Name, Phase], Field(max_length=MAX_DOMAINS)] = Field(default_factory=dict)
    phi: Annotated[dict[Name, Share | None], Field(max_length=MAX_DOMAINS)] = Field(default_factory=dict)
    kappa: Annotated[dict[Name, Amount | None], Field(max_length=MAX_DOMAINS)] = Field(default_factory=dict)
    bits_per_byte: Annotated[dict[Name, Amount], Field(max_length=MAX_DOMAINS)] = Field(default_factory=dict)
    local_bits_per_byte: Annotated[dict[Name, Amount], Field(max_length=MAX_DOMAINS)] = Field(default_factory=dict)
    fresh_bytes: Count = 0


class DeadLetter(Message):
    """An entry that will not be retried, whole, with the reason."""

    max_bytes: ClassVar[int] = LETTER_MAX_BYTES + 4 * KIB
    stream: StreamName
    entry: Name
    code: Name
    reason: Reason
    deliveries: Count
    body: Annotated[bytes, Blob(0, LETTER_MAX_BYTES)]
    at_s: Time


MESSAGES: Final[tuple[type[Message], ...]] = (
    Query,
    Piece,
    Answer,
    Cancel,
    Batch,
    Common,
    Candidate,
    Bundle,
    Returned,
    Applied,
    Heartbeat,
    DeadLetter,
)
