"""A death at a chosen moment: from the n-th write of its work on, a service here never hears from the broker again.

For the broker that is kill -9: "before" the write was never sent, "after" it was made and its reply was lost. Its tasks
hang where they are until the test throws them away; nothing of its memory reaches the service that is started next.
"""

import asyncio
import gc
import warnings
from contextvars import ContextVar

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection

from common.runtime import scripts
from common.runtime.lanes import digest

# What does work: to count heartbeats and upkeep too would make another write the nth in each life, and some never.
WORK = {each for script in (scripts._COMMIT, scripts._PUBLISH, scripts._CARRY) for each in (script, digest(script))}
# For tests in which somebody dies: what that leaves open in this process, the kernel closes of a real one.
LEAVES_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
QUIET_TURNS = 3  # of the loop, without a task
VICTIM = ContextVar("victim", default=None)


@pytest.fixture(scope="module", autouse=True)
def buried():
    """Of every module that has this name: what its deaths leave open is no other test's fault."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Death:
    """At the `nth` write of whoever runs in its context."""

    def __init__(self, nth, moment):
        self.left = nth
        self.moment = moment
        self.came = asyncio.Event()
        self.connections = set()

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
    """Let every client of redis-py ask its context's death first, and every connection be known to it. What goes in one
    trip is one write.
    """
    plain, together = Redis.execute_command, Pipeline.execute
    connected = AbstractConnection.connect_check_health

    async def connect(self, *args, **options):
        if (death := VICTIM.get()) is not None:
            death.connections.add(self)
        await connected(self, *args, **options)

    async def deadly(commands, send):
        death = VICTIM.get()
        if death is None:
            return await send()
        if death.came.is_set():
            await death.end()
        works = any(str(part) in WORK for command in commands for part in command[1:2])
        return await (death.watch(send) if works else send())

    async def execute(self, *args, **options):
        return await deadly([args], lambda: plain(self, *args, **options))

    async def execute_together(self, *args, **options):
        commands = [command[0] for command in self.command_stack]
        return await deadly(commands, lambda: together(self, *args, **options))

    monkeypatch.setattr(Redis, "execute_command", execute)
    monkeypatch.setattr(Pipeline, "execute", execute_together)
    monkeypatch.setattr(AbstractConnection, "connect_check_health", connect)


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
    quiet = 0
    while quiet < QUIET_TURNS:  # a task may meet its end once more on its way out, and leave another behind
        left = asyncio.all_tasks() - before
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=0.05)
        await asyncio.sleep(0)
        quiet = 0 if left else quiet + 1
    # The kernel closes a dead process's sockets, and nobody is warned of them. Not every one is in its pool still: a
    # task that is cancelled twice may take a connection out of it, or make one, and not come to close it.
    for connection in death.connections:
        await connection.disconnect(nowait=True)
    return died
