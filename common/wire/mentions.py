"""Mentions: keyed hashes of what an edge holds and does not say, until enough edges hold it.

    n-gram     secret, "qig/ngram/1", bytes of each token     ─ BLAKE2b ─▶ 24 bits
    merge      secret, "qig/merge/1", left half, right half   ─ BLAKE2b ─▶ 24 bits
    decoy      the edge's own key, "qig/decoy/1", a number    ─ BLAKE2b ─▶ 24 bits, the hash of nothing

    +--------+--------------------------+-------------------------+---------+
    | count  | count quotients, unary   | count remainders        | zeros   |
    | u16 LE | q zeros and a one each   | k bits, highest first   | to byte |
    +--------+--------------------------+-------------------------+---------+
      hashes ascend; gap = this - the one before - 1 (the first: itself) = (quotient << k) + remainder; k follows from
      the count alone (`rice_k`), so that a set has one byte form

Edges share the secret and the centre does not have it: to the centre a hash says only which edges hold the same. Over
the bytes of tokens, not over their ids, a hash stays the same when the vocabulary grows. Kinds never meet, so they lie
in one set together. Two different things have one hash with probability 2^-24; a thing that is not in a set of n hashes
seems to be in it with n / 2^24: 1 in 3,400 for 5,000. With 32 bits it were 1 in 860,000, and each hash half as long
again, which costs private mode .006 bits per byte (docs/experiments.md).

Integers only. A reader takes memory for the bits of its input and for as many hashes as it allows, and for no more.

>>> some = mentions(bytes(32), "ngram", [(b"the", b" cat"), (b"cat",)])
>>> decode(encode(some), PACKET_MAX_MENTIONS).tolist() == some.tolist()
True
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from common.errors import Rejected

Kind = Literal["ngram", "merge", "decoy"]
Hashes = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]

SECRET_BYTES: Final = 32
HASH_BYTES: Final = 3
SPACE: Final = 1 << (8 * HASH_BYTES)
PACKET_MAX_MENTIONS: Final = 2048  # more than its bytes hold
MAX_MENTIONS: Final = (1 << 16) - 1  # what the count can say
HEADER_BYTES: Final = 2
_PERSONS: Final[dict[Kind, bytes]] = {"ngram": b"qig/ngram/1", "merge": b"qig/merge/1", "decoy": b"qig/decoy/1"}
NO_HASHES: Final[Hashes] = np.zeros(0, np.uint32)


def mention(secret: bytes, kind: Kind, things: Iterable[Sequence[bytes]]) -> Hashes:
    """The hash of each thing, in the order given. A thing is a sequence of byte strings, of less than 64 KiB each.

    secret: SECRET_BYTES.
    """
    keyed = hashlib.blake2b(digest_size=HASH_BYTES, key=secret, person=_PERSONS[kind])
    found = bytearray()
    for thing in things:
        one = keyed.copy()
        for piece in thing:
            one.update(len(piece).to_bytes(2, "little"))
            one.update(piece)
        found += one.digest()
    low, middle, high = np.frombuffer(bytes(found), np.uint8).reshape(-1, HASH_BYTES).T.astype(np.int64)
    return (low | middle << 8 | high << 16).astype(np.uint32)


def mentions(secret: bytes, kind: Kind, things: Iterable[Sequence[bytes]]) -> Hashes:
    """The hashes of these things as a set: ascending, each once."""
    return np.unique(mention(secret, kind, things))


def rice_k(count: int) -> int:
    """The Rice parameter for `count` >= 1 hashes: floor(log2(ln 2 * mean gap)), in whole numbers; 0 to 23."""
    return max((SPACE * 177 // 256 // count).bit_length() - 1, 0)


def encode(hashes: Hashes) -> bytes:
    """The byte form of a set, no bytes for an empty one. hashes: ascending, each once, at most MAX_MENTIONS."""
    if not len(hashes):
        return b""
    assert len(hashes) <= MAX_MENTIONS, f"{len(hashes)} hashes in one set"
    k = rice_k(len(hashes))
    places: Ints = hashes.astype(np.int64)
    gaps = np.diff(places, prepend=np.int64(-1)) - 1
    ends = np.cumsum((gaps >> k) + 1)
    unary = np.zeros(int(ends[-1]), np.uint8)
    unary[ends - 1] = 1
    remainders = (gaps[:, None] >> np.arange(k - 1, -1, -1) & 1).astype(np.uint8).ravel()
    return len(hashes).to_bytes(HEADER_BYTES, "little") + np.packbits(np.concatenate([unary, remainders])).tobytes()


def decode(blob: bytes, max_mentions: int) -> Hashes:
    """The set, ascending; `max_mentions` at most. Raises Rejected("bad_mentions") for what `encode` does not make."""
    if not blob:
        return NO_HASHES
    count = int.from_bytes(blob[:HEADER_BYTES], "little")
    if len(blob) < HEADER_BYTES or not 1 <= count <= max_mentions:
        raise Rejected("bad_mentions", f"{count} hashes in {len(blob)} bytes; 1 to {max_mentions} may be mentioned")
    k = rice_k(count)
    bits = np.unpackbits(np.frombuffer(blob, np.uint8, offset=HEADER_BYTES))
    if len(bits) < count * (1 + k):
        raise Rejected("bad_mentions", f"{count} hashes in {len(blob)} bytes: cut off")
    ones = np.flatnonzero(bits[: len(bits) - count * k])[:count]
    if len(ones) < count:
        raise Rejected("bad_mentions", f"{len(ones)} quotients for {count} hashes: cut off")
    start = int(ones[-1]) + 1
    end = start + count * k
    if len(bits) - end >= 8 or bits[end:].any():
        raise Rejected("bad_mentions", f"{len(bits) - end} bits are left after {count} hashes")
    gaps: Ints = np.diff(ones, prepend=-1) - 1
    for column in bits[start:end].reshape(count, k).T:
        gaps = gaps << 1 | column
    hashes = np.cumsum(gaps + 1) - 1
    if hashes[-1] >= SPACE:
        raise Rejected("bad_mentions", f"a hash of {hashes[-1]}; {HASH_BYTES} bytes are the most")
    return hashes.astype(np.uint32)


def fit(ranked: Hashes, budget_bytes: int) -> tuple[Hashes, bytes]:
    """As many of the first of `ranked` as `budget_bytes` hold: as a set, and its bytes. ranked: the best first."""
    fits, too_many = 0, min(len(ranked), PACKET_MAX_MENTIONS) + 1
    blob = b""
    while too_many - fits > 1:
        trial = (fits + too_many) // 2
        attempt = encode(np.unique(ranked[:trial]))
        if len(attempt) <= budget_bytes:
            fits, blob = trial, attempt
        else:
            too_many = trial
    return np.unique(ranked[:fits]), blob
