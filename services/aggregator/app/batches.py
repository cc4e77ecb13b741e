"""Batches: what is due is cut from the ledger, and what the cut changes happens whole or not at all.

    each second:  due? ─▶ cut ─▶ {ledger, accepted − taken, opened, cuts + 1} + Batch to the outbox   one transaction
                            └─▶ tally ─▶ {mentioned, common} + Common to the outbox                   in the same one
                            └─▶ gather ─▶ {proposed}, and the batch's merges                          in the same one
    packets none of whose n-grams counts yet ─▶ stay in the ledger for others, a while
    a packet that no batch can take any more ─▶ dead letter, and Returned: its edge may send what it carried again

Two aggregators are safe: a cut needs the count of cuts that it began with. Whoever comes second decides anew.
"""

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final, cast

from common.errors import Unavailable
from common.runtime import causes, metrics, streams, tracing
from common.runtime.broker import Broker
from common.runtime.effects import Effect, HashAdd, HashDelete, HashSet, Send
from common.runtime.settings import AggregatorSettings
from common.wire import packet as packets_
from common.wire.codec import pack
from common.wire.fields import COMMON_MAX_HASHES, KEY_ID_BYTES, REASON_MAX_CHARS
from common.wire.mentions import encode
from common.wire.messages import Common, DeadLetter, PacketRef, Returned
from services.aggregator.admit import Admitted
from services.aggregator.app.accounts import note_effects
from services.aggregator.app.enrolment import Enrolment
from services.aggregator.app.hashes import (
    ACCEPTED,
    ACCOUNTS,
    BATCHES_MADE,
    COMMON,
    COUNT,
    CUTS,
    FOUNDED,
    HELD,
    LEDGER,
    MENTIONED,
    OPENED,
    PROPOSED,
    counted,
)
from services.aggregator.app.pool import pool_effects, read_pool, read_words
from services.aggregator.app.standings import Standings
from services.aggregator.app.window import Window
from services.aggregator.bases import Base
from services.aggregator.claims import Word
from services.aggregator.cut import Cut, Fleet, Limits, Refusal, awaited, chosen, cut, due, patient
from services.aggregator.proposals import Gathered, gather, left_with, name_of
from services.aggregator.proposals import from_bytes as votes_of
from services.aggregator.proposals import to_bytes as packed
from services.aggregator.standing import turned_away
from services.aggregator.tally import Counted, Tally, counted_in, tally, to_bytes
from services.aggregator.tally import from_bytes as hashes_of
from services.aggregator.territories import unpack_place

log = logging.getLogger(__name__)

CUTS_PER_TICK: Final = 8  # of 256 packets; a longer backlog goes on after the pause

# All that a cut of mute packets depends on: the count of cuts, the window, what waits, what became of each claim.
_Look = tuple[bytes | None, int, frozenset[bytes], frozenset[tuple[str, Word]]]


