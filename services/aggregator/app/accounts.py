"""The account in the broker: noted with each batch, and corrected when a node is disowned (account.py).

    cut        {account, accounts}, in the batch's transaction
    disown     the notes one after the other ─▶ {account, accounts, cuts + 1} + a Batch of corrections to the outbox

A correction counts as a cut: a batch that is being cut while the node is still thought to be enrolled is cut anew.
"""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Final, NamedTuple, cast

from common.errors import Unavailable
from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.effects import Effect, HashDelete, HashSet, Send
from common.wire.codec import pack
from common.wire.messages import Batch, Correction, correction_id
from services.aggregator.account import Note, fits, outdated, without
from services.aggregator.app.hashes import ACCOUNT, ACCOUNTS, COUNT, CUTS, counted

TRIES: Final = 8  # each is overtaken only by a cut
NOTES_AT_ONCE: Final = 64  # that one transaction changes, 3 MB of the default size


class Disowned(NamedTuple):
    """batches: of which something was taken out; noted: of so many it could have been; messages: that tell it."""

    batches: int
    noted: int
    messages: int


def note_effects(number: int, note: Note, sizes: Mapping[str, bytes]) -> list[Effect]:
    """The note of a cut's batch, without those that are too old. sizes: as the broker has them."""
    data = note.packed
    known = {int(name): int(size) for name, size in sizes.items()} | {number: len(data)}
    old = outdated(known)
    kept = (
        []
        if number in old
        else [HashSet(ACCOUNT, str(number), data), HashSet(ACCOUNTS, str(number), str(len(data)).encode())]
    )
    return [*kept, *(HashDelete(key, str(each)) for each in old for key in (ACCOUNT, ACCOUNTS))]


async def disown(broker: Broker, node: str) -> Disowned:
    """Takes what a node brought out of all batches that are noted; it must be enrolled no more.

    Raises Unavailable("overtaken") where aggregators cut without a pause: what was done stays done, do the rest again.
    """
    numbers = sorted(map(int, await broker.read_hash(ACCOUNTS)))
    at, batches, messages = 0, 0, 0
    while True:
        for _ in range(TRIES):
            count = await cast("Awaitable[bytes | None]", broker.redis.hget(CUTS, COUNT))
            read, changed, corrections = await _corrected(broker, numbers[at:], node)
            told = _messages(corrections)
            if await broker.commit(streams.PACKETS, [*counted(count), *changed, *map(_sent, told)]):
                break
        else:
            raise Unavailable("overtaken", f"aggregators cut too often: disown {node} again")
        at, batches = at + read, batches + len({each.batch for each in corrections})
        messages += len(told)
        if at >= len(numbers):
            return Disowned(batches, len(numbers), messages)


async def _corrected(broker: Broker, numbers: list[int], node: str) -> tuple[int, list[Effect], list[Correction]]:
    """How many of the notes were read, what changes in them, and the corrections: of as many as fit into one message,
    and of one at least.
    """
    read, changed = 0, list[Effect]()
    corrections: list[Correction] = []
    for number in numbers:
        data = await cast("Awaitable[bytes | None]", broker.redis.hget(ACCOUNT, str(number)))
        if data is not None:
            found, left = await asyncio.to_thread(without, Note.unpack(data), node)
            if corrections and found and (len(changed) >= 2 * NOTES_AT_ONCE or not fits([*corrections, *found])):
                break
            corrections += found
            if found:
                packed = left.packed
                changed += [
                    HashSet(ACCOUNT, str(number), packed),
                    HashSet(ACCOUNTS, str(number), str(len(packed)).encode()),
                ]
        read += 1
    return read, changed, corrections


def _messages(corrections: list[Correction]) -> list[list[Correction]]:
    """The corrections, in their order, in as few messages as take them: a large batch's are more than one."""
    messages: list[list[Correction]] = []
    for each in corrections:
        if messages and fits([*messages[-1], each]):
            messages[-1].append(each)
        else:
            messages.append([each])
    return messages


def _sent(corrections: list[Correction]) -> Send:
    batch = Batch(
        id=correction_id(corrections), base_version=0, base_digest="", domains=(), packets=(),
        corrections=tuple(corrections),
    )  # fmt: skip
    return Send(streams.BATCHES, pack(batch), batch.id)
