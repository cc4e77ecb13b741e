"""A whole edge in this process with its HTTP, and a client for it."""

import asyncio
from contextlib import asynccontextmanager

import httpx2
from edge_fleet import Publisher, settings_of

from common.runtime import embedded
from common.runtime.api_keys import default_path, pack
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.runtime.service import serve
from common.runtime.settings import DEFAULT_API
from services.edge.app import build

COMPILED_S = 60.0  # the first edge on a machine compiles its kernels


@asynccontextmanager
async def serving(settings, api=DEFAULT_API):
    """The base URL of an edge that runs until the end of the block, and the event that stops it."""
    stop, address = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        serve(
            settings,
            service="edge",
            build=lambda broker: build(settings, broker, api),
            check_every_s=0.05,
            stop=stop,
            on_start=address.set_result,
        )
    )
    try:
        yield await address, stop
    finally:
        stop.set()
        await running


@asynccontextmanager
async def edge_with_client(settings, api=DEFAULT_API, **client):
    """The same with a client whose base URL is the edge's."""
    async with serving(settings, api) as (url, stop), httpx2.AsyncClient(base_url=url, timeout=10, **client) as http:
        http.stopping = stop
        yield http


@asynccontextmanager
async def standing(home, parts, eventually, api=DEFAULT_API, keys=()):
    """A client of an edge that serves bundle 1 of these parts and does not sleep, on a broker of its own: for a whole
    file, whose tests may empty the other broker. keys: of its API.
    """
    broker = await asyncio.to_thread(embedded.start, home / "broker")
    try:
        settings = settings_of(home / "home", broker.url, sleep_after_bytes=1 << 30)
        if keys:
            default_path(settings.home).write_bytes(pack(keys))
        async with connect(broker.url) as redis:
            await Publisher(Broker(redis), settings.home).release(parts)
        async with edge_with_client(settings, api) as http:
            await eventually(lambda: ready(http), COMPILED_S)
            yield http
    finally:
        await asyncio.to_thread(broker.stop)


async def ready(http):
    """Whether the edge is."""
    return (await http.get("/readyz")).status_code == 200
