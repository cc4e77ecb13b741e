"""Everything that crosses a process boundary, as frozen values. One stream of DESIGN.md section 5 carries one of these.

    queries ─ Query ▶ edge ─ Piece ... Answer ▶ answers:CLIENT    heart ◀ Heartbeat ─ every service
    cancel ─ Cancel ▶ every edge
    packets ─ (packet.py: signed bytes) ▶ aggregator ─ Batch ▶ trainer ─ Candidate ▶ publisher ─ Bundle ▶ edges
                                        common ◀ Common ─ aggregator ─▶ edges
    returned ─ Returned ▶ edges: packets that go into no bundle any more
    applied ◀ Applied ─ edge                                   {stream}:dead ◀ DeadLetter ─ every consumer

Knows nothing of bytes, streams or signatures: codec.py packs, bundle.py signs. Rules it keeps: `v` is 1; unknown fields
are refused; types are strict (no "5" for 5); no NaN, no infinity; every text, list, map and blob has a named maximum;
nothing longer than MESSAGE_MAX_BYTES travels in a stream (bigger things ride in the store, beside a small message).

>>> Query(text="Where does the river go?").max_tokens
128
"""

import hashlib
import itertools
import struct
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from common.constants import CELLS, Phase, Role
from common.wire.blob import Blob

KIB: Final = 1024
MESSAGE_MAX_BYTES: Final = 1024 * KIB  # settled: what a broker moves without a hiccup; a dead letter can hold it whole
QUERY_MAX_CHARS: Final = 16_384
QUERY_MAX_BYTES: Final = 256 * KIB  # the text as JSON escapes is at most 12 bytes a character
ANSWER_MAX_CHARS: Final = 65_536
ANSWER_MAX_BYTES: Final = 320 * KIB
NOTE_MAX_BYTES: Final = 32 * KIB  # heartbeats and verdicts: all names, no text
MAX_NEW_TOKENS: Final = 1024
MAX_TEMPERATURE: Final = 2.0
NAME_MAX_CHARS: Final = 64
MAX_STOPS: Final = 4  # OpenAI's
STOP_MAX_CHARS: Final = 64
DEADLINE_MAX_S: Final = 86_400.0
PIECE_MAX_CHARS: Final = 4096
REASON_MAX_CHARS: Final = 512
PATH_MAX_CHARS: Final = 128
MAX_DOMAINS: Final = 64
MAX_TOKENS: Final = 1 << 15  # of a vocabulary
MAX_MERGES: Final = 64  # of a batch, chosen: a round of growth that costs an edge's memories a second
MAX_MERGE_EDGES: Final = 8  # that are named for a merge: more than must agree
MAX_BATCH_PACKETS: Final = 256
MAX_CORRECTIONS: Final = 256  # of a batch; their bytes bound them first
MAX_BUNDLE_PACKETS: Final = 4096  # a candidate may span several batches
MAX_PARTS: Final = 256
MAX_FIGURES: Final = 512
PART_MAX_BYTES: Final = 1 << 32
CRYSTALS_MAX_BYTES: Final = 192 * KIB
COMMON_MAX_HASHES: Final = 32_768  # of one message, 1.4 bytes each or a little more
COMMON_MAX_BYTES: Final = 64 * KIB
GATE_MAX_BYTES: Final = 256
BASIN_BYTES: Final = 2 * CELLS
KEY_ID_BYTES: Final = 8
SIGNATURE_BYTES: Final = 64
MAX_COUNT: Final = (1 << 53) - 1  # what a client whose only number is a double still counts exactly
MAX_U32: Final = (1 << 32) - 1
MAX_TIME_S: Final = 1e11  # seconds since 1970; the year 5138
PI_RAD: Final = 3.1415927  # the simplex is this wide; pi rounded up, so that float noise stays inside

