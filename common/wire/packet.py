r"""The sleep packet: all that leaves an edge, at most 4,096 bytes with its signature.

    packet: msgpack array of 9                          body: msgpack array of 13 to 15, in a bin
    +---+-----+-------+----------+--------------+       +---+--------+--------+-------+--------------+--------+
    | v | key | epoch | sequence | base_version |       | v | kernel | domain | basin | interactions | tokens |
    | 1 | b8  | u32   | u32      | count        |       | 1 | role   | name?  | b64   | count        | count  |
    +---+--+--+---+---+--+-------+---+----------+       +---+----+---+--------+-+-----+-----+-------++--------+
    | base | at_s | body | signature |                  | fresh_bytes | fresh_bits | phi  | kappa | phases   |
    | b8   | f64  | bin  | b64       |                  | count       | f64        | f64? | f64?  | 4 counts |
    +------+------+------+-----------+                  +------+------+---+--------+------+-------+----------+
                                                        | gate | crystals | mentions | merges        |
    ?: may be nil     bN: bin of N bytes                | bin  | bin      | bin      | bin           |
                                                        +------+----------+----------+---------------+
                                                                          not there where all from here are empty

    signature = ed25519(b"qig/packet/1\0" + msgpack array of the 8 fields before it)

Knows nothing of enrolment, clocks or what was seen before: (key, epoch, sequence) names a packet, and who trusts,
counts and forgets it is the aggregator's affair. Rules it keeps: a packet has exactly one byte form (what would not be
packed again to the same bytes is refused, so a replay cannot be dressed up as another packet; fields of LATER that are
empty are left out at the end, so packets without them keep the form they had); the signature covers every field;
opening is bounded and checks no signature; the body is read only after the signature holds.
"""

import hashlib
from typing import Annotated, Any, Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from common.constants import CELLS, PACKET_MAX_BYTES, Role
from common.errors import Corrupt, Rejected
from common.wire.blob import Blob
from common.wire.codec import AnyMessage, canonical, parse, validated
from common.wire.fields import KEY_ID_BYTES, U32, Amount, Count, KeyId, Message, Name, Share, Signature, Time
from common.wire.messages import PacketRef
from common.wire.proposals import PACKET_MAX_MERGES, ROW

DOMAIN_SEPARATION: Final = b"qig/packet/1\0"
PACKET_GATE_MAX_BYTES: Final = 128
ROOM_BYTES: Final = 3450  # of crystals and mentions: what is left of a packet whose other fields are at their longest
PACKET_MERGES_MAX_BYTES: Final = PACKET_MAX_MERGES * ROW.size
BASE_BYTES: Final = 8


class PacketBody(Message):
    """What one kernel or domain of one edge learned between two sleeps."""

    kernel: Role
    domain: Name | None  # None: text far from every domain that the bundle knows
    basin: Annotated[bytes, Blob(CELLS, CELLS)]  # basin.py, one byte a cell
    interactions: Count
    tokens: Count
    fresh_bytes: Count
    fresh_bits: Amount  # code length of the fresh text, read before it was learned
    phi: Share | None
    kappa: Amount | None
    phases: tuple[Count, Count, Count, Count]  # windows spent in FOAM, TACKING, CRYSTAL, FRACTURE
    gate: Annotated[bytes, Blob(0, PACKET_GATE_MAX_BYTES)] = b""
    crystals: Annotated[bytes, Blob(0, PACKET_MAX_BYTES)] = b""  # crystals.py
    mentions: Annotated[bytes, Blob(0, PACKET_MAX_BYTES)] = b""  # mentions.py
    merges: Annotated[bytes, Blob(0, PACKET_MERGES_MAX_BYTES)] = b""  # proposals.py


LATER: Final = frozenset({"mentions", "merges"})  # fields that a release brought after packets were in use


class Envelope(Message):
    """Who says it, when, against which bundle; the body is still closed."""

    key: KeyId
    epoch: U32  # an edge that lost its counter starts the next epoch
    sequence: U32
    base_version: Count
    base: Annotated[bytes, Blob(BASE_BYTES, BASE_BYTES)]  # base_prefix of that bundle's digest
    at_s: Time
    body: Annotated[bytes, Blob(1, PACKET_MAX_BYTES)]
    signature: Signature

    @property
    def ref(self) -> PacketRef:
        """What names this packet, and no other."""
        return PacketRef(key=self.key, epoch=self.epoch, sequence=self.sequence)


