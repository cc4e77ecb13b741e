"""A death at a chosen moment: from the n-th write on, a service in this process never hears from the broker again.

For the broker that is kill -9: "before" the write was never sent, "after" it was made and its reply was lost. Its tasks
hang where they are until the test throws them away; nothing of its memory reaches the service that is started next.
"""

import asyncio
from contextvars import ContextVar

from redis.asyncio import Redis

READS = {
    *("XREAD", "XREADGROUP", "XREVRANGE", "XRANGE", "XLEN", "XPENDING"),
    *("HGET", "HMGET", "HGETALL", "HKEYS", "HSTRLEN", "ZSCORE", "GET", "TIME", "PING"),
}
VICTIM = ContextVar("victim", default=None)


class Death:
    """At the `nth` write of whoever runs in its context."""

    def __init__(self, nth, moment):
        self.left = nth
        self.moment = moment
        self.came = asyncio.Event()
        self.clients = set()

    async def watch(self, send):
        """One write that may be the last."""
        self.left -= 1
        last = self.left == 0
        if last and self.moment == "before":
            await self.end()
        try:
            return await send()
        finally:
            if last or self.came.is_set():
                await self.end()

    async def end(self):
        self.came.set()
        await asyncio.Event().wait()


def install(monkeypatch):
    """Let every client of redis-py ask its context's death first."""
    plain = Redis.execute_command

    async def execute(self, *args, **options):
        death = VICTIM.get()
        if death is None:
            return await plain(self, *args, **options)
        death.clients.add(self)
        if death.came.is_set():
            await death.end()
        if str(args[0]).upper().split()[0] in READS | {"XINFO"}:
            return await plain(self, *args, **options)
        return await death.watch(lambda: plain(self, *args, **options))

    monkeypatch.setattr(Redis, "execute_command", execute)


async def dies(death, live, finished):
    """Run the coroutine `live` under `death` until death comes or `finished` holds; whether it died."""

    async def life():
        VICTIM.set(death)
        await live

    before = asyncio.all_tasks()
    running = asyncio.create_task(life())
    while not death.came.is_set() and not await finished():
        await asyncio.sleep(0.005)
        if running.done():
            await running
    died = death.came.is_set()
    death.came.set()
    while left := asyncio.all_tasks() - before:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=0.05)  # a task may meet its end once more on its way out
    for client in death.clients:  # the kernel closes a dead process's sockets
        await client.connection_pool.disconnect()
    return died
