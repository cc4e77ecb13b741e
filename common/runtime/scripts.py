"""The four things that must happen whole or not at all, as server-side scripts; each stays in one stream's slot.

    hold      is this entry still mine? then it is mine for another while, and this is how often it was delivered
    commit    conditions, acknowledgement, effects: the one place where work becomes done
    publish   add an entry unless its id was published before
    sweep     forget consumers that are gone and hold nothing

`#!lua` at the head makes the server refuse a whole script when memory or disk is out, before its first write: without
it the acknowledgement would be made and the effects refused. Each script is safe to repeat, because a client whose
reply was lost cannot know whether it ran.
"""

import itertools
from collections.abc import Awaitable, Sequence
from typing import Any, Final, Literal, cast

from redis.asyncio import Redis

from common.runtime import effects, streams
from common.runtime.effects import Absent, Effect, Equals, Exists, HashAdd, HashDelete, HashSet, Send

SEEN_TTL_S: Final = 7 * 86_400  # a relay or a producer that was away for a week no longer counts on being remembered
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

# KEYS: stream, then every key an operation names. ARGV: group, entry ('' = no entry), keep, then five to an operation:
# name, index of its key, a, b, c. Nothing is written before every condition held and the acknowledgement was ours.
_COMMIT: Final = """#!lua
for i = 4, #ARGV, 5 do
  local op, key, field = ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2]
  if op == 'exists' and redis.call('HEXISTS', key, field) == 0 then return -1 end
  if op == 'absent' and redis.call('HEXISTS', key, field) == 1 then return -1 end
  if op == 'equals' and redis.call('HGET', key, field) ~= ARGV[i + 3] then return -1 end
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
  elseif op == 'dead' then redis.call('XADD', key, 'MAXLEN', '~', a, '*', '__data__', b)
  end
end
return 1
"""

# KEYS: stream, its seen set. ARGV: id, message, entries kept ('' = all), seconds kept ('' = for ever), then for the
# seen set its seconds and its size.
_PUBLISH: Final = """#!lua
if redis.call('ZSCORE', KEYS[2], ARGV[1]) then return false end
local now = tonumber(redis.call('TIME')[1])
local entry
if ARGV[3] == '' then entry = redis.call('XADD', KEYS[1], '*', '__data__', ARGV[2])
else entry = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], '*', '__data__', ARGV[2]) end
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[5]))
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(tonumber(ARGV[6]) + 1))
if ARGV[4] ~= '' then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return entry
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


async def _run(redis: Redis, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
    """By digest; a server that restarted and forgot the script is told it again (redis-py's Script does both)."""
    known = redis.register_script(script)
    return await cast("Awaitable[Any]", known(keys=list(keys), args=list(args)))


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
    redis: Redis, stream: str, wanted: Sequence[Effect], *, entry: tuple[str, str] | None = None, keep: bool = False
) -> Committed:
    """Conditions, acknowledgement and writes of one piece of work, all or nothing.

    entry: (group, entry id), or None when no entry is being finished. keep: leave the finished entry in the stream.
    "gone": somebody else finished the entry first. "conflict": a condition did not hold. Either way nothing was done.
    """
    effects.check(stream, tuple(wanted))
    return await _commit(redis, stream, [_operation(stream, effect) for effect in wanted], entry=entry, keep=keep)


async def bury(redis: Redis, stream: str, letter: bytes, *, entry: tuple[str, str], keep: bool = False) -> Committed:
    """Finish an entry as a dead letter: `letter` in `{stream}:dead` and the acknowledgement, together."""
    operation = ("dead", streams.dead(stream), str(streams.DEAD_MAX_ENTRIES), letter, "")
    return await _commit(redis, stream, [operation], entry=entry, keep=keep)


async def publish(redis: Redis, stream: str, message: bytes, message_id: str) -> str | None:
    """Add `message` to `stream` unless `message_id` was published there before; the new entry's id, or None."""
    entry = await _run(redis, _PUBLISH, *_publication(stream, message, message_id))
    return None if entry is None else cast("bytes", entry).decode()


async def publish_all(redis: Redis, messages: Sequence[tuple[str, bytes, str]]) -> list[str | None]:
    """`publish` of each (stream, message, id), in order and in one round trip; of a Cluster in one a node.

    Raises the first error of any, with the others published.
    """
    if len(messages) == 1:
        return [await publish(redis, *messages[0])]
    known = redis.register_script(_PUBLISH)
    pipeline = redis.pipeline(transaction=False)
    for keys, args in itertools.starmap(_publication, messages):
        await cast("Awaitable[Any]", known(keys=list(keys), args=list(args), client=pipeline))
    found = await pipeline.execute()
    return [None if entry is None else cast("bytes", entry).decode() for entry in found]


def _publication(stream: str, message: bytes, message_id: str) -> tuple[list[str], list[str | bytes | int]]:
    kept = streams.retention(stream)
    limits = ["" if limit is None else str(limit) for limit in (kept.entries, kept.idle_s)]
    return [stream, streams.seen(stream)], [message_id, message, *limits, SEEN_TTL_S, SEEN_MAX_IDS]


async def sweep(redis: Redis, stream: str, group: str, *, idle_s: float) -> int:
    """Delete consumers that were silent for `idle_s` and hold nothing; how many."""
    return int(await _run(redis, _SWEEP, [stream], [group, int(idle_s * 1000)]))


Operation = tuple[str, str, str, str | bytes, bytes | str]
_NAMES: Final[dict[type[Effect], str]] = {Exists: "exists", Absent: "absent", HashDelete: "delete"}


def _operation(stream: str, effect: Effect) -> Operation:
    match effect:
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
    keys = list(dict.fromkeys([stream, *(operation[1] for operation in operations)]))
    index = {key: str(place) for place, key in enumerate(keys, start=1)}
    args: list[str | bytes | int] = [*(entry or ("", "")), "keep" if keep else ""]
    for name, key, *rest in operations:
        args += [name, index[key], *rest]
    return _COMMITTED[int(await _run(redis, _COMMIT, keys, args))]
