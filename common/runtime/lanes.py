"""How calls of scripts travel: many tasks' in one round trip, in their order, one lane for each slot and client."""

import asyncio
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from common.runtime.connection import AWAY

TRIP_MAX: Final = 128  # calls in one round trip


class Lane:
    """Script calls of many tasks in as few round trips as they need: what is asked during one trip goes with the next.

    A call costs the event loop more than the server; side by side they cost a third. A server that restarted has
    forgotten the scripts and is told them again. What is asked first happens first, so a script is told in its place:
    one that turned out to be unknown there would come after those behind it.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()  # scripts that the server was told and did not forget since
        self._waiting: list[tuple[str, list[str], list[str | bytes | int], asyncio.Future[Any]]] = []
        self._trip: asyncio.Task[None] | None = None

    def call(
        self, redis: Redis, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]
    ) -> asyncio.Future[Any]:
        """On its way, behind all that was called before."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((script, list(keys), list(args), future))
        if self._trip is None or self._trip.done():
            self._trip = asyncio.create_task(self._go(redis), name="scripts")
        return future

    async def end(self) -> None:
        """Nothing is under way any more."""
        if self._trip is not None:
            self._trip.cancel()
            await asyncio.gather(self._trip, return_exceptions=True)

    async def _go(self, redis: Redis) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting[:TRIP_MAX], self._waiting[TRIP_MAX:]
            try:
                found = await _trip(redis, [(script, keys, args) for script, keys, args, _ in asked], self._known)
            except Exception as error:  # noqa: BLE001 -- every caller gets what the trip met
                if isinstance(error, AWAY):  # whoever came meanwhile has waited for the retries too
                    asked, self._waiting = asked + self._waiting, []
                found = [error] * len(asked)
            for (*_, future), result in zip(asked, found, strict=True):
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)


async def _trip(
    redis: Redis, calls: Sequence[tuple[str, list[str], list[str | bytes | int]]], known: set[str]
) -> list[Any]:
    """What each call answered, or its error; raises when the trip failed as a whole. known: is kept up to date."""
    if len(calls) == 1:
        return [await _told(redis, *calls[0])]
    pipeline = redis.pipeline(transaction=False)
    for script, keys, args in calls:
        if script in known:
            pipeline.execute_command("EVALSHA", digest(script), len(keys), *keys, *args)
        else:
            pipeline.execute_command("EVAL", script, len(keys), *keys, *args)
            known.add(script)
    try:
        found = await pipeline.execute(raise_on_error=False)
    except Exception:
        known.clear()
        raise
    for place, call in enumerate(calls):
        if isinstance(found[place], NoScriptError) or is_untold(found[place]):
            known.clear()
            found[place] = await _told(redis, *call)
    return found


async def _told(redis: Redis, script: str, keys: list[str], args: list[str | bytes | int]) -> Any:
    """What one call answered, or its error; a server that does not know the script is told it."""
    given: list[Any] = [len(keys), *keys, *args]
    try:
        try:
            return await redis.evalsha(digest(script), *given)
        except NoScriptError:
            return await redis.eval(script, *given)
    except ResponseError as error:  # this call's alone
        return error


@functools.cache
def digest(script: str) -> str:
    """The name under which a server knows a script."""
    return hashlib.sha1(script.encode()).hexdigest()  # noqa: S324 -- Redis's choice


# By slot: a trip of one lane meets one node, and a node that is away holds up what it serves and nothing else.
_LANES: Final[WeakKeyDictionary[Redis, dict[int, Lane]]] = WeakKeyDictionary()


def lane(redis: Redis, stream: str) -> Lane:
    """The one of all calls to this stream's slot."""
    slot = redis.keyslot(stream) if isinstance(redis, RedisCluster) else 0
    return _LANES.setdefault(redis, {}).setdefault(slot, Lane())


async def end(redis: Redis) -> None:
    """The last before a client is closed, when whoever asked is gone: a trip that goes on would connect anew."""
    for each in _LANES.pop(redis, {}).values():
        await each.end()


def is_untold(error: object) -> bool:
    """Whether a server knows no scripts yet, and we have no right to tell it (rights.py, clients): services do so."""
    return isinstance(error, NoPermissionError) and "'eval'" in str(error)
