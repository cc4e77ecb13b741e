"""The six things that must happen whole or not at all, as server-side scripts; each stays in one stream's slot.

    hold      is this entry still mine? then it is mine for another while, and this is how often it was delivered
    commit    conditions, acknowledgement, effects: the one place where work becomes done
    finish    of many entries: acknowledgement and one message each, an entry whole or not at all
    publish   add an entry unless its id was published before; tell: add one
    sweep     forget consumers that are gone and hold nothing
    redate    what was delivered in the future, before the server's clock was set back, was delivered now

`#!lua` at the head makes the server refuse a whole script when memory or disk is out, before its first write: without
it the acknowledgement would be made and the effects refused. Each script is safe to repeat, because a client whose
reply was lost cannot know whether it ran.
"""

import asyncio
import functools
import hashlib
from collections.abc import Sequence
from typing import Any, Final, Literal, cast
from weakref import WeakKeyDictionary

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from common.runtime import effects, streams
from common.runtime.connection import AWAY
from common.runtime.effects import Absent, Effect, Equals, Exists, HashAdd, HashDelete, HashSet, Send

SEEN_TTL_S: Final = 7 * 86_400  # a relay or a producer that was away for a week no longer counts on being remembered
TRIP_MAX: Final = 128  # calls in one round trip
SEEN_MAX_IDS: Final = 100_000  # per stream, about 10 MB: the older half of a flood is forgotten first

Committed = Literal["done", "gone", "conflict"]
_COMMITTED: Final[dict[int, Committed]] = {1: "done", 0: "gone", -1: "conflict"}

# KEYS: stream. ARGV: group, consumer, entry, idle_ms, delivered ('' = leave the count). Returns the times delivered, 0
# when lost. JUSTID, so that looking is not counted as a delivery.
_HOLD: Final = """#!lua
local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if #mine == 0 then return 0 end
if ARGV[5] == '' then
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'JUSTID')
else
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
end
return mine[1][4]
"""

# An entry unless its id was published before. entries kept and seconds kept: '' = all, for ever; ids remembered.
_PUBLISHING: Final = f"""#!lua
local function publish(stream, seen, id, message, entries, seconds, ids)
  if redis.call('ZSCORE', seen, id) then return false end
  local now = tonumber(redis.call('TIME')[1])
  local entry
  if entries == '' then entry = redis.call('XADD', stream, '*', '__data__', message)
  else entry = redis.call('XADD', stream, 'MAXLEN', '~', entries, '*', '__data__', message) end
  redis.call('ZADD', seen, now, id)
  redis.call('ZREMRANGEBYSCORE', seen, '-inf', now - {SEEN_TTL_S})
  redis.call('ZREMRANGEBYRANK', seen, 0, -(tonumber(ids) + 1))
  if seconds ~= '' then
    redis.call('EXPIRE', stream, seconds)
    redis.call('EXPIRE', seen, seconds)
  end
  return entry
end
"""

# KEYS: stream, then every key an operation names. ARGV: group, entry ('' = no entry), keep, then five to an operation:
# name, index of its key, a, b, c. Nothing is written before every condition held and the acknowledgement was ours.
_COMMIT: Final = f"""{_PUBLISHING}
for i = 4, #ARGV, 5 do
  local op, key, field = ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2]
  if op == 'exists' and redis.call('HEXISTS', key, field) == 0 then return -1 end
  if op == 'absent' and redis.call('HEXISTS', key, field) == 1 then return -1 end
  if op == 'equals' and redis.call('HGET', key, field) ~= ARGV[i + 3] then return -1 end
  if op == 'tell' then
    local kind = redis.call('TYPE', key)['ok']
    if kind ~= 'stream' and kind ~= 'none' then return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. kind) end
  end
end
if ARGV[2] ~= '' then
  if redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
  if ARGV[3] == '' then redis.call('XDEL', KEYS[1], ARGV[2]) end
end
for i = 4, #ARGV, 5 do
  local op, key = ARGV[i], KEYS[tonumber(ARGV[i + 1])]
  local a, b, c = ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  if op == 'set' then redis.call('HSET', key, a, b)
  elseif op == 'delete' then redis.call('HDEL', key, a)
  elseif op == 'add' then redis.call('HINCRBY', key, a, b)
  elseif op == 'send' then redis.call('XADD', key, '*', 'stream', a, 'id', b, '__data__', c)
  elseif op == 'tell' then
    local seen, entries, seconds, ids = string.match(c, '^(%d+) (%d*) (%d*) (%d+)$')
    publish(key, KEYS[tonumber(seen)], a, b, entries, seconds, ids)
  elseif op == 'dead' then redis.call('XADD', key, 'MAXLEN', '~', a, '*', '__data__', b)
  end
end
return 1
"""

