import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from broker_node import Node
from centre import NODES, Centre
from http_edge import standing
from playwright.async_api import async_playwright
from redis.asyncio import Redis

from common.runtime import keys, pace
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.service import serve

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
async def start_node(redis: Redis, broker_url: str) -> AsyncIterator[Callable[[Consumer[bytes]], Awaitable[Node]]]:
    nodes: list[Node] = []
    names = (f"node-{number}" for number in itertools.count())

    async def begin(what: Consumer[bytes], url: str = broker_url, **options: Any) -> Node:
        nodes.append(Node(url, what, next(names), **options))
        await nodes[-1].start()
        return nodes[-1]

    yield begin
    for node in nodes:
        await node.stop()


@pytest.fixture
def seasoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers that begin as those that have found their link quick."""
    monkeypatch.setattr(pace, "FIRST", 128)


@pytest.fixture
async def running():
    """Start a service; its base URL, and how to stop it."""
    begun = []

    async def start(loaded, wiring):
        url, stop = asyncio.get_running_loop().create_future(), asyncio.Event()

        async def build(broker):
            return wiring(broker) if callable(wiring) else wiring

        work = serve(loaded, service="edge", build=build, check_every_s=0.05, stop=stop, on_start=url.set_result)
        task = asyncio.create_task(work)
        begun.append((task, stop))

        async def end():
            stop.set()
            await task

        return await url, end

    yield start
    for task, stop in begun:
        stop.set()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(scope="module")
async def http(
    tmp_path_factory: pytest.TempPathFactory, micro_parts: dict[str, bytes], eventually: Callable[..., Awaitable[None]]
) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of an edge that serves bundle 1, one for a file."""
    async with standing(tmp_path_factory.mktemp("edge"), micro_parts, eventually) as client:
        yield client


@pytest.fixture
def centre(tmp_path: Path, broker_url: str, broker: Broker, micro_parts: dict[str, bytes]) -> Centre:
    keys.init(tmp_path, NODES)
    return Centre(tmp_path, broker_url, broker, micro_parts)


@pytest.fixture(scope="module")
async def browser():
    async with async_playwright() as driver:
        path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
        if path is None and not Path(driver.chromium.executable_path).exists():  # noqa: ASYNC240 -- once
            pytest.skip("PAGES ARE NOT TESTED, there is no Chromium: apt-get install chromium, or playwright install")
        running = await driver.chromium.launch(executable_path=path)
        yield running
        await running.close()
