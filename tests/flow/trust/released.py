"""Bundles that a publisher released, and the files in the broker that say so."""

from listing import list_releases
from nacl.signing import SigningKey

from common.runtime import keys, streams
from common.wire.bundle import part_of, sign
from common.wire.codec import pack
from common.wire.messages import Candidate, Evidence

DAY_S = 86_400.0
STRANGER = SigningKey(b"\7" * 32)


def message(home, version, parts=b"0", key=None):
    candidate = Candidate(
        id=f"c{version}",
        parent=version - 1,
        parent_digest="ab" * 32 if version > 1 else "",
        parts={"notes.bin": part_of(parts)},
        evidence=Evidence(),
    )
    return pack(
        sign(
            candidate,
            version=version,
            released_at_s=1.0,
            signing_key=key or keys.load_private(home, keys.PUBLISHER),
        )
    )


async def release(redis, home, upto, **given):
    """Versions 1 to `upto`, listed; the messages by version."""
    messages = {version: message(home, version) for version in range(1, upto + 1)}
    await list_releases(redis, home, messages, **given)
    return messages


async def files(redis):
    return await redis.hgetall(streams.METADATA)


async def put_back(redis, held):
    await redis.delete(streams.METADATA)
    await redis.hset(streams.METADATA, mapping=held)


def of_role(held, role):
    """The newest file of a role."""
    names = [name for name in held if name.decode().endswith(f"{role}.json")]
    return max(names, key=lambda name: int((name.split(b".")[0]).decode()) if name[:1].isdigit() else 0)
