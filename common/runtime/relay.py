"""Carries what handlers sent from their stream's outbox to its target, each message exactly once.

    {qig:packets}:outbox ──XREAD──▶ publish on the target unless its id was seen ──▶ XDEL from the outbox

On a Cluster a handler commits in one slot, its message belongs in another: so the message is part of the commit as an
outbox entry, and leaves from there. A relay killed between publishing and deleting publishes again after its restart,
and the seen id makes that do nothing; so any number of relays may carry one outbox, and none needs to know of the
others. Without slots what a handler sends is published by its commit itself: the outbox is a tick's alone.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import Unavailable
from common.runtime import metrics, scripts, streams
from common.runtime.connection import BACKOFF_MAX_S, trouble
from common.runtime.health import Health

log = logging.getLogger(__name__)

RELAY_RECORDS: Final = 64
RELAY_BLOCK_MS: Final = 2_000  # as subscription.READ_BLOCK_MS
STALE_AFTER_S: Final = 10.0


async def carry(redis: Redis, stream: str, *, block_ms: int | None = None) -> int:
    """Carry what lies in the outbox of `stream`; how many. Waits up to `block_ms` for the first.

    What its target has no room for stays, and stops nothing that goes elsewhere: raises Unavailable("stream_full") when
    nothing else is left.
    """
    box, after = streams.outbox(stream), b"0"
    full: dict[bytes, Unavailable] = {}  # by target
    while True:
        answer = cast("Any", await redis.xread({box: after}, count=RELAY_RECORDS, block=None if full else block_ms))
        rows = answer[0][1] if answer else []
        carried = await _carry_page(redis, rows, full)
        if carried:
            await redis.xdel(box, *carried)
            return len(carried)
        if not rows:
            break
        after = rows[-1][0]
    if full:
        raise next(iter(full.values()))
    return 0


async def _carry_page(
    redis: Redis, rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]], full: dict[bytes, Unavailable]
) -> list[bytes]:
    """The entries that are where they belong now. full: targets that take nothing; found ones are added."""
    tried = [(entry, fields) for entry, fields in rows if fields[b"stream"] not in full]
    found = await asyncio.gather(*(_publish(redis, fields) for _, fields in tried), return_exceptions=True)
    for (_, fields), outcome in zip(tried, found, strict=True):
        if isinstance(outcome, Unavailable):
            full[fields[b"stream"]] = outcome
        elif outcome is not None:
            raise outcome
    return [entry for (entry, _), outcome in zip(tried, found, strict=True) if outcome is None]


async def _publish(redis: Redis, fields: Mapping[bytes, bytes]) -> None:
    target, message_id = fields[b"stream"].decode(), fields[b"id"].decode()
    if await scripts.publish(redis, target, fields[streams.DATA_FIELD.encode()], message_id, carried=True) is None:
        metrics.DUPLICATES.labels(metrics.stream_label(target)).inc()


async def run_relay(redis: Redis, stream: str, health: Health) -> None:
    """Carry for ever; through outages, with readiness false meanwhile."""
    name = f"relay {stream}"
    health.expect(name, STALE_AFTER_S)
    block_ms: int | None = None  # the first look, and the first after an outage, waits for nothing: it says "here I am"
    while True:
        try:
            await carry(redis, stream, block_ms=block_ms)
            health.report(name)
            block_ms = RELAY_BLOCK_MS
        except Unavailable as error:
            health.report(name)
            log.warning("the outbox of %s waits: %s", stream, error)
            await asyncio.sleep(scripts.FULL_RETRY_S)
        except RedisError as error:
            block_ms = None
            health.report(name, trouble(error))
            log.warning("the outbox of %s waits, %s", stream, trouble(error))
            await asyncio.sleep(BACKOFF_MAX_S)


async def drain(redis: Redis, stream: str) -> None:
    """Carry what is in the outbox now and has room where it goes: the last thing before a process ends."""
    with suppress(Unavailable):
        while await carry(redis, stream) > 0:
            pass
