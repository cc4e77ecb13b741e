import asyncio

import pytest

from services.cli.broker import client
from services.cli.desk import Desk

pytestmark = pytest.mark.anyio


async def test_a_query_that_was_cancelled_before_it_went_out_is_not_lost():
    async with client("redis://127.0.0.1:1") as redis:
        desk = Desk(redis, "test")
        asking = asyncio.create_task(desk.send("hello", max_tokens=1))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert (await desk.all_answered(), desk.lost) == (0, 0)


async def test_queries_of_one_desk_never_share_a_name(redis):
    desk = Desk(redis, "test")
    for _ in range(3):
        await desk.send("hello", max_tokens=1)
    assert sorted(desk._asked) == ["q-0", "q-1", "q-2"]