# KEYS as in commit. ARGV: group, keep, then six to an entry: its id and the one operation that goes with it.
_FINISH: Final = f"""{_PUBLISHING}
local done = 0
for i = 3, #ARGV, 6 do
  local key, a, b, c = KEYS[tonumber(ARGV[i + 2])], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local kind = redis.call('TYPE', key)['ok']
  -- where its message cannot go an entry stays pending, and whoever takes it alone is told why
  if (kind == 'stream' or kind == 'none') and redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
    if ARGV[2] == '' then redis.call('XDEL', KEYS[1], ARGV[i]) end
    if ARGV[i + 1] == 'send' then redis.call('XADD', key, '*', 'stream', a, 'id', b, '__data__', c)
    else
      local seen, entries, seconds, ids = string.match(c, '^(%d+) (%d*) (%d*) (%d+)$')
      publish(key, KEYS[tonumber(seen)], a, b, entries, seconds, ids)
    end
    done = done + 1
  end
end
return done
"""

# KEYS: stream. ARGV: message, entries kept ('' = all).
_TELL: Final = """#!lua
if ARGV[2] == '' then redis.call('XADD', KEYS[1], '*', '__data__', ARGV[1])
else redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', '__data__', ARGV[1]) end
return 1
"""

# KEYS: stream, its seen set. ARGV: id, message, entries kept, seconds kept, ids remembered.
_PUBLISH: Final = f"""{_PUBLISHING}
return publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
"""

# KEYS: stream. ARGV: group, idle_ms. A consumer that holds entries stays: deleting it would delete its pending list.
_SWEEP: Final = """#!lua
local gone = 0
for _, row in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
    gone = gone + 1
  end
end
return gone
"""

# KEYS: stream. ARGV: group, entries looked at. Both what is delivered now and what lies in the future show as idle for
# 0 ms; to the former nothing happens. JUSTID, so that it is not counted as a delivery.
_REDATE: Final = """#!lua
for _, row in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[2])) do
  if row[3] == 0 then redis.call('XCLAIM', KEYS[1], ARGV[1], row[2], 0, row[1], 'JUSTID') end
end
return 1
"""


class _Lane:
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
            pipeline.evalsha(_digest(script), len(keys), *keys, *args)
        else:
            pipeline.eval(script, len(keys), *keys, *args)
            known.add(script)
    try:
        found = await pipeline.execute(raise_on_error=False)
    except Exception:
        known.clear()
        raise
    for place, call in enumerate(calls):
        if isinstance(found[place], NoScriptError):
            known.clear()
            found[place] = await _told(redis, *call)
    return found


async def _told(redis: Redis, script: str, keys: list[str], args: list[str | bytes | int]) -> Any:
    """What one call answered, or its error; a server that does not know the script is told it."""
    given: list[Any] = [len(keys), *keys, *args]
    try:
        try:
            return await redis.evalsha(_digest(script), *given)
        except NoScriptError:
            return await redis.eval(script, *given)
    except ResponseError as error:  # this call's alone
        return error


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode()).hexdigest()  # noqa: S324 -- Redis's name for a script


_LANES: Final[WeakKeyDictionary[Redis, _Lane]] = WeakKeyDictionary()


