"""A batch as a job for a worker that reaches no broker: what it is asked, and what it tells. Values and bytes alone.

    Request ─ job: the batch, its parent's parts by digest, all that a candidate depends on ─▶ worker
            ─ chunks: bytes that it lacked;  wanted: chunks to be given
    Reply   ─ missing: chunks without which it cannot begin
            ─ made: the candidate's parts by digest, its figures;  chunks: bytes, as many as one reply holds
            ─ refused: why the batch is none

A part is named by its digest and goes in chunks of CHUNK_BYTES, compressed; what a worker has it is not sent again, and
it tells what it has not. So a job is small where its worker made the parent or has it on a volume, and as large as it
must be where not. Its name is the hash of all that it says: asked twice, it is one job.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, ClassVar, Final

import zstandard
from pydantic import Field, StringConstraints

from common.errors import Corrupt, QigError, Rejected
from common.wire.blob import Blob
from common.wire.codec import canonical, pack
from common.wire.fields import (
    KEY_ID_BYTES,
    MAX_DOMAINS,
    MAX_FIGURES,
    MAX_MERGES,
    MESSAGE_MAX_BYTES,
    Amount,
    Count,
    Digest,
    Message,
    Name,
    Reason,
    Value,
)
from common.wire.messages import Batch, Figure, PacketRef, Part, Parts, batch_id

CHUNK_BYTES: Final = 3 << 20
LOAD_BYTES: Final = 3_400_000  # of compressed chunks in a message: in JSON, as hex, twice that, beside a batch of 2 MB
JSON_MAX_BYTES: Final = 10_000_000  # what RunPod takes in one request
NAMES_MAX: Final = 1024
_LEVEL: Final = 3
_PACKED_MAX_BYTES: Final = CHUNK_BYTES + (CHUNK_BYTES >> 7) + 1024  # a chunk that does not compress

ChunkName = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}:[0-9]{1,5}$")]
Chunks = Annotated[dict[ChunkName, Annotated[bytes, Blob(1, _PACKED_MAX_BYTES)]], Field(max_length=NAMES_MAX)]
ChunkNames = Annotated[tuple[ChunkName, ...], Field(max_length=NAMES_MAX)]


class Job(Value):
    """All that a candidate depends on. batch: packed. parts: the parent's. text: `Text.digest` of what is replayed and
    measured on, which the worker has itself. held_back: merges that are not tried now, ascending.
    """

    batch: Annotated[bytes, Blob(1, MESSAGE_MAX_BYTES)]
    parts: Parts
    text: Digest
    steps: Count
    seed: Count
    held_back: Annotated[tuple[Name, ...], Field(max_length=1 << 16)] = ()

    @property
    def name(self) -> str:
        """Sha256, in hex, of all of it."""
        return hashlib.sha256(canonical(self.model_dump())).hexdigest()


def of_nothing(parts: Mapping[str, Part], text: str) -> Job:
    """A job whose candidate is its parent: whether a worker has these parts and this text, and answers."""
    packet = PacketRef(key=bytes(KEY_ID_BYTES), epoch=0, sequence=0)
    batch = Batch(id=batch_id([packet]), base_version=1, base_digest="", domains=(), packets=(packet,))
    return Job(batch=pack(batch), parts=dict(parts), text=text, steps=0, seed=0)


class Made(Value):
    """What became of a batch. grown, dropped: as in `consolidate.Consolidated`."""

    parts: Parts
    figures: Annotated[tuple[Figure, ...], Field(max_length=MAX_FIGURES)]
    guards: Annotated[tuple[Name, ...], Field(max_length=MAX_DOMAINS)]
    grown: Annotated[tuple[Name, ...], Field(max_length=MAX_MERGES)]
    dropped: Annotated[tuple[Name, ...], Field(max_length=MAX_MERGES)]
    seconds: Amount


class Refused(Value):
    """Why a batch became nothing: wrong in itself, or corrupt."""

    code: Name
    reason: Reason
    corrupt: bool

    def error(self) -> QigError:
        """As the error that it was where it was raised."""
        return Corrupt(self.code, self.reason) if self.corrupt else Rejected(self.code, self.reason)


class Request(Message):
    """One request to a worker."""

    max_bytes: ClassVar[int] = JSON_MAX_BYTES
    job: Job | None = None
    chunks: Chunks = Field(default_factory=dict)
    wanted: ChunkNames = ()


class Reply(Message):
    """Its answer. other_text: the worker has text of this digest, and not the job's."""

    max_bytes: ClassVar[int] = JSON_MAX_BYTES
    missing: ChunkNames = ()
    made: Made | None = None
    refused: Refused | None = None
    other_text: Digest | None = None
    chunks: Chunks = Field(default_factory=dict)


def new_names(parts: Mapping[str, Part], known: Mapping[str, Part]) -> list[str]:
    """The chunks of those parts that are not among the known ones, each once."""
    there = {part.digest for part in known.values()}
    return all_names(part for part in parts.values() if part.digest not in there)


def names(part: Part) -> list[str]:
    """The chunks of a part, in their order: DIGEST:0, DIGEST:1, ... An empty part has none."""
    return [f"{part.digest}:{index}" for index in range(-(-part.size_bytes // CHUNK_BYTES))]


def all_names(parts: Iterable[Part]) -> list[str]:
    """The chunks of all parts, each once."""
    return list(dict.fromkeys(name for part in parts for name in names(part)))


def cut(part: Part, data: bytes) -> dict[str, bytes]:
    """The chunks of a part by name, packed. data: the part's bytes."""
    compress = zstandard.ZstdCompressor(level=_LEVEL).compress
    return {
        name: compress(data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES]) for index, name in enumerate(names(part))
    }


def joined(part: Part, packed: Sequence[bytes]) -> bytes:
    """A part of its packed chunks. Raises Corrupt("part_digest") where they are not what its digest promised."""
    data = b"".join(_unpacked(part, chunk) for chunk in packed)
    if len(data) != part.size_bytes or hashlib.sha256(data).hexdigest() != part.digest:
        message = f"part {part.digest[:12]}: its chunks make {len(data)} other bytes, {part.size_bytes} were promised"
        raise Corrupt("part_digest", message)
    return data


def _unpacked(part: Part, packed: bytes) -> bytes:
    try:
        if not 0 <= zstandard.frame_content_size(packed) <= CHUNK_BYTES:
            raise Corrupt("part_digest", f"a chunk of part {part.digest[:12]} unpacks to more than {CHUNK_BYTES} bytes")
        return zstandard.ZstdDecompressor().decompress(packed)
    except zstandard.ZstdError as error:
        raise Corrupt("part_digest", f"a chunk of part {part.digest[:12]} is no whole zstd frame: {error}") from None


def load(chunks: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """The first of the chunks that fit into one message; one at least, where there is one. Reads no more than those and
    the next.
    """
    found: dict[str, bytes] = {}
    size = 0
    for name, packed in chunks:
        size += len(packed)
        if found and (size > LOAD_BYTES or len(found) == NAMES_MAX):
            break
        found[name] = packed
    return found
