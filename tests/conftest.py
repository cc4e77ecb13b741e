"""Fixtures of several rooms: one real embedded broker a session, flushed before each test that asks for its address."""

import asyncio
import gc
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import redis
from redis.asyncio import Redis

from common.runtime import embedded
from common.runtime.broker import Broker
from common.runtime.connection import connect

pytest_plugins = ["corpora", "micro"]
# No deadline: the first example of a compiled function pays for its compilation. Derandomised: one seed, one verdict.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")
DEADLINE_S = 10.0
LOOK_FIRST_S, LOOK_LAST_S = 0.005, 0.05  # a look takes a processor that what is waited for could use
# Temporary directories lie in memory where there is room: most of what tests wait for is a disk that flushes. Nothing
# here cuts the power, and of a process that is killed the page cache keeps what it wrote wherever that lies.
MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 << 30
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# The order in which workers take files; any order within a line, and the longest name decides. One compiles what speaks
# and another what packs, which takes most of a minute of a processor and is then on disk for all; who would compile the
# same comes later. Then what is long, and what is short last, so that they end together.
ORDER = (
    "unit/test_kernels_generate.py",
    "unit/test_wire_docs.py",
    "flow/test_broker_many.py",
    "e2e/test_tiny.py",
    ("flow/test_broker", "flow/client", "flow/trust"),
    "e2e",
    ("live", "chaos", "flow/test_broker_link.py"),
    "flow",
    "unit/test_trainer",
    "unit",
)
PLACES = {name: place for place, line in enumerate(ORDER) for name in ([line] if isinstance(line, str) else line)}


@pytest.hookimpl(trylast=True)  # after they were shuffled
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        return PLACES[max(filter(path.startswith, PLACES), key=len)]

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """As a service does when it begins: what is imported stays; a collection after a bundle looks at the rest."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Of a session, so that a fixture of a file may be asynchronous."""
    return "asyncio"


@pytest.fixture(scope="session")
def standing_broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = embedded.start(Path(tmp_path_factory.mktemp("broker")))
    yield running.url
    running.stop()


@pytest.fixture
def broker_url(standing_broker_url: str) -> str:
    """Nothing of another test lies there: its bundles are signed by other keys."""
    with redis.Redis.from_url(standing_broker_url) as client:
        client.flushall()
    return standing_broker_url


@pytest.fixture(name="redis")
async def _redis(broker_url: str) -> AsyncIterator[Redis]:
    async with connect(broker_url) as client:
        yield client


@pytest.fixture
def broker(redis: Redis) -> Broker:
    return Broker(redis)


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until a condition (plain or async) holds; fail at the deadline."""

    async def wait(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
        pause_s = LOOK_FIRST_S
        async with asyncio.timeout(deadline_s):
            while True:
                held = condition()
                if await held if asyncio.iscoroutine(held) else held:
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(1.1 * pause_s, LOOK_LAST_S)

    return wait
