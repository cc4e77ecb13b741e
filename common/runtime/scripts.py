"""The things that must happen whole or not at all, as server-side scripts; each stays in one stream's slot.

    hold      is this entry still mine? then it is mine for another while, and this is how often it was delivered
    commit    conditions, acknowledgement, effects: the one place where work becomes done; finish: of many entries, each
              whole or not at all
    drop      an entry of an outbox becomes a dead letter
    publish   add an entry unless its id was published before; tell: add one; teach: let clients publish
    look_after   make a group that reads a stream from its start, unless it is there; forget its consumers that are gone
              and hold nothing; what was delivered in the future, before the server's clock was set back, was delivered
              now; and tell what waits, and the time: in one round trip, since every node asks that again and again
    newest    the id of a stream's newest entry, and nothing of the entry
    forget    delete a key that nobody has used for a while

`#!lua` at the head makes the server refuse a whole script when memory or disk is out, before its first write: without
it the acknowledgement would be made and the effects refused. What brings new work (publish, tell) is refused when
memory is out, as `Unavailable("broker_full")`, and so is what a full work stream or outbox would have to take, as
`Unavailable("stream_full")`; what ends or moves work that is there (`allow-oom`) is not: were it, a
full broker could not be emptied. What that adds is bounded by the work that is there. Each script is safe to repeat,
because a client whose reply was lost cannot know whether it ran.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple, cast

import msgpack  # type: ignore[import-untyped]  # it ships no types
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ResponseError

from common.errors import Unavailable
from common.runtime import effects, streams
from common.runtime.connection import AWAY
from common.runtime.effects import Absent, Change, Effect, Equals, Exists, HashAdd, HashDelete, HashSet, Send, Then
from common.runtime.lanes import digest, lane

SEEN_TTL_S: Final = 7 * 86_400  # a relay or a producer that was away for a week no longer counts on being remembered
FULL_RETRY_S: Final = 1.0  # after which it is worth asking again
SEEN_MAX_IDS: Final = 100_000  # per stream, about 10 MB: the older half of a flood is forgotten first

Committed = Literal["done", "gone", "conflict"]
Refusal = Unavailable | ResponseError
_COMMITTED: Final[dict[int, Committed]] = {1: "done", 0: "gone", -1: "conflict"}

_ADDS: Final = "#!lua\n"
_ENDS: Final = "#!lua flags=allow-oom\n"

# KEYS: stream. ARGV: group, consumer, entry, idle_ms, delivered ('' = leave the count). Returns the times delivered, 0
# when lost. JUSTID, so that looking is not counted as a delivery.
_HOLD: Final = f"""{_ENDS}
local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if #mine == 0 then return 0 end
if ARGV[5] == '' then
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'JUSTID')
else
  redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'IDLE', ARGV[4], 'RETRYCOUNT', ARGV[5], 'JUSTID')
end
return mine[1][4]
"""

# A letter says how many bytes of letters there were with it, so that the oldest can go by size.
_BURYING: Final = f"""
local function total(letter)
  for i = 1, letter and #letter[2] or 0, 2 do
    if letter[2][i] == 'total' then return tonumber(letter[2][i + 1]) end
  end
  return 0
end
local function bury(stream, message, entries)
  local sum = total(redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]) + #message
  local entry = redis.call('XADD', stream, 'MAXLEN', '~', entries, '*', '__data__', message, 'total', sum)
  local oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  while sum - total(oldest) >= {streams.DEAD_MAX_BYTES} do
    redis.call('XDEL', stream, oldest[1])
    oldest = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  end
  return entry
end
"""

# Whether what is added would be too much.
_FILLING: Final = f"""
local function is_full(stream, entries, kind)
  return kind == 'work' and redis.call('XLEN', stream) >= tonumber(entries)
end
local function is_stuck(outbox)
  return redis.call('XLEN', outbox) >= {streams.OUTBOX_MAX_ENTRIES}
