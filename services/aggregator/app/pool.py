"""The pool in the broker, and what is claimed of it: read and changed by cuts alone (../pool.py, ../claims.py).

    cut    {pool, unsettled + its own claim − those that are decided on}, in the batch's transaction

What became of a claim is asked before each cut, after the count of cuts and what waits were read. The words are the
publisher's, and that a batch was returned. Each stands in the broker before an edge hears of it, so a packet that is
sent again never meets what it had left waiting before.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import NamedTuple, cast

from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.effects import Effect, HashDelete, HashSet
from services.aggregator.app.hashes import POOL, UNSETTLED
from services.aggregator.bases import Base
from services.aggregator.claims import Claim, Word, is_lost, named, settle, unpack, word
from services.aggregator.pool import Pool, read, to_bytes


class Held(NamedTuple):
    """pool: with all that is decided on; packed: as the broker has it still; done: claims that are none any more."""

    pool: Pool
    packed: Mapping[str, bytes]
    done: Sequence[str]


async def read_pool(broker: Broker, current: Base, words: Mapping[str, Word], cuts: int) -> Held:
    """words: what became of each claim; cuts: how many made a batch. Raises Corrupt("shares")."""
    packed = await broker.read_hash(POOL)
    decided = [name for name in words if words[name] != "waits"]
    claims = await _claims(broker, decided)
    lost = [name for name in words if words[name] == "waits" and is_lost(name, cuts)]

    def whole() -> Pool:
        told: dict[Word, list[Claim]] = {"counts": [], "returned": []}
        for name, data in claims.items():
            told[words[name]].append(unpack(name, data, current))
        return settle(read(packed, current), counts=told["counts"], returned=told["returned"])

    return Held(await asyncio.to_thread(whole), packed, [*decided, *lost])


def pool_effects(held: Held, after: Pool, claim: Claim | None, current: Base) -> list[Effect]:
    """What waits for a quorum and what is claimed, after a cut. claim: its own."""
    packed = {name: to_bytes({name: some}, current) for name, some in after.items() if some}
    effects: list[Effect] = [HashDelete(POOL, name) for name in sorted(held.packed.keys() - packed.keys())]
    effects += [HashSet(POOL, name, data) for name, data in packed.items() if held.packed.get(name) != data]
    effects += [HashDelete(UNSETTLED, name) for name in held.done]
    return effects if claim is None else [*effects, HashSet(UNSETTLED, claim.name, claim.packed(current))]


async def read_words(broker: Broker) -> dict[str, Word]:
    """What became of each claim, by its name, in order. What was released is read before what was taken back: both are
    noted at once, so that a release which is followed by its own end alone is never taken for one that counts.
    """
    keys = await cast("Awaitable[list[bytes]]", broker.redis.hkeys(UNSETTLED))
    batches = {name: named(name)[1] for name in sorted(map(bytes.decode, keys))}
    if not batches:
        return {}
    released = {name: int(version) for name, version in (await broker.read_hash(streams.RELEASED)).items()}
    asked = list(batches.values())
    notes = await cast("Awaitable[list[bytes | None]]", broker.redis.hmget(streams.REFUSED, asked))
    refused = {batch for batch, note in zip(asked, notes, strict=True) if note is not None}
    for batch in asked:
        if batch not in released and await broker.was_published(streams.RETURNED, batch):
            refused.add(batch)
    return {name: word(batch, released=released, refused=refused) for name, batch in batches.items()}


async def _claims(broker: Broker, names: Sequence[str]) -> dict[str, bytes]:
    if not names:
        return {}
    found = await cast("Awaitable[list[bytes | None]]", broker.redis.hmget(UNSETTLED, list(names)))
    return {name: data for name, data in zip(names, found, strict=True) if data is not None}
