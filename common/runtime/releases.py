"""The releases in the bundles' stream, and the current one: what the publisher listed; whatever else lies there stops
nobody.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final, cast

from redis.asyncio import Redis

from common.errors import Corrupt, Rejected
from common.runtime import streams
from common.runtime.entries import body_of
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.messages import Bundle

LOOK_BACK: Final = 8  # chosen: releases; of messages that are none, twice as many hide those below them
ENTRIES_MAX: Final = 2  # of a release: one that went to a ring first is there once more, for everybody


async def newest_messages(redis: Redis, releases: int) -> dict[bytes, str]:
    """What may be releases, newest first, each once with the id of its last entry.

    releases: the newest so many are among them, unless others have written there too; there may be more. Raises
    RedisError.
    """
    found: dict[bytes, str] = {}
    rows = await redis.xrevrange(streams.BUNDLES, count=ENTRIES_MAX * releases)
    for entry_id, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", rows):
        if (message := body_of(fields)) is not None:
            found.setdefault(message, entry_id.decode())
    return found


async def newest_release(redis: Redis, trust: Trust, *, node: str | None = None) -> Bundle | None:
    """The highest version that is believed among the newest messages; None when there is none.

    node: of those that are open to this edge.

    The highest, not the last: anybody may publish an old release again. Followers say what is wrong with the rest.
    Raises what `Trust.verify` raises while nobody can tell.
    """
    return await newest_among(await newest_messages(redis, LOOK_BACK), trust, node=node)


async def newest_among(messages: Iterable[bytes], trust: Trust, *, node: str | None = None) -> Bundle | None:
    """Of messages that were read already, as `newest_release`."""
    found: list[Bundle] = []
    for message in messages:
        with suppress(Rejected, Corrupt):
            bundle = unpack(Bundle, message)
            await trust.verify(bundle.version, message)
            if node is None or await trust.is_open(bundle.version, message, node):
                found.append(bundle)
    return max(found, key=lambda bundle: bundle.version, default=None)