end
"""

# An entry unless its id was published before, whether there is room or not. entries kept and their kind; seconds kept,
# '' = for ever; ids remembered; traceparent of work, '' = none.
_PUBLISHING: Final = f"""{_BURYING}{_FILLING}
local function publish(stream, seen, id, message, entries, kind, seconds, ids, traceparent)
  if redis.call('ZSCORE', seen, id) then return false end
  local now = tonumber(redis.call('TIME')[1])
  local entry
  if kind == 'work' and traceparent ~= '' then
    entry = redis.call('XADD', stream, '*', '__data__', message, 'traceparent', traceparent)
  elseif kind == 'work' then entry = redis.call('XADD', stream, '*', '__data__', message)
  elseif kind == 'letters' then entry = bury(stream, message, entries)
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

# KEYS: stream, then every key an operation names. ARGV: group, pieces of work in msgpack (as arguments they would
# cost the client more than all else here): [entry ('' = no entry), [[name, index of its key, a, b, c], ...]]. Answers
# for each piece: 1 done, 0 gone, -1 conflict, or an error's text. Of a piece nothing is written before every condition
# held, every key had the kind that its operation needs, what is sent had room, and the acknowledgement was ours.
_COMMIT: Final = f"""{_ENDS}{_PUBLISHING}
local needs = {{send = 'stream', tell = 'stream', dead = 'stream'}}
local kinds = {{}}
local function kind(key)
  local known = kinds[key]
  if known == nil or known == 'none' then
    known = redis.call('TYPE', key)['ok']
    kinds[key] = known
  end
  return known
end
local function hindrance(operations)
  for _, operation in ipairs(operations) do
    local op, key, field = operation[1], KEYS[operation[2]], operation[3]
    local found = kind(key)
    if found ~= 'none' and found ~= (needs[op] or 'hash') then return 'WRONGTYPE ' .. key .. ' is a ' .. found end
    if op == 'exists' and redis.call('HEXISTS', key, field) == 0 then return -1 end
    if op == 'absent' and redis.call('HEXISTS', key, field) == 1 then return -1 end
    if op == 'equals' and redis.call('HGET', key, field) ~= operation[4] then return -1 end
    if op == 'send' and is_stuck(key) then return 'FULL ' .. key end
    if op == 'tell' then
      local entries, of = string.match(operation[5], '^%d+ (%d+) (%a+) ')
      if is_full(key, entries, of) then return 'FULL ' .. key end
    end
  end
end
local function write(operations)
  for _, operation in ipairs(operations) do
    local op, key, a, b, c = operation[1], KEYS[operation[2]], operation[3], operation[4], operation[5]
    if op == 'set' then redis.call('HSET', key, a, b)
    elseif op == 'delete' then redis.call('HDEL', key, a)
    elseif op == 'add' then redis.call('HINCRBY', key, a, b)
    elseif op == 'send' then redis.call('XADD', key, '*', 'stream', a, 'id', b, '__data__', c)
    elseif op == 'tell' then
      local seen, entries, of, seconds, ids = string.match(c, '^(%d+) (%d+) (%a+) (%d*) (%d+)$')
      publish(key, KEYS[tonumber(seen)], a, b, entries, of, seconds, ids, '')
    elseif op == 'dead' then bury(key, b, a)
    end
  end
end
local done = {{}}
for place, piece in ipairs(cmsgpack.unpack(ARGV[2])) do
  local entry, operations = piece[1], piece[2]
  local outcome = hindrance(operations) or 1
  if outcome == 1 and entry ~= '' then
    outcome = redis.call('XACK', KEYS[1], ARGV[1], entry)
    if outcome == 1 then redis.call('XDEL', KEYS[1], entry) end
  end
  if outcome == 1 then write(operations) end
  done[place] = outcome
end
return done
"""

# KEYS: stream. ARGV: message, entries kept.
_TELL: Final = f"""{_ADDS}
redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', '__data__', ARGV[1])
return 1
"""

# KEYS: stream, its seen set. ARGV: id, message, entries kept and their kind, seconds kept, ids remembered, traceparent.
_PUBLISH: Final = f"""{_ADDS}{_PUBLISHING}
local known = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not known and is_full(KEYS[1], ARGV[3], ARGV[4]) then return redis.error_reply('FULL ' .. KEYS[1]) end
return publish(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
"""
_CARRY: Final = _PUBLISH.replace(_ADDS, _ENDS)  # what lies in an outbox is in memory already

