"""Large things beside small messages: content-addressed blobs, in chunks, verified on the way out.

    qig:blob:DIGEST:0   256 KB ─┐
    qig:blob:DIGEST:1   256 KB  ├─▶ sha256 of the whole == DIGEST
    qig:blob:DIGEST:2    the rest ┘

Chunks are what a broker moves fastest (an 8 MB value stops everybody else for 50 ms, 32 chunks for none). Putting the
same bytes twice is putting them once; a put that stopped half-way is finished by the next, or forgotten.
"""

import hashlib
from collections.abc import Collection
from typing import Final, cast

from redis.asyncio import Redis

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import scripts
from common.runtime.streams import BLOB

CHUNK_BYTES: Final = 256 * 1024
BLOB_MAX_BYTES: Final = 1 << 30  # chosen: four kernels of size base with their memories
SCAN_KEYS: Final = 1_000  # looked at in one go


def digest_of(data: bytes) -> str:
    """The name of a blob: its sha256, in hex."""
    return hashlib.sha256(data).hexdigest()


def chunk_key(digest: str, index: int) -> str:
    """Where the `index`-th chunk of a blob lies."""
    return f"{BLOB}{digest}:{index}"


async def put(redis: Redis, data: bytes) -> str:
    """Store `data` until it is forgotten; its digest. Raises Rejected("blob_too_large")."""
    if len(data) > BLOB_MAX_BYTES:
        raise Rejected("blob_too_large", f"a blob of {len(data)} bytes; the limit is {BLOB_MAX_BYTES}: split it")
    digest = digest_of(data)
    for index in range(_chunks(len(data))):
        await redis.set(chunk_key(digest, index), data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    return digest


async def get(redis: Redis, digest: str, size_bytes: int) -> bytes:
    """The blob `digest` of `size_bytes`.

    Raises Unavailable("blob_missing") when a chunk is not there (yet, or any more), Corrupt("part_digest") when the
    bytes are not what their name promises, Rejected("blob_too_large").
    """
    if not 0 <= size_bytes <= BLOB_MAX_BYTES:
        raise Rejected("blob_too_large", f"a blob of {size_bytes} bytes is announced; the limit is {BLOB_MAX_BYTES}")
    parts: list[bytes] = []
    for index in range(_chunks(size_bytes)):
        promised = min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)
        # What is longer than promised shows by one byte too many.
        chunk = cast("bytes", await redis.getrange(chunk_key(digest, index), 0, promised))
        if size_bytes and not chunk:
            message = f"chunk {index} of blob {digest[:12]} is not in the broker: its sender must publish it again"
            raise Unavailable("blob_missing", message)
        parts.append(chunk)
    data = b"".join(parts)
    if len(data) != size_bytes or digest_of(data) != digest:
        message = (
            f"blob {digest[:12]}: {len(data)} bytes with digest {digest_of(data)[:12]}, promised {size_bytes} bytes"
        )
        raise Corrupt("part_digest", message)
    return data


async def forget(redis: Redis, needed: Collection[str], idle_s: float) -> int:
    """Delete what nobody has read or written for `idle_s`, of all blobs but those `needed`; how many chunks.

    needed: digests. Whoever puts a blob, and then tells of it, is safe: what was put a moment ago is not idle.
    """
    gone = 0
    async for key in redis.scan_iter(f"{BLOB}*", SCAN_KEYS):
        if cast("bytes", key).decode().removeprefix(BLOB).partition(":")[0] not in needed:
            gone += await scripts.forget(redis, key.decode(), idle_s=idle_s)
    return gone


def _chunks(size_bytes: int) -> int:
    return max(1, -(-size_bytes // CHUNK_BYTES))
