"""A program that asks: what it says, and how its queries and answers are looked at."""

from common.runtime import streams
from common.runtime.entries import body_of
from common.runtime.follower import kept
from common.wire.codec import unpack
from common.wire.inference import Query

TEXT = "down to the sea"
NAME = "kiosk-7"


async def messages(redis, stream, cls):
    return [unpack(cls, body_of(entry.fields)) async for entry in kept(redis, stream)]


async def the_query(redis, eventually):
    """The one query that was published."""
    await eventually(lambda: redis.xlen(streams.QUERIES))
    (query,) = await messages(redis, streams.QUERIES, Query)
    return query


async def read(reply):
    return [piece async for piece in reply]


async def kill_connections(redis):
    await redis.client_kill_filter(_type="normal", skipme=True)
