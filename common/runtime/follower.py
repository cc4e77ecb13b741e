"""Every node reads every entry: a broadcast, without a group, from a position that the reader keeps.

FastStream's group-less subscriber begins at "$" again until a first message came, so entries are missed in an error's
pause (docs/upstream/groupless.py); this is a plain XREAD loop from the last entry handled. It reconnects for ever, and
when the stream itself was lost (its newest id is before our position) it begins anew at the start.

A handler that raises Unavailable is given the same entry again. Rejected and Corrupt entries are logged, counted and
passed. A bug is tried TRIES times and then passed, loudly: one broken broadcast must not keep a node from the next.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError, ResponseError

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import metrics, scripts
from common.runtime.connection import AWAY, BACKOFF_FIRST_S, BACKOFF_MAX_S, trouble
from common.runtime.entries import Delivery, Entry, body_of
from common.runtime.health import Health
from common.runtime.logs import bound
from common.runtime.pace import Pace

log = logging.getLogger(__name__)

FOLLOW_RECORDS: Final = 64
FOLLOW_BLOCK_MS: Final = 2_000  # as subscription.READ_BLOCK_MS
STALE_AFTER_S: Final = 10.0
TRIES: Final = 3
FROM_START: Final = "0-0"
ONLY_NEW: Final = "$"


@dataclass(frozen=True, slots=True)
class Follower:
    """Read `stream` after the entry id `after` (FROM_START: everything kept; ONLY_NEW: what comes from now on).

    handle: called with each entry in order; `Delivery.entry_id` is the position to persist and to pass as `after` next
    time. It runs again for an entry that was being handled at a crash: make it idempotent.
    """

    stream: str
    after: str
    handle: Callable[[Delivery], Awaitable[None]]


async def follow(redis: Redis, follower: Follower, health: Health) -> None:
    """Follow for ever."""
    name = f"follower {follower.stream}"
    health.expect(name, STALE_AFTER_S)
    position, pace = follower.after, Pace(FOLLOW_RECORDS)
    block_ms: int | None = None  # the first look, and the first after an outage, waits for nothing: it says "here I am"
    while True:
        try:
            if position == ONLY_NEW:  # made definite once: "$" in every read would miss what came between two reads
                position = await newest(redis, follower.stream)
            asked_s = time.monotonic()
            answer = cast("Any", await redis.xread({follower.stream: position}, pace.entries, block_ms))
            pace.came(len(answer[0][1]) if answer else 0, time.monotonic() - asked_s)
            if not answer and _order(await newest(redis, follower.stream)) < _order(position):
                log.warning("the stream %s was lost: reading it from its start", follower.stream)
                position = FROM_START
            for entry_id, fields in answer[0][1] if answer else []:
                entry = Entry(entry_id.decode(), fields)
                await _handle(follower, entry, health, name)
                position = entry.id
            health.report(name)
            block_ms = FOLLOW_BLOCK_MS
        except RedisError as error:
            block_ms, pace = None, Pace(FOLLOW_RECORDS)
            health.report(name, trouble(error))
            log.warning("cannot read %s, %s", follower.stream, trouble(error))
            await asyncio.sleep(BACKOFF_MAX_S)


async def kept(redis: Redis, stream: str) -> AsyncIterator[Entry]:
    """Every entry that is in `stream` now, the oldest first."""
    after = "-"
    while page := cast("list[Any]", await redis.xrange(stream, min=after, count=FOLLOW_RECORDS)):
        for entry_id, fields in page:
            yield Entry(entry_id.decode(), fields)
        after = f"({page[-1][0].decode()}"


async def newest(redis: Redis, stream: str) -> str:
    """The id of the newest entry that ever was in `stream`, FROM_START when there is no such stream."""
    try:
        return await scripts.newest(redis, stream)
    except AWAY:  # a cluster without a master for the slot has not lost the stream
        raise
    except ResponseError as error:  # a server that no service has taught yet; of all else XINFO says what it is
        if "ACL failure" in str(error):  # but of this, which would stand in the server's log twice
            raise NoPermissionError(str(error)) from error
    try:
        about = await redis.xinfo_stream(stream)
    except (*AWAY, NoPermissionError):
        raise
    except ResponseError:  # no such key
        return FROM_START
    return cast("bytes", about["last-generated-id"]).decode()


async def _handle(follower: Follower, entry: Entry, health: Health, name: str) -> None:
    body = body_of(entry.fields)
    with bound(stream=follower.stream, entry=entry.id):
        outcome = "no_body" if body is None else "again"
        failures, waits = 0, 0
        while body is not None and outcome == "again":
            try:
                await follower.handle(Delivery(follower.stream, entry.id, entry.at_ms, failures + waits + 1, body))
                outcome = "done"
            except Unavailable as error:
                health.report(name, str(error))
                waits += 1
                await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * waits))
            except (Rejected, Corrupt) as error:
                outcome = "corrupt" if isinstance(error, Corrupt) else "rejected"
                log.error("passed over: %s", error)  # noqa: TRY400 -- the entry's fault, not a place in our code
            except RedisError:  # the broker's, met inside the handler: the loop reconnects and reads this entry again
                raise
            except Exception:
                failures += 1
                log.exception("the follower's handler failed, try %d of %d", failures, TRIES)
                outcome = "again" if failures < TRIES else "failed"
    metrics.FOLLOWED.labels(metrics.stream_label(follower.stream), outcome).inc()


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)
