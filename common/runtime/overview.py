"""The fleet from outside, as the broker tells it: what waits in each work stream, and what was lately broadcast.

Reads only. Whoever looks again and again hands back the position that the last look returned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from common.errors import Rejected
from common.runtime import streams
from common.runtime.entries import body_of
from common.runtime.follower import FROM_START
from common.wire.codec import unpack
from common.wire.fields import Message
from common.wire.messages import Heartbeat

M = TypeVar("M", bound=Message)
READ_MAX: Final = 1_000
BEATING: Final = READ_MAX // 12  # of as many a minute of heartbeats is among the newest


@dataclass(frozen=True, slots=True)
class StreamRow:
    """length: entries not finished. lag: of those, not given to anybody; None when the broker cannot tell."""

    stream: str
    length: int
    lag: int | None
    pending: int
    oldest_idle_s: float
    outbox: int
    dead: int
    consumers: int


async def depths(redis: Redis) -> tuple[StreamRow, ...]:
    """Every work stream, in the order of the work. Raises RedisError."""
    return tuple([await _depth(redis, stream) for stream in streams.GROUPS])


async def lately(
    redis: Redis, stream: str, cls: type[M], *, after: str | None = None, most: int = READ_MAX
) -> tuple[Sequence[M], str | None]:
    """A broadcast's messages, oldest first, and the position for the next call: the first `most` after a position, the
    newest `most` without one.

    What is no such message is passed over: it is somebody else's. Raises RedisError.
    """
    found = await (
        redis.xrevrange(stream, count=most) if after is None else redis.xrange(stream, f"({after}", "+", most)
    )
    rows = cast("list[tuple[bytes, dict[bytes, bytes]]]", found)
    if after is None:
        rows.reverse()
    told: list[M] = []
    for entry_id, fields in rows:
        after = entry_id.decode()
        try:
            told.append(unpack(cls, body_of(fields) or b""))
        except Rejected:
            continue
    return told, after


async def heard(redis: Redis, after: str | None = None) -> tuple[Sequence[Heartbeat], str | None]:
    """Heartbeats, oldest first, and the position for the next call: all after a position; without one the newest
    READ_MAX, or all that are kept where those are of more than BEATING services: they would leave out who fell silent
    a moment ago, and of a thousand who did not. Asked for in answers of READ_MAX. Raises RedisError.
    """
    found = list[Heartbeat]()
    if after is None:
        beats, position = await lately(redis, streams.HEART, Heartbeat, most=READ_MAX)
        if len({(beat.service, beat.node) for beat in beats}) <= BEATING:
            return beats, position
        after = FROM_START
    while True:
        beats, position = await lately(redis, streams.HEART, Heartbeat, after=after, most=READ_MAX)
        if position == after:
            return found, after
        found, after = [*found, *beats], position


async def _depth(redis: Redis, stream: str) -> StreamRow:
    try:
        groups = await redis.xinfo_groups(stream)
        group: dict[str, Any] = next((g for g in groups if g["name"].decode() == streams.GROUPS[stream]), {})
        held = bool(group.get("pending"))  # else nobody is asked for: of a thousand edges each is a row
        holders = await redis.xinfo_consumers(stream, streams.GROUPS[stream]) if held else []
    except ResponseError:  # nothing was ever published there
        group, holders = {}, []
    idle = [consumer["idle"] / 1000 for consumer in holders if consumer["pending"]]
    return StreamRow(
        stream=stream,
        length=int(await redis.xlen(stream)),
        lag=group.get("lag", 0),
        pending=group.get("pending", 0),
        oldest_idle_s=max(idle, default=0.0),
        outbox=int(await redis.xlen(streams.outbox(stream))),
        dead=int(await redis.xlen(streams.dead(stream))),
        consumers=group.get("consumers", 0),
    )