def key_id(verify_key: VerifyKey) -> bytes:
    """The first 8 bytes of the sha256 of a public key."""
    return hashlib.sha256(bytes(verify_key)).digest()[:KEY_ID_BYTES]


def base_prefix(bundle_digest: str) -> bytes:
    """The 8 bytes by which a packet names its base bundle; zeros for the genesis, whose digest is empty."""
    return bytes.fromhex(bundle_digest)[:BASE_BYTES].ljust(BASE_BYTES, b"\0")


def seal(
    body: PacketBody,
    *,
    signing_key: SigningKey,
    epoch: int,
    sequence: int,
    base_version: int,
    base: bytes,
    at_s: float,
) -> bytes:
    """The signed packet. Raises Rejected("packet_too_large") above 4,096 bytes, Rejected("bad_field") for the rest."""
    fields: dict[str, Any] = {
        "v": 1,
        "key": key_id(signing_key.verify_key),
        "epoch": epoch,
        "sequence": sequence,
        "base_version": base_version,
        "base": base,
        "at_s": at_s,
        "body": _to_row(body),
        "signature": bytes(64),
    }
    _check_size(len(fields["body"]))
    unsigned = validated(Envelope, fields)
    signature = signing_key.sign(_signed_part(unsigned)).signature
    raw = _to_row(unsigned.model_copy(update={"signature": signature}))
    _check_size(len(raw))
    return raw


def open_envelope(raw: bytes) -> Envelope:
    """The envelope of a packet, signature unchecked, body closed.

    Raises Rejected: packet_too_large, garbage, wrong_version, bad_field, not_canonical.
    """
    _check_size(len(raw))
    return _from_row(Envelope, raw)


def verify(envelope: Envelope, verify_key: VerifyKey) -> PacketBody:
    """The body, once the signature holds. Raises Corrupt("bad_signature"); Rejected as open_envelope for the body."""
    claimed = envelope.key.hex()
    if envelope.key != key_id(verify_key):
        raise Corrupt("bad_signature", f"packet of key {claimed} held against key {key_id(verify_key).hex()}")
    try:
        verify_key.verify(_signed_part(envelope), envelope.signature)
    except BadSignatureError:
        raise Corrupt(
            "bad_signature",
            f"packet {envelope.sequence} of epoch {envelope.epoch} was not signed by key {claimed}: "
            "drop it, and look who publishes under that key's name",
        ) from None
    return _from_row(PacketBody, envelope.body)


def admitted_body(envelope: Envelope) -> PacketBody:
    """The body of a packet that was verified before, without verifying it again. Raises Rejected as open_envelope."""
    return _from_row(PacketBody, envelope.body)


def _signed_part(envelope: Envelope) -> bytes:
    return DOMAIN_SEPARATION + canonical(_row(envelope)[:-1])


def _row(value: Message) -> tuple[Any, ...]:
    """The fields in the order in which the class declares them: names would cost 150 of the 4,096 bytes."""
    fields = value.model_dump()
    while (last := next(reversed(fields))) in LATER and not fields[last]:
        del fields[last]
    return tuple(fields.values())


def _to_row(value: Message) -> bytes:
    return canonical(_row(value))


def _from_row(cls: type[AnyMessage], raw: bytes) -> AnyMessage:
    """The value whose row these bytes are, and no others."""
    fields = parse(cls.__name__, raw)
    names = tuple(cls.model_fields)
    least = sum(name not in LATER for name in names)
    if not isinstance(fields, tuple) or not least <= len(fields) <= len(names):
        size = len(fields) if isinstance(fields, tuple) else "no"
        due = least if least == len(names) else f"{least} to {len(names)}"
        raise Rejected("bad_field", f"{cls.__name__}: an array of {due} fields is due, got {size}: see docs/wire")
    value = validated(cls, dict(zip(names, fields, strict=False)))
    if _to_row(value) != raw:
        raise Rejected(
            "not_canonical", f"{cls.__name__}: {len(raw)} bytes that are not its shortest msgpack form: see docs/wire"
        )
    return value


def _check_size(size_bytes: int) -> None:
    if size_bytes > PACKET_MAX_BYTES:
        raise Rejected(
            "packet_too_large", f"packet of {size_bytes} bytes; the limit is {PACKET_MAX_BYTES}: send fewer crystals"
        )
