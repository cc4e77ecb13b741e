"""The publisher's word on what was released, without a publisher."""

import time

from common.runtime import keys, streams
from services.publisher import metadata


async def list_releases(redis, home, released, *, now_s=None, key=None, rings=None):
    """released: messages by version. key: of somebody else. rings: by version, for those that are not for everybody."""
    files = metadata.signed(
        keys.load_offline(home),
        released,
        {name.decode(): data for name, data in (await redis.hgetall(streams.METADATA)).items()},
        key or keys.load_private(home, keys.PUBLISHER),
        now_s=time.time() if now_s is None else now_s,
        rings=rings,
    )
    await redis.hset(streams.METADATA, mapping=dict(files))