async def _run(redis: Redis, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
    return await _LANES.setdefault(redis, _Lane()).call(redis, script, keys, args)


async def hold(
    redis: Redis,
    stream: str,
    consumer: tuple[str, str],
    entry: str,
    *,
    idle_s: float = 0.0,
    delivered: int | None = None,
) -> int:
    """Keep an entry that `consumer` = (group, name) was given: its idle time becomes `idle_s`, so it may be claimed
    after the rest of the claim time. Returns how often it was delivered, 0 when somebody else has or finished it.

    `delivered` overwrites that count: a delivery that met a dependency that was down is not the message's fault.
    """
    count = "" if delivered is None else str(delivered)
    return int(await _run(redis, _HOLD, [stream], [*consumer, entry, int(idle_s * 1000), count]))


async def commit(
    redis: Redis,
    stream: str,
    wanted: Sequence[Effect],
    *,
    entry: tuple[str, str] | None = None,
    keep: bool = False,
    direct: bool = False,
) -> Committed:
    """Conditions, acknowledgement and writes of one piece of work, all or nothing.

    entry: (group, entry id), or None when no entry is being finished. keep: leave the finished entry in the stream.
    direct: what is sent is published here and now instead of through the outbox; only where there are no slots.
    "gone": somebody else finished the entry first. "conflict": a condition did not hold. Either way nothing was done.
    """
    effects.check(stream, tuple(wanted))
    operations = [_operation(stream, effect, direct=direct) for effect in wanted]
    return await _commit(redis, stream, operations, entry=entry, keep=keep)


async def finish(
    redis: Redis,
    stream: str,
    group: str,
    finished: Sequence[tuple[str, Send]],
    *,
    keep: bool = False,
    direct: bool = False,
) -> int:
    """Acknowledges many entries, each with the one message it leads to; how many were still ours to finish. See
    `commit` for keep and direct.
    """
    for _, send in finished:
        effects.check(stream, (send,))
    operations = [_operation(stream, send, direct=direct) for _, send in finished]
    keys, index = _keys(stream, operations)
    args: list[str | bytes | int] = [group, "keep" if keep else ""]
    for (entry, _), operation in zip(finished, operations, strict=True):
        args += [entry, *_arguments(operation, index)]
    return int(await _run(redis, _FINISH, keys, args))


async def bury(redis: Redis, stream: str, letter: bytes, *, entry: tuple[str, str], keep: bool = False) -> Committed:
    """Finish an entry as a dead letter: `letter` in `{stream}:dead` and the acknowledgement, together."""
    operation = ("dead", streams.dead(stream), str(streams.DEAD_MAX_ENTRIES), letter, "")
    return await _commit(redis, stream, [operation], entry=entry, keep=keep)


async def publish(redis: Redis, stream: str, message: bytes, message_id: str) -> str | None:
    """Add `message` to `stream` unless `message_id` was published there before; the new entry's id, or None."""
    keys = [stream, streams.seen(stream)]
    entry = await _run(redis, _PUBLISH, keys, [message_id, message, *_limits(stream)])
    return None if entry is None else cast("bytes", entry).decode()


def tell(redis: Redis, stream: str, message: bytes) -> asyncio.Future[Any]:
    """Add `message` to `stream`, ahead of whatever is asked of `redis` from here on by a script."""
    kept = streams.retention(stream).entries
    lane = _LANES.setdefault(redis, _Lane())
    return lane.call(redis, _TELL, [stream], [message, "" if kept is None else kept])


async def has_slots(redis: Redis) -> bool:
    """Whether the server is a node of a Cluster, or does not say: a script then may touch keys of one slot alone."""
    try:
        about = await redis.info("cluster")
    except ResponseError:  # a user without the right to ask: the outbox is always right, only slower
        return True
    return bool(about.get("cluster_enabled"))


def _limits(stream: str) -> list[str]:
    kept = streams.retention(stream)
    return ["" if limit is None else str(limit) for limit in (kept.entries, kept.idle_s)] + [str(SEEN_MAX_IDS)]


async def sweep(redis: Redis, stream: str, group: str, *, idle_s: float) -> int:
    """Delete consumers that were silent for `idle_s` and hold nothing; how many."""
    return int(await _run(redis, _SWEEP, [stream], [group, int(idle_s * 1000)]))


async def redate(redis: Redis, stream: str, group: str, *, most: int) -> None:
    """Let what was delivered before the server's clock was set back be claimed after the claim time, and not only once
    the clock is there again. Looks at the oldest `most` pending entries.
    """
    await _run(redis, _REDATE, [stream], [group, most])


Operation = tuple[str, str, str, str | bytes, bytes | str]
_NAMES: Final[dict[type[Effect], str]] = {Exists: "exists", Absent: "absent", HashDelete: "delete"}


def _operation(stream: str, effect: Effect, *, direct: bool) -> Operation:
    match effect:
        case Send(target, message, message_id) if direct:
            return ("tell", target, message_id, message, "")
        case Send(target, message, message_id):
            return ("send", streams.outbox(stream), target, message_id, message)
        case HashAdd(key, field, by):
            return ("add", key, field, str(by), "")
        case HashSet(key, field, value) | Equals(key, field, value):
            return ("set" if isinstance(effect, HashSet) else "equals", key, field, value, "")
        case Exists(key, field) | Absent(key, field) | HashDelete(key, field):
            return (_NAMES[type(effect)], key, field, "", "")


async def _commit(
    redis: Redis, stream: str, operations: Sequence[Operation], *, entry: tuple[str, str] | None, keep: bool
) -> Committed:
    keys, index = _keys(stream, operations)
    args: list[str | bytes | int] = [*(entry or ("", "")), "keep" if keep else ""]
    for operation in operations:
        args += _arguments(operation, index)
    return _COMMITTED[int(await _run(redis, _COMMIT, keys, args))]


def _keys(stream: str, operations: Sequence[Operation]) -> tuple[list[str], dict[str, str]]:
    """A script's keys, and the place of each among them."""
    told = [streams.seen(target) for name, target, *_ in operations if name == "tell"]
    keys = list(dict.fromkeys([stream, *(operation[1] for operation in operations), *told]))
    return keys, {key: str(place) for place, key in enumerate(keys, start=1)}


def _arguments(operation: Operation, index: dict[str, str]) -> list[str | bytes]:
    name, key, a, b, c = operation
    limits = " ".join([index[streams.seen(key)], *_limits(key)]) if name == "tell" else c
    return [name, index[key], a, b, limits]
