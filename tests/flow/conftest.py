import itertools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from broker_node import Node
from redis.asyncio import Redis

from common.runtime.consumer import Consumer


@pytest.fixture
async def start_node(redis: Redis, broker_url: str) -> AsyncIterator[Callable[[Consumer[bytes]], Awaitable[Node]]]:
    nodes: list[Node] = []
    names = (f"node-{number}" for number in itertools.count())

    async def begin(what: Consumer[bytes], url: str = broker_url, *, direct: bool = True) -> Node:
        nodes.append(Node(url, what, next(names), direct=direct))
        await nodes[-1].start()
        return nodes[-1]

    yield begin
    for node in nodes:
        await node.stop()