# KEYS: outbox, dead letters. ARGV: entry, letter, letters kept. XDEL answers 1 to one of those who race.
_DROP: Final = f"""{_ENDS}{_BURYING}
local kind = redis.call('TYPE', KEYS[2])['ok']
if kind ~= 'none' and kind ~= 'stream' then return redis.error_reply('WRONGTYPE ' .. KEYS[2] .. ' is a ' .. kind) end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
bury(KEYS[2], ARGV[2], ARGV[3])
return 1
"""

# KEYS: stream, its dead letters, its outbox. ARGV: group, idle_ms of a consumer that is gone ('' = do not look for any:
# of a thousand edges each would look at all), entries looked at.
# Outside a script a server without memory refuses even to say that the group is there. A consumer that holds entries
# stays: deleting it would delete its pending list. What is delivered now and what lies in the future both show as idle
# for 0 ms; to the former nothing happens. JUSTID, so that it is not counted as a delivery.
_LOOK_AFTER: Final = f"""{_ENDS}
local made = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if made['err'] and not string.find(made['err'], 'BUSYGROUP', 1, true) then return made end
local function row_of(flat)
  local row = {{}}
  for i = 1, #flat, 2 do row[flat[i]] = flat[i + 1] end
  return row
end
local consumers = ARGV[2] ~= '' and redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1]) or {{}}
for _, flat in ipairs(consumers) do
  local consumer = row_of(flat)
  if consumer['pending'] == 0 and consumer['idle'] > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer['name'])
  end
end
local held = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[3])
for _, row in ipairs(held) do
  if row[3] == 0 then redis.call('XCLAIM', KEYS[1], ARGV[1], row[2], 0, row[1], 'JUSTID') end
end
local now = redis.call('TIME')
local group
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local row = row_of(flat)
  if row['name'] == ARGV[1] then group = row end
end
return {{made['err'] and 0 or 1, redis.call('XLEN', KEYS[1]), group['pending'],
  held[1] and held[1][3] or 0, redis.call('XLEN', KEYS[2]), redis.call('XLEN', KEYS[3]), now[1] * 1000000 + now[2]}}
"""

# KEYS: stream. XINFO alone would bring the first and the last entry along, whole bundles.
_NEWEST: Final = """#!lua flags=no-writes
local about = redis.pcall('XINFO', 'STREAM', KEYS[1])
if about['err'] then
  if string.find(about['err'], 'no such key', 1, true) then return '0-0' end
  return about
end
for i = 1, #about, 2 do
  if about[i] == 'last-generated-id' then return about[i + 1] end
end
"""

# KEYS: any key. ARGV: seconds for which nobody may have read or written it.
_FORGET: Final = f"""{_ENDS}
local idle = redis.call('OBJECT', 'IDLETIME', KEYS[1])
if not idle or idle < tonumber(ARGV[1]) then return 0 end
return redis.call('UNLINK', KEYS[1])
"""


async def _run(redis: Redis, script: str, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Any:
    try:
        return await lane(redis, keys[0]).call(redis, script, keys, args)
    except OutOfMemoryError as error:
        message = (
            "the broker's memory is full: it takes new work again once old work is done, or with a higher maxmemory"
        )
        raise Unavailable("broker_full", message, retry_after_s=FULL_RETRY_S) from error
    except (*AWAY, NoPermissionError):  # a cluster without a master for the slot is an answer, too, and will pass
        raise
    except ResponseError as error:
        raise _refusal(str(error)) from error


def _refusal(said: str) -> Refusal:
    """What a script's error says."""
    code, _, stream = said.partition(" ")
    if code != "FULL":
        return ResponseError(said)
    message = f"{stream} holds as much as it may: it takes more once those who read it have done some (`qig watch`)"
    return Unavailable("stream_full", message, retry_after_s=FULL_RETRY_S)


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
    direct: bool = False,
) -> Committed:
    """Conditions, acknowledgement and writes of one piece of work, all or nothing.

    entry: (group, entry id), or None when no entry is being finished.
    direct: what is sent is published here and now instead of through the outbox; only where there are no slots.
    "gone": somebody else finished the entry first. "conflict": a condition did not hold. Either way nothing was done,
    and neither where it raises Unavailable("stream_full"): what is sent has no room.
    """
    piece = (entry[1] if entry else "", _operations(stream, wanted, direct=direct))
    return _told_alone(await _commit(redis, stream, entry[0] if entry else "", [piece]))


