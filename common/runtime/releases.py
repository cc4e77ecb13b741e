"""The current release: what the publisher listed; whatever else lies in the bundles' stream stops nobody."""

from contextlib import suppress
from typing import Final, cast

from redis.asyncio import Redis

from common.errors import Corrupt, Rejected
from common.runtime import streams
from common.runtime.entries import body_of
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.messages import Bundle

LOOK_BACK: Final = 16  # chosen: entries looked at; more that are no releases than this hide the one below them


async def newest_release(redis: Redis, trust: Trust, *, node: str | None = None) -> Bundle | None:
    """The highest version that is believed among the last LOOK_BACK entries; None when there is none.

    node: of those that are open to this edge.

    The highest, not the last: anybody may publish an old release again. Followers say what is wrong with the rest.
    Raises what `Trust.verify` raises while nobody can tell.
    """
    rows = await redis.xrevrange(streams.BUNDLES, count=LOOK_BACK)
    found: list[Bundle] = []
    for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", rows):
        with suppress(Rejected, Corrupt):
            message = body_of(fields) or b""
            bundle = unpack(Bundle, message)
            await trust.verify(bundle.version, message)
            if node is None or await trust.is_open(bundle.version, message, node):
                found.append(bundle)
    return max(found, key=lambda bundle: bundle.version, default=None)
