"""A broker of several servers, where what a handler sends leaves through an outbox: one that cannot be carried."""

import asyncio
import contextlib

from broker_many import cluster
from live_fleet import EDGES, Live, passages, prepared, settings_for
from micro import make_parts
from stage import Drill

from common.runtime import streams
from common.runtime.connection import connect
from common.wire.codec import pack
from common.wire.inference import Query
from services.cli.fleet import Fleet

EDGE = EDGES[0]
QUERIES = 5_500
STEP = 100
QUERY = pack(Query(text="The whale rose", max_tokens=0, store=False))
FORMER = "resetkeys", "~qig:[^a]*", "~{qig:[^a]*", "~qig:applied", "~{qig:applied}*"  # no answers among the keys
WHOLE = "resetkeys", "~*"


async def play(scratch):
    home = scratch / "home"
    corpora = prepared(home, make_parts())
    standing = contextlib.ExitStack()
    try:
        many = await asyncio.to_thread(standing.enter_context, cluster(scratch / "broker"))
        async with Fleet(home, broker_url=many.url) as fleet, connect(many.url) as redis:
            settings = settings_for(fleet, corpora)
            nodes = {node: settings[node] for node in ("publisher", "trainer", EDGE)}
            drill = Drill("slots", Live(fleet, redis, passages()), nodes)
            await drill.start(*nodes)
            await drill.ready()
            async with drill.watched(scratch):
                await a_list_of_users_without_answers(drill, many)
    finally:
        standing.close()
    return drill.left


async def a_list_of_users_without_answers(drill, many):
    """Who answers may not write answers: they wait in the outbox of the queries."""
    await _users(many, FORMER)
    for first in range(0, QUERIES, STEP):
        async with drill.redis.pipeline() as pipe:
            for _ in range(first, first + STEP):
                pipe.xadd(streams.QUERIES, {streams.DATA_FIELD: QUERY})
            await pipe.execute()
    await drill.fires("OutboxFull")
    await _users(many, WHOLE)
    drill.clears("OutboxFull")


async def _users(many, rules):
    for server in many.servers:
        await asyncio.to_thread(server.ask, "ACL SETUSER", "default", *rules)