class Batches:
    """What is cut, when, by the bundles in the window and who is enrolled. read: packets that were read already."""

    def __init__(
        self,
        settings: AggregatorSettings,
        broker: Broker,
        window: Window,
        enrolment: Enrolment,
        standings: Standings,
        read: dict[bytes, Admitted],
    ) -> None:
        self._settings, self._broker, self._window = settings, broker, window
        self._enrolment, self._standings, self._read = enrolment, standings, read
        self._limits = Limits(
            settings.batch_packets, settings.batch_age_s, int(settings.mass_cap), settings.crystal_edges
        )
        self._mute: _Look | None = None  # looked at last, and nothing came of it
        self._full = False  # the batches' stream, when it was looked at last
        self._tally: tuple[bytes | None, Tally] | None = None  # what the broker has, and the count of cuts it is of

    async def cut_due(self) -> None:
        """Cut what is due; a long backlog in several batches. Nothing while the trainer is too far behind."""
        for _ in range(CUTS_PER_TICK):
            if not (await self._has_room() and self._window.bases and await self._cut_once()):
                return

    async def _has_room(self) -> bool:
        """Whether the trainer keeps up; said where that changes."""
        try:
            await self._broker.check_room(streams.BATCHES)
        except Unavailable as error:  # no reason not to be ready: what accepts, accepts
            if error.code != "stream_full":
                raise
            if not self._full:
                log.warning("packets wait: %s", error)
            self._full = True
            return False
        if self._full:
            log.info("there is room for batches again")
        self._full = False
        return True

    async def _cut_once(self) -> bool:
        """One batch, if one is due and nobody else cut meanwhile."""
        # The count is read first: whatever is read after it is there still, or the count has changed.
        began_ns = time.time_ns()
        count, made = await cast("Awaitable[list[bytes | None]]", self._broker.redis.hmget(CUTS, [COUNT, BATCHES_MADE]))
        waiting = {bytes.fromhex(ref): int(at) for ref, at in (await self._broker.read_hash(ACCEPTED)).items()}
        seconds, micros = await self._broker.redis.time()
        now_ms = seconds * 1000 + micros // 1000
        if not due(waiting, now_ms, self._limits, self._enrolment.nodes):
            return False
        # Read after what waits: what became of a batch is noted before an edge sends its packets again.
        words = await read_words(self._broker)
        patience = patient(waiting, now_ms, self._limits)
        look = (count, self._window.version, frozenset(waiting), frozenset(words.items()))
        if patience and look == self._mute:
            return False
        await self._enrolment.read()
        ledger, lost = await self._ledger(chosen(waiting))
        current, cuts, batches = self._window.bases[-1], int(count or 0), int(made or count or 0)
        noted, founded = await self._broker.read_hash(OPENED), await self._broker.read_hash(FOUNDED)
        held = await read_pool(self._broker, current, words, batches)
        alone = {name: node.decode() for name, node in founded.items()}
        pending = awaited({name: unpack_place(name, data, current) for name, data in noted.items()}, current, batches)
        found = await asyncio.to_thread(
            cut,
            ledger,
            bases=self._window.bases,
            pending=pending,
            limits=self._limits,
            fleet=Fleet(self._enrolment.nodes, alone, batches, held.pool),
            admitted={raw: self._read[raw] for raw in ledger.values() if raw in self._read},
            patience=patience,
        )
        if not (found.batch or found.silent or found.refused or lost):
            self._mute = look
            return False
        gathered = await self._gathered(found, current) if found.proposals or found.batch else None
        if gathered is not None and found.batch is not None:
            gathered = left_with(gathered)
            found = replace(found, batch=found.batch.model_copy(update={"merges": gathered.merges}))
        effects = [
            *counted(count),
            *cut_effects(found, ledger, sorted(noted.keys() - pending.keys()), batches=batches, at_s=float(seconds)),
            *founded_effects(alone, found.founded),
            *(await self._note_of(found, cuts)),
            *(await asyncio.to_thread(pool_effects, held, found.pool, found.claim, current)),
            *_forgotten(lost),
            *([] if gathered is None else _proposed(gathered)),
        ]
        tallied, told = await self._told(found, count, cuts)
        with _work(found, began_ns):
            if not await self._broker.commit(streams.PACKETS, [*effects, *told]):
                log.info("another aggregator cut first: nothing was taken")
                return False
            _show(found)
        self._tally = None if tallied is None else (str(cuts + 1).encode(), tallied)
        for ref in (*found.taken, *(one.packed for one in found.silent), *(one.ref for one in found.refused)):
            self._read.pop(ledger[ref], None)
        await self._note(found, waiting)
        return True

    async def _told(self, found: Cut, count: bytes | None, cuts: int) -> tuple[Tally | None, list[Effect]]:
        """The tally with what a cut mentions, None where nobody has read it, and what every edge is told of it."""
        if not (found.mentions or found.silent):
            return (self._tally[1] if self._tally is not None and self._tally[0] == count else None), []
        before = await self._tallied(count)
        heard = await asyncio.to_thread(self._count, before, found)
        log.info("%d packets only mention; %d hashes are common now", len(found.silent), len(heard.common))
        return counted_in(before, heard, cuts), tally_effects(heard, found.silent, cuts)

    async def _note_of(self, found: Cut, cuts: int) -> list[Effect]:
        """What the account keeps of the batch."""
        if found.note is None:
            return []
        return await asyncio.to_thread(note_effects, cuts, found.note, await self._broker.read_hash(ACCOUNTS))

    async def _note(self, found: Cut, waiting: Mapping[bytes, int]) -> None:
        """The standings once a batch was cut."""
        for one in found.refused:
            self._standings.show(one.ref[:KEY_ID_BYTES], "refused")
        for key, distance_rad in found.distances.items():
            self._standings.show_distance(key, distance_rad)
        refused = [
            self._standings.note(one.ref[:KEY_ID_BYTES], partial(turned_away, code=one.code, at_ms=waiting[one.ref]))
            for one in found.refused
        ]
        far = [
            self._standings.note(key, partial(replace, distance_rad=distance_rad))
            for key, distance_rad in found.distances.items()
        ]
        await asyncio.gather(*refused, *far)

    async def _tallied(self, count: bytes | None) -> Tally:
        """What was mentioned, by every edge, 64 KiB each at most: read again only where somebody else has cut."""
        if self._tally is None or self._tally[0] != count:
            mentioned, common = await self._broker.read_hash(MENTIONED), await self._broker.read_hash(COMMON)
            held = Tally(
                {bytes.fromhex(key): hashes_of(data) for key, data in mentioned.items()},
                {int(number): hashes_of(data) for number, data in common.items()},
            )
            self._tally = (count, held)
        return self._tally[1]

    async def _gathered(self, found: Cut, current: Base) -> Gathered:
        """The tally of merges with those of a cut in it."""
        held = await self._broker.read_hash(PROPOSED)
        before = dict(votes_of(name, data) for name, data in held.items())
        return gather(
            before,
            found.proposals,
            known=frozenset(current.merges),
            nodes=self._enrolment.nodes,
            edges=self._settings.common_edges,
        )

    def _count(self, before: Tally, found: Cut) -> Counted:
        return tally(before, found.mentions, nodes=self._enrolment.nodes, edges=self._settings.common_edges)

    async def _ledger(self, refs: Sequence[bytes]) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The packets, in the order of `refs`, and the refs that have none: somebody deleted it by hand."""
        raws = await cast(
            "Awaitable[list[bytes | None]]", self._broker.redis.hmget(LEDGER, [ref.hex() for ref in refs])
        )
        found = dict(zip(refs, raws, strict=True))
        return {ref: raw for ref, raw in found.items() if raw is not None}, [r for r in refs if found[r] is None]


def cut_effects(
    found: Cut, ledger: Mapping[bytes, bytes], done: Sequence[str], *, batches: int, at_s: float
) -> list[Effect]:
    """The ledger without what was cut or refused, and what leaves. done: noted domains that no bundle has to bring any
    more; batches: how many there were before.
    """
    effects: list[Effect] = [HashDelete(OPENED, name) for name in done]
    effects += [HashSet(OPENED, place.name, place.packed(batches)) for place in found.opened]
    effects += _forgotten([*found.taken, *(ref.packed for ref in found.silent), *(one.ref for one in found.refused)])
    for one in found.refused:
        effects += _buried(one, ledger[one.ref], at_s)
    if found.batch is not None:
        effects.append(HashSet(CUTS, BATCHES_MADE, str(batches + 1).encode()))
        effects.append(Send(streams.BATCHES, pack(found.batch), found.batch.id))
    return effects


def founded_effects(before: Mapping[str, str], after: Mapping[str, str]) -> list[Effect]:
    """The domains of which one node alone has brought text, as they are now."""
    effects: list[Effect] = [HashDelete(FOUNDED, name) for name in sorted(before.keys() - after.keys())]
    return effects + [HashSet(FOUNDED, n, node.encode()) for n, node in after.items() if before.get(n) != node]


def tally_effects(heard: Counted, silent: Sequence[PacketRef], number: int) -> list[Effect]:
    """The tally once the cut of this number is in it, and what every edge is told of it, in as many messages as it
    takes. silent: packets that no bundle will name.
    """
    effects: list[Effect] = [HashSet(MENTIONED, key.hex(), to_bytes(own)) for key, own in heard.mentioned.items()]
    effects += [HashDelete(MENTIONED, key.hex()) for key in heard.gone]
    effects += [HashDelete(COMMON, str(old)) for old in heard.forgotten]
    if len(heard.common):
        effects.append(HashSet(COMMON, str(number), to_bytes(heard.common)))
    for first in range(0, max(len(heard.told), 1), COMMON_MAX_HASHES):
        hashes = heard.told[first : first + COMMON_MAX_HASHES]
        message = Common(hashes=encode(hashes), packets=tuple(silent) if first == 0 else ())
        if message.hashes or message.packets:
            body = pack(message)
            effects.append(Send(streams.COMMON, body, f"{number}-{hashlib.sha256(body).hexdigest()[:32]}"))
    return effects


def _proposed(gathered: Gathered) -> list[Effect]:
    """What of the proposed merges is noted, and what is done with."""
    effects: list[Effect] = [HashSet(PROPOSED, name_of(pair), packed(said)) for pair, said in gathered.noted.items()]
    return [*effects, *(HashDelete(PROPOSED, name_of(pair)) for pair in gathered.gone)]


def _forgotten(refs: Sequence[bytes]) -> list[Effect]:
    gone = [HashDelete(key, ref.hex()) for ref in refs for key in (LEDGER, ACCEPTED)]
    each = Counter(ref[:KEY_ID_BYTES] for ref in refs)
    return [*gone, *(HashAdd(HELD, key.hex(), -count) for key, count in sorted(each.items()))]


def _buried(refusal: Refusal, raw: bytes, at_s: float) -> list[Effect]:
    """A packet that waited in vain goes back to its edge, and ends where every refused packet ends."""
    ref, reason = packets_.open_envelope(raw).ref, refusal.reason[:REASON_MAX_CHARS]
    letter = DeadLetter(
        stream=streams.PACKETS,
        entry=refusal.ref.hex(),
        code=refusal.code,
        reason=reason,
        deliveries=1,
        body=raw,
        at_s=at_s,
    )
    told = Returned(packets=(ref,), code=refusal.code, reason=reason)
    return [
        Send(streams.dead(streams.PACKETS), pack(letter), f"cut-{refusal.ref.hex()}"),
        Send(streams.RETURNED, pack(told), refusal.ref.hex()),
    ]


def _work(found: Cut, began_ns: int) -> AbstractContextManager[None]:
    """Of a cut that makes a batch: a trace begins, which leads to those of its packets."""
    if found.batch is None:
        return nullcontext()
    packets = map(causes.packet, found.batch.packets)
    return tracing.work("cut batch", causes.batch(found.batch).root, links=packets, began_ns=began_ns)


def _show(found: Cut) -> None:
    for refusal in found.refused:
        metrics.PACKETS.labels("refused", refusal.code).inc()
        metrics.DEAD_LETTERS.labels(streams.PACKETS, refusal.code).inc()
    for domain, spread_rad in found.spreads.items():
        metrics.SPREAD.labels(domain).set(spread_rad)
    if found.batch is not None:
        metrics.BATCH_PACKETS.observe(len(found.batch.packets))
        log.info("batch %s: %d packets, %d domains", found.batch.id[:12], len(found.taken), len(found.batch.domains))
