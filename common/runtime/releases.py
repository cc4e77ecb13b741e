"""The current release: what the publisher's key signed; whatever else lies in the bundles' stream stops nobody."""

from contextlib import suppress
from typing import Final, cast

from nacl.signing import VerifyKey
from redis.asyncio import Redis

from common.errors import Corrupt, Rejected
from common.runtime import streams
from common.runtime.entries import body_of
from common.wire.bundle import verify
from common.wire.codec import unpack
from common.wire.messages import Bundle

LOOK_BACK: Final = 16  # chosen: entries looked at; more that are no releases than this hide the one below them


async def newest_release(redis: Redis, publisher: VerifyKey) -> Bundle | None:
    """The highest version that verifies among the last LOOK_BACK entries; None when there is none.

    The highest, not the last: anybody may publish an old release again. Followers say what is wrong with the rest.
    """
    rows = await redis.xrevrange(streams.BUNDLES, count=LOOK_BACK)
    found: list[Bundle] = []
    for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", rows):
        with suppress(Rejected, Corrupt):
            bundle = unpack(Bundle, body_of(fields) or b"")
            verify(bundle, publisher)
            found.append(bundle)
    return max(found, key=lambda bundle: bundle.version, default=None)