async def finish(
    redis: Redis,
    stream: str,
    group: str,
    finished: Sequence[tuple[str, Sequence[Effect]]],
    *,
    direct: bool = False,
) -> list[Committed | Refusal]:
    """`commit` of many entries in one script (or as many as EFFECTS_MAX asks for), in order, each whole or not at all:
    what became of each.

    finished: entry ids and their effects. A ResponseError is of an entry whose effects met a key of another kind, an
    Unavailable("stream_full") of one whose message has no room.
    """
    pieces = [(entry, _operations(stream, wanted, direct=direct)) for entry, wanted in finished]
    trips: list[list[Piece]] = [[]]
    effects_there = 0
    for piece in pieces:
        if effects_there + len(piece[1]) > effects.EFFECTS_MAX:
            trips.append([])
            effects_there = 0
        trips[-1].append(piece)
        effects_there += len(piece[1])
    found = await asyncio.gather(*(_commit(redis, stream, group, trip) for trip in trips))
    return [outcome for trip in found for outcome in trip]


async def bury(redis: Redis, stream: str, letter: bytes, *, entry: tuple[str, str]) -> Committed:
    """Finish an entry as a dead letter: `letter` in `{stream}:dead` and the acknowledgement, together."""
    operation = ("dead", streams.dead(stream), str(streams.retention(streams.dead(stream)).entries), letter, "")
    return _told_alone(await _commit(redis, stream, entry[0], [(entry[1], [operation])]))


async def drop(redis: Redis, stream: str, entry: str, letter: bytes) -> bool:
    """Of the outbox of `stream`, an entry becomes a dead letter; False when it was there no more."""
    dead = streams.dead(stream)
    keys = [streams.outbox(stream), dead]
    return bool(await _run(redis, _DROP, keys, [entry, letter, streams.retention(dead).entries]))


async def publish(
    redis: Redis, stream: str, message: bytes, message_id: str, *, carried: bool = False, traceparent: str = ""
) -> str | None:
    """Add `message` to `stream` unless `message_id` was published there before; the new entry's id, or None.

    carried: it lies in an outbox already. traceparent: goes beside it (entries.py). Raises Unavailable("broker_full",
    "stream_full").
    """
    args: list[str | bytes | int] = [message_id, message, *_limits(stream), traceparent]
    entry = await _run(redis, _CARRY if carried else _PUBLISH, [stream, streams.seen(stream)], args)
    return None if entry is None else cast("bytes", entry).decode()


async def teach(redis: Redis) -> None:
    """Tell every server that takes writes how to publish, and what is newest: clients may only call what it knows
    (rights.py), and those of a cluster that serve their queries and cancels may have been called by no service yet.
    Wants script|exists and script|load.
    """
    for script in (_PUBLISH, _NEWEST):
        with suppress(NoPermissionError):  # of a list of users that is older than we are
            if all(await redis.script_exists(digest(script))):  # 40 bytes, against a script's two thousand
                continue
        await redis.script_load(script)


async def newest(redis: Redis, stream: str) -> str:
    """The id of the newest entry that ever was in `stream`, "0-0" when there is no such stream. Raises
    NoPermissionError for a client whose server knows no scripts yet.
    """
    try:
        found = await redis.evalsha(digest(_NEWEST), 1, stream)
    except NoScriptError:
        found = await redis.eval(_NEWEST, 1, stream)
    return cast("bytes", found).decode()


