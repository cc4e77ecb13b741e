r"""A release: a candidate under a version, a time and the publisher's signature.

    signature = ed25519(b"qig/bundle/1\0" + canonical msgpack map of every field but `signature`)
    digest    = sha256 of the same bytes and the signature: what the next bundle names as its parent,
                and whose first 8 bytes a packet names as its base

Knows nothing of stores or rings, and does not decide whether a bundle is any good. Rules it keeps: every field is
signed; parts are named by the sha256 and size of their bytes, so that signing the bundle signs the parts.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from common.errors import Corrupt
from common.wire.codec import canonical, validated
from common.wire.fields import SIGNATURE_BYTES
from common.wire.messages import Batch, Bundle, Candidate, Part
from common.wire.packet import key_id

DOMAIN_SEPARATION: Final = b"qig/bundle/1\0"
TAKES_BACK: Final = "revoke-"  # begins the id of a release that a publisher makes without a trainer's candidate
CORRECTS: Final = "correction-"  # begins the id of a candidate that takes out what a node had brought
_CORRECTS_DIGITS: Final = 48
_BACK: Final = re.compile(re.escape(TAKES_BACK) + r"\d+-to-(?P<version>\d+)")


def sign(candidate: Candidate, *, version: int, released_at_s: float, signing_key: SigningKey) -> Bundle:
    """The candidate, released. Raises Rejected("bad_field") when the version does not follow the parent's."""
    fields = {
        **candidate.model_dump(),
        "version": version,
        "released_at_s": released_at_s,
        "key": key_id(signing_key.verify_key),
        "signature": bytes(SIGNATURE_BYTES),
    }
    unsigned = validated(Bundle, fields)
    return unsigned.model_copy(update={"signature": signing_key.sign(_signed_part(unsigned)).signature})


def verify(bundle: Bundle, verify_key: VerifyKey) -> None:
    """Raises Corrupt("bad_signature") unless the key signed every field of the bundle."""
    if bundle.key != key_id(verify_key):
        raise Corrupt(
            "bad_signature",
            f"bundle {bundle.version} is signed by key {bundle.key.hex()}, the trusted publisher is "
            f"{key_id(verify_key).hex()}: keep the last good bundle, and compare the trusted keys with the publisher's",
        )
    try:
        verify_key.verify(_signed_part(bundle), bundle.signature)
    except BadSignatureError:
        raise Corrupt(
            "bad_signature",
            f"bundle {bundle.version} was not signed by key {bundle.key.hex()}: keep the last good bundle",
        ) from None


def is_signed(bundle: Bundle, signers: Mapping[str, VerifyKey]) -> bool:
    """Whether one of these keys, by its id in hex, signed every field of the bundle."""
    signer = signers.get(bundle.key.hex())
    try:
        if signer is not None:
            verify(bundle, signer)
    except Corrupt:
        return False
    return signer is not None


def digest(bundle: Bundle) -> str:
    """Sha256, in hex, of all that was signed and the signature."""
    return hashlib.sha256(_signed_part(bundle) + bundle.signature).hexdigest()


def takes_back(bundle: Bundle | Candidate) -> bool:
    """Whether it brings back an older release's parts because a newer one turned out bad (`qig bundle revoke`)."""
    return bundle.id.startswith(TAKES_BACK)


def brings_back(name: str) -> int | None:
    """The version that the release of this id goes back to, "revoke-LAST-to-VERSION"; None for any other."""
    back = _BACK.fullmatch(name)
    return int(back["version"]) if back else None


def candidate_id(batch: Batch) -> str:
    """What the candidate of a batch is called: the same whoever makes it, and however often."""
    return CORRECTS + batch.id[:_CORRECTS_DIGITS] if batch.corrections else batch.id


def corrects(candidate: Bundle | Candidate) -> bool:
    """Whether it brings nothing and takes out what a node had brought (`qig packet disown`)."""
    return candidate.id.startswith(CORRECTS)


def part_of(data: bytes) -> Part:
    """The name of these bytes in a bundle."""
    return Part(digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def check_part(data: bytes, part: Part) -> None:
    """Raises Corrupt("part_digest") unless these are the bytes that the bundle names."""
    if part_of(data) != part:
        raise Corrupt(
            "part_digest",
            f"a part of {len(data)} bytes where the bundle names {part.size_bytes} bytes with digest {part.digest}: "
            "keep the last good bundle and fetch the part again",
        )


def _signed_part(bundle: Bundle) -> bytes:
    return DOMAIN_SEPARATION + canonical(bundle.model_dump(exclude={"signature"}))