Mode = Literal["routed", "constellation", "vocab", "strategy", "percept", "heart"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=NAME_MAX_CHARS)]
"""A slug: no colon, no brace, no slash, so that it may stand in a stream's name and in a file's."""
Path = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", max_length=PATH_MAX_CHARS
    ),
]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ParentDigest = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
Reason = Annotated[str, StringConstraints(max_length=REASON_MAX_CHARS)]
StreamName = Annotated[str, StringConstraints(min_length=1, max_length=2 * NAME_MAX_CHARS)]
Unit = Annotated[str, StringConstraints(max_length=32)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
U32 = Annotated[int, Field(ge=0, le=MAX_U32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Radians = Annotated[float, Field(ge=0.0, le=PI_RAD)]
Amount = Annotated[float, Field(ge=0.0)]  # bits, seconds, kappa: finite and not negative
Time = Annotated[float, Field(ge=0.0, le=MAX_TIME_S)]
KeyId = Annotated[bytes, Blob(KEY_ID_BYTES, KEY_ID_BYTES)]
Signature = Annotated[bytes, Blob(SIGNATURE_BYTES, SIGNATURE_BYTES)]
Token = Annotated[int, Field(ge=0, lt=MAX_TOKENS)]
Basin = Annotated[bytes, Blob(BASIN_BYTES, BASIN_BYTES)]
"""64 float16, little-endian; the reader checks that they are a point of the simplex."""


class Value(BaseModel):
    """A frozen piece of a message."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, ser_json_bytes="hex", val_json_bytes="hex"
    )


class Message(Value):
    """What one entry of a stream holds; `max_bytes` bounds its packed form, msgpack or JSON."""

    max_bytes: ClassVar[int] = MESSAGE_MAX_BYTES
    v: Literal[1] = 1


class Query(Message):
    """A question to the fleet, or with max_tokens=0 a text to read, score and learn from."""

    max_bytes: ClassVar[int] = QUERY_MAX_BYTES
    id: Name | None = None  # None: the stream's entry id names it
    client: Name = "anonymous"  # answers go to the stream qig:answers:CLIENT
    text: Annotated[str, StringConstraints(min_length=1, max_length=QUERY_MAX_CHARS)]
    max_tokens: Annotated[int, Field(ge=0, le=MAX_NEW_TOKENS)] = 128
    temperature: Annotated[float, Field(ge=0.0, le=MAX_TEMPERATURE)] = 0.8
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = (
        1.0  # of the mass, the likeliest tokens that hold it are drawn from
    )
    stop: Annotated[
        tuple[Annotated[str, StringConstraints(min_length=1, max_length=STOP_MAX_CHARS)], ...],
        Field(max_length=MAX_STOPS),
    ] = ()
    seed: Count | None = None
    stream: bool = False  # True: the answer's text comes in Pieces as it is made, and then whole in the Answer
    deadline_s: Annotated[float, Field(gt=0.0, le=DEADLINE_MAX_S)] | None = None  # after its entry; then it is refused
    mode: Mode = "routed"
    store: bool = True  # False: answer, and learn nothing from it


class RouteStep(Value):
    """One domain the router weighed: the Fisher-Rao distance from the query's basin to its own, and its share of the
    answer.
    """

    domain: Name
    kernel: Role
    distance_rad: Radians
    weight: Share


class Problem(Value):
    """Why a query was not answered: an error's code and message."""

    code: Name
    message: Reason
    retry_after_s: Amount | None = None  # when asking again may help


class Piece(Message):
    """Some of an answer's text, as it is made. Index 0 begins the text anew: another edge may have taken it over.

    The Answer, which comes last, has the whole text; a piece may be lost with the edge that sent it, the Answer is not.
    """

    max_bytes: ClassVar[int] = NOTE_MAX_BYTES
    query_id: Name
    client: Name
    node: Name
    index: Count
    text: Annotated[str, StringConstraints(max_length=PIECE_MAX_CHARS)]
    tokens: Count


class Cancel(Message):
    """The client no longer wants an answer: the edge that makes it stops between two tokens and says what it has."""

    max_bytes: ClassVar[int] = NOTE_MAX_BYTES
    query_id: Name
    client: Name


class Answer(Message):
    """What came back for one query, with the evidence of how; None where a quantity is not known."""

    max_bytes: ClassVar[int] = ANSWER_MAX_BYTES
    query_id: Name
    client: Name
    node: Name
    bundle: Count  # 0: the genesis the software was shipped with
    text: Annotated[str, StringConstraints(max_length=ANSWER_MAX_CHARS)]
    finish: Literal["stop", "length", "read", "cancelled", "refused"]
    prompt_tokens: Count = 0
    completion_tokens: Count = 0
    prompt_bytes: Count = 0
    prompt_bits: Amount = 0.0  # the prompt's code length under the kernel that read it
    route: Annotated[tuple[RouteStep, ...], Field(max_length=MAX_DOMAINS)] = ()  # nearest first
    margin_rad: Radians | None = None  # second distance minus first; None: there was no second
    abstained: bool = False
    kernel: Role | None = None
    domain: Name | None = None
    phi: Share | None = None
    phi_p: Share | None = None
    constellation_phi: Share | None = None  # of all four states together, over what this node lately read and said
    constellation_phi_p: Share | None = None
    kappa: Amount | None = None
    phase: Phase | None = None
    seconds: Amount = 0.0
    problem: Problem | None = None


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
    else.

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
        if not self.domains or not self.packets:
            raise ValueError("a batch without packets or domains")
        if self.id != batch_id(self.packets):
            raise ValueError(f"id {self.id} is not the hash of the {len(self.packets)} packets")
        names = [domain.name for domain in self.domains]
        if len(set(names)) != len(names):
            raise ValueError("a domain is named twice")
        return self

    @model_serializer(mode="wrap")
    def _known(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without corrections as it was before there were any: an older trainer reads it."""
        fields: dict[str, Any] = dump(self)
        return fields if self.corrections else {name: each for name, each in fields.items() if name != "corrections"}


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

    max_bytes: ClassVar[int] = MESSAGE_MAX_BYTES + 4 * KIB
    stream: StreamName
    entry: Name
    code: Name
    reason: Reason
    deliveries: Count
    body: Annotated[bytes, Blob(0, MESSAGE_MAX_BYTES)]
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