def tell(redis: Redis, stream: str, message: bytes) -> asyncio.Future[Any]:
    """Add `message` to a broadcast, ahead of whatever is asked of its slot from here on by a script."""
    return lane(redis, stream).call(redis, _TELL, [stream], [message, streams.retention(stream).entries])


async def has_slots(redis: Redis) -> bool:
    """Whether the server is a node of a Cluster, or does not say: a script then may touch keys of one slot alone."""
    try:
        about = await redis.info("cluster")
    except ResponseError:  # a user without the right to ask: the outbox is always right, only slower
        return True
    return bool(about.get("cluster_enabled"))


def _limits(stream: str) -> list[str]:
    kept = streams.retention(stream)
    return [str(kept.entries), kept.kind, "" if kept.idle_s is None else str(kept.idle_s), str(SEEN_MAX_IDS)]


class Waiting(NamedTuple):
    """What a group has before it. made: the group was not there; at_s: seconds since 1970, by the broker's clock."""

    made: bool
    length: int
    pending: int
    oldest_idle_s: float
    dead: int
    outbox: int
    at_s: float


async def look_after(redis: Redis, stream: str, group: str, *, gone_s: float | None, most: int) -> Waiting:
    """Have the group there, reading from the stream's start where it is made; delete its consumers that were silent for
    `gone_s` and hold nothing (None: do not look for any); let what was delivered before the server's clock was set back
    be claimed after the claim time, and not only once the clock is there again. Looks at the oldest `most` pending
    entries.
    """
    keys = [stream, streams.dead(stream), streams.outbox(stream)]
    made, length, pending, idle_ms, dead, outbox, at_us = await _run(
        redis, _LOOK_AFTER, keys, [group, "" if gone_s is None else int(gone_s * 1000), most]
    )
    return Waiting(bool(made), length, pending, idle_ms / 1000, dead, outbox, at_us / 1e6)


async def forget(redis: Redis, key: str, *, idle_s: float) -> int:
    """Delete `key` if nobody has read or written it for `idle_s`; how many were deleted."""
    return int(await _run(redis, _FORGET, [key], [int(idle_s)]))


Operation = tuple[str, str, str, str | bytes, bytes | str]
Piece = tuple[str, Sequence[Operation]]  # an entry's id, or "", and what goes with its acknowledgement
_NAMES: Final[dict[type[Change], str]] = {Exists: "exists", Absent: "absent", HashDelete: "delete"}


def _operations(stream: str, wanted: Sequence[Effect], *, direct: bool) -> list[Operation]:
    effects.check(stream, wanted)
    return [_operation(stream, effect, direct=direct) for effect in wanted if not isinstance(effect, Then)]


def _operation(stream: str, effect: Change, *, direct: bool) -> Operation:
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


async def _commit(redis: Redis, stream: str, group: str, pieces: Sequence[Piece]) -> list[Committed | Refusal]:
    keys, index = _keys(stream, [operation for _, operations in pieces for operation in operations])
    work = [(entry, [_argument(operation, index) for operation in operations]) for entry, operations in pieces]
    packed = msgpack.packb(work, use_bin_type=False)  # the server's reader knows no bin
    found = await _run(redis, _COMMIT, keys, [group, packed])
    return [_refusal(each.decode()) if isinstance(each, bytes) else _COMMITTED[each] for each in found]


def _told_alone(found: Sequence[Committed | Refusal]) -> Committed:
    (outcome,) = found
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _keys(stream: str, operations: Sequence[Operation]) -> tuple[list[str], dict[str, int]]:
    """A script's keys, and the place of each among them."""
    told = [streams.seen(target) for name, target, *_ in operations if name == "tell"]
    keys = list(dict.fromkeys([stream, *(operation[1] for operation in operations), *told]))
    return keys, {key: place for place, key in enumerate(keys, start=1)}


def _argument(operation: Operation, index: dict[str, int]) -> tuple[str, int, str, str | bytes, str | bytes]:
    name, key, a, b, c = operation
    limits = " ".join([str(index[streams.seen(key)]), *_limits(key)]) if name == "tell" else c
    return name, index[key], a, b, limits
