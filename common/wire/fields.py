"""What fields of messages are made of: their bounds, their types, and the two frozen bases.

Rules that every message keeps: `v` is 1; unknown fields are refused; types are strict (no "5" for 5); no NaN, no
infinity; every text, list, map and blob has a named maximum.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from common.constants import CELLS
from common.wire.blob import Blob

KIB: Final = 1024
MESSAGE_MAX_BYTES: Final = 1024 * KIB  # settled: what a broker moves without a hiccup; a dead letter can hold it whole
LETTER_MAX_BYTES: Final = MESSAGE_MAX_BYTES + KIB  # of a dead letter's body: a message, its stream and its id
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
