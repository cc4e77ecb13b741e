"""Carries what handlers sent from their stream's outbox to its target, each message exactly once.

    {qig:packets}:outbox ──XREAD──▶ publish on the target unless its id was seen ──▶ XDEL from the outbox
                                    └ no message, or the target is no stream ──▶ {qig:packets}:dead, one script

On a Cluster a handler commits in one slot, its message belongs in another: so the message is part of the commit as an
outbox entry, and leaves from there. A relay killed between publishing and deleting publishes again after its restart,
and the seen id makes that do nothing; so any number of relays may carry one outbox, and none needs to know of the
others. Without slots what a handler sends is published by its commit itself: the outbox is a tick's alone.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]  # it ships no types
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from common.errors import Rejected, Unavailable
from common.runtime import metrics, scripts, streams
from common.runtime.connection import BACKOFF_MAX_S, trouble
from common.runtime.entries import Entry
from common.runtime.health import Health
from common.wire.codec import pack
from common.wire.fields import LETTER_MAX_BYTES, REASON_MAX_CHARS
from common.wire.messages import DeadLetter

log = logging.getLogger(__name__)

RELAY_RECORDS: Final = 64
RELAY_BLOCK_MS: Final = 2_000  # as subscription.READ_BLOCK_MS
STALE_AFTER_S: Final = 10.0


async def carry(redis: Redis, stream: str, *, block_ms: int | None = None) -> int:
    """Carry what lies in the outbox of `stream`; how many are gone from it. Waits up to `block_ms` for the first.

    What cannot go anywhere becomes a dead letter of `stream`. What its target has no room for, or cannot take now,
    stays, and stops nothing that goes elsewhere: raises Unavailable("stream_full"), or what the broker said, when
    nothing else is left.
    """
    box, after = streams.outbox(stream), b"0"
    held: dict[bytes, Unavailable | RedisError] = {}  # by target
    while True:
        answer = cast("Any", await redis.xread({box: after}, count=RELAY_RECORDS, block=None if held else block_ms))
        rows = answer[0][1] if answer else []
        carried, buried = await _carry_page(redis, stream, rows, held)
        if carried:
            await redis.xdel(box, *carried)
        if carried or buried:
            return len(carried) + buried
        if not rows:
            break
        after = rows[-1][0]
    for error in sorted(held.values(), key=lambda each: isinstance(each, Unavailable)):
        raise error
    return 0


async def _carry_page(
    redis: Redis,
    stream: str,
    rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]],
    held: dict[bytes, Unavailable | RedisError],
) -> tuple[list[bytes], int]:
    """The entries that are where they belong now, and how many became dead letters. held: targets that take nothing,
    and why; found ones are added.
    """
    tried = [(entry, fields) for entry, fields in rows if fields.get(b"stream") not in held]
    found = await asyncio.gather(*(_publish(redis, fields) for _, fields in tried), return_exceptions=True)
    carried, buried = [], 0
    for (entry, fields), outcome in zip(tried, found, strict=True):
        if outcome is None:
            carried.append(entry)
        elif isinstance(outcome, Rejected):
            buried += await _bury(redis, stream, Entry(entry.decode(), fields), outcome)
        elif isinstance(outcome, Unavailable | RedisError):
            held[fields[b"stream"]] = outcome
        else:
            raise outcome
    return carried, buried


async def _publish(redis: Redis, fields: Mapping[bytes, bytes]) -> None:
    """Raises Rejected: "no_body" for an entry that no commit made, "no_stream" for a target that this release does not
    know, "wrong_type" where it is no stream.
    """
    try:
        target, message_id = fields[b"stream"].decode(), fields[b"id"].decode()
        message = fields[streams.DATA_FIELD.encode()]
    except (KeyError, UnicodeDecodeError) as error:
        raise Rejected("no_body", f"an entry of an outbox without a stream, an id or a message: {error}") from None
    try:
        streams.retention(target)
    except KeyError:
        told = f"no stream {target[:80]!r}: sent by another release? `qig dead replay` once this one knows it"
        raise Rejected("no_stream", told) from None
    try:
        published = await scripts.publish(redis, target, message, message_id, carried=True)
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        told = f"{target}, or what was seen there, is a key of another kind: delete it, then `qig dead replay`"
        raise Rejected("wrong_type", told) from None
    if published is None:
        metrics.DUPLICATES.labels(metrics.stream_label(target)).inc()


async def _bury(redis: Redis, stream: str, entry: Entry, error: Rejected) -> int:
    """1, or 0 when another relay did it. The letter holds the whole entry, so that it can be carried later."""
    letter = DeadLetter(
        stream=streams.outbox(stream),
        entry=entry.id,
        code=error.code,
        reason=error.message[:REASON_MAX_CHARS],
        deliveries=1,
        body=msgpack.packb(dict(entry.fields))[:LETTER_MAX_BYTES],
        at_s=time.time(),
    )
    if not await scripts.drop(redis, stream, entry.id, pack(letter)):
        return 0
    log.warning("dead letter of the outbox of %s, %s", stream, error)
    metrics.DEAD_LETTERS.labels(stream, error.code).inc()
    return 1


async def run_relay(redis: Redis, stream: str, health: Health) -> None:
    """Carry for ever; through outages, with readiness false meanwhile."""
    name = f"relay {stream}"
    metrics.begin(metrics.DEAD_LETTERS, *((stream, code) for code in ("no_body", "no_stream", "wrong_type")))
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
