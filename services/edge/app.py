"""An edge: the shell around the pure rooms beside it. `python -m services.edge.app` starts one.

    qig:queries ──▶ on_query   schedule, record ──▶ pieces, answer ▶ qig:answers:CLIENT (with the acknowledgement)
    qig:cancel  ──▶ on_cancel  leave it between two tokens
    qig:bundles ──▶ on_bundle  verify, fetch, try, swap, settle ───▶ qig:applied
    tick sleep  ──▶ fold what is due, send what is pending ────────▶ qig:packets
    tick prune  ──▶ delete what is too old or too much
    tick heart  ──▶ how it goes ───────────────────────────────────▶ qig:heart
    tick generate   one token, so that /readyz is about answering
    HTTP        ──▶ http/: ask, finish ────────────────────────────▶ its client
    tick look   ◀── how the fleet goes, for the live page

State lies under HOME/edges/NODE: edge.db (record.py) and bundles/ (slots.py). Whatever computes runs in a thread, so
that leases, health and metrics go on. `serving` is one reference: a query uses the one it began with to its end.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import pkgutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey, VerifyKey

from common.constants import Role
from common.constellation import parts as bundle_parts
from common.constellation.constellation import Constellation
from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import keys, metrics, streams
from common.runtime.api_keys import KeyFile, default_path
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.effects import Effect, Send
from common.runtime.entries import Delivery, body_of
from common.runtime.follower import FROM_START, ONLY_NEW, Follower
from common.runtime.heart import HEART_EVERY_S
from common.runtime.rates import Rates
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import DEFAULT_API, ApiSettings, EdgeSettings, load
from common.wire.bundle import digest, verify
from common.wire.codec import pack, unpack
from common.wire.messages import (
    MAX_DOMAINS,
    PIECE_MAX_CHARS,
    REASON_MAX_CHARS,
    Answer,
    Applied,
    Bundle,
    Cancel,
    Heartbeat,
    Piece,
    Problem,
    Query,
)
from common.wire.packet import PacketBody, key_id, seal
from services.edge.answer import Answered, Gauges, Serving, conclude, measured, refusal
from services.edge.atlas import atlas
from services.edge.generation import Generation
from services.edge.http.access import is_loopback
from services.edge.http.asking import choice_ids
from services.edge.http.guard import Access
from services.edge.http.live import with_page
from services.edge.http.lookout import LOOK_EVERY_S, Lookout
from services.edge.http.routes import application
from services.edge.learning import (
    Forgotten,
    due_domains,
    fold_domain,
    forget_all,
    give_up,
    go_home,
    judge_all,
    relearned,
    settle_bundle,
)
from services.edge.live import Live
from services.edge.local import TERRITORY
from services.edge.record import FOLD_MAX_BYTES, Domain, Kept, Packet, Record, Verdict
from services.edge.redaction import redacted, redactor
from services.edge.scheduler import Scheduler, Turn
from services.edge.sleep import NAP_MAX_BYTES, Folded, Rhythm, is_probe
from services.edge.slots import Slots
from services.edge.trial import PROBE_MAX_BYTES, Trial, try_bundle

log = logging.getLogger(__name__)

SLEEP_CHECK_S: Final = 0.5
PRUNE_EVERY_S: Final = 60.0
DAY_S: Final = 86_400.0
PROBES_MAX: Final = PROBE_MAX_BYTES // 16  # probes shorter than this on average do not fill a trial
ACTIVE_MAX: Final = 32  # chosen: queries answered at once, each with a megabyte or four of caches
WAITING_MAX: Final = 64  # chosen: at 32 tokens each they wait about a second
TOO_LATE: Final = "deadline"
LATE_FACTOR: Final = 3.0  # chosen: of the expected time. Under load what is begun with less often ends too late
QUERIES_READ: Final = 128  # chosen: at once. Refusing many costs little more than one
CANCELS_KEPT: Final = 1_000  # as many as the stream keeps
RETRY_MIN_S: Final = 1.0
PROVE_EVERY_S: Final = 5.0
PROVE_TIMEOUT_S: Final = 10.0
_PROOF: Final = Query(id="proof", client="proof", text="Are you there?", max_tokens=1, store=False)


class Edge:
    """One edge node while it runs. now: seconds since 1970."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: Broker,
        record: Record,
        slots: Slots,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises Unavailable("missing_key"), Rejected("bad_key", "bad_setting")."""
        self._settings = settings
        self._broker = broker
        self._record = record
        self._slots = slots
        self._now = now
        self._key: SigningKey = keys.load_private(settings.home, settings.node)
        self._publisher: VerifyKey = keys.load_public(keys.publisher_path(settings.home))
        self._rhythm = Rhythm(settings.sleep_after_bytes, settings.sleep_idle_s, settings.sleep_max_s)
        self._redact = redactor(settings.redact, pkgutil.resolve_name)
        self._learning = asyncio.Lock()  # folding, settling, forgetting, judging: all read residues and write them
        self._gauges: Gauges = {}
        self._last: dict[str, Answer] = {}  # by domain: what the heartbeat tells
        self._scores: dict[str, tuple[float, float]] = {}  # by domain: of the last fold, by the bundle and as answered
        self._asked_s = 0.0
        self._awake_s = now()
        self._turns: dict[tuple[str, str], Turn] = {}  # asked by stream and not answered, by client and query
        self._cancelled: dict[tuple[str, str], None] = {}  # client and query, the oldest first
        self._measuring = threading.Lock()
        self.scheduler = Scheduler(
            self._begin,
            workers=settings.workers,
            active_max=ACTIVE_MAX,
            waiting_max=WAITING_MAX,
        )
        self.live = Live(settings.node)
        self.serving: Serving | None = None
        self.follow_from = FROM_START

    # Queries

    async def on_query(self, delivery: Delivery, query: Query) -> Sequence[Effect]:
        """One query: its answer, computed once and sent once; before it, if it asked to stream, its pieces."""
        query = query if query.id else query.model_copy(update={"id": delivery.entry_id})
        assert query.id is not None
        again = delivery.deliveries > 1  # else, asked twice under one id, it is computed twice and kept once
        known = await asyncio.to_thread(self._record.answer_to, query.client, query.id) if again else None
        left_s = self._left_s(delivery, query)
        if known is not None:
            body = known
        elif self._begun_too_late(left_s):
            body = self._refusal(query, self._too_late(query, sum(self.scheduler.load)))
        else:
            body = await self._answer(query, left_s)
        return [Send(streams.answers(query.client), body, query.id)]

    def turn_away(self, delivery: Delivery, query: Query, ahead: int) -> Send | None:
        """The refusal of a query that cannot be answered in time, before it takes a place; None to answer it. ahead:
        queries that are answered or wait before it.
        """
        if not self._begun_too_late(self._left_s(delivery, query), ahead):
            return None
        query = query if query.id else query.model_copy(update={"id": delivery.entry_id})
        assert query.id is not None
        body = self._refusal(query, self._too_late(query, sum(self.scheduler.load)))
        return Send(streams.answers(query.client), body, query.id)

    def _left_s(self, delivery: Delivery, query: Query) -> float | None:
        return None if query.deadline_s is None else delivery.at_ms / 1000 + query.deadline_s - self._now()

    def _begun_too_late(self, left_s: float | None, ahead: int = 0) -> bool:
        return left_s is not None and left_s <= LATE_FACTOR * self.scheduler.expected_s(ahead)

    async def on_cancel(self, delivery: Delivery) -> None:
        """A client no longer wants an answer: made here, it ends between two tokens; not yet here, it is not begun."""
        wanted = unpack(Cancel, delivery.body)
        name = (wanted.client, wanted.query_id)
        self._cancelled[name] = None
        if len(self._cancelled) > CANCELS_KEPT:
            del self._cancelled[next(iter(self._cancelled))]
        turn = self._turns.get(name)
        if turn is not None:
            turn.leave()

    def ask(self, query: Query) -> Turn:
        """Puts a query with an id into the schedule; `finish` waits for its answer.

        Raises Unavailable: "no_bundle", and "overloaded" with the time after which to ask again.
        """
        assert query.id is not None
        if self.serving is None:
            raise Unavailable("no_bundle", "no bundle has come yet: the query waits")
        self._asked_s = self._now()
        return self.scheduler.submit(query, query.id)

    async def finish(self, turn: Turn) -> bytes:
        """The packed answer of a turn, with its interaction on disk; an earlier computation's, if there was one.

        Raises what making it raised: Rejected for a text that cannot be coordized, Unavailable for one that was left.
        """
        done = await turn.result()
        self._last[done.answer.domain or TERRITORY] = done.answer
        self.live.answered(done.answer, self._now())
        _show_answer(done.answer)
        return await self._keep(done)

    async def _answer(self, query: Query, left_s: float | None) -> bytes:
        """The packed answer, or refusal, of a query that came by stream. left_s: until its deadline."""
        turn = self._schedule(query)
        timer = asyncio.get_running_loop().call_later(left_s, self._expire, turn) if left_s is not None else None
        try:
            if query.stream:
                await self._send_pieces(turn)
            return await self.finish(turn)
        except Rejected as error:
            await self._broker.produce(streams.answers(query.client), self._refusal(query, error), turn.name)
            raise  # the consumer buries the query with the same reason
        except Unavailable as error:
            if error.code not in (TOO_LATE, "cancelled"):
                raise
            return self._refusal(query, error)
        finally:
            if timer is not None:
                timer.cancel()
            if self._turns.get(name := (query.client, turn.name)) is turn:
                del self._turns[name]

    def _schedule(self, query: Query) -> Turn:
        """A turn that cancels can find."""
        turn = self.ask(query)
        self._turns[query.client, turn.name] = turn
        if (query.client, turn.name) in self._cancelled:  # the two streams are read apart: a cancel may come first
            turn.leave()
        return turn

    def _expire(self, turn: Turn) -> None:
        error = self._too_late(turn.query, sum(self.scheduler.load) - 1)
        turn.leave(Problem(code=error.code, message=error.message, retry_after_s=error.retry_after_s))

    def _too_late(self, query: Query, others: int) -> Unavailable:
        """others: queries in work or waiting here besides this one."""
        wait_s = self.scheduler.expected_s()
        why = (
            "the fleet is busy; ask again later" if others else "the deadline is too short; ask again with a longer one"
        )
        message = f"not answered within its deadline of {query.deadline_s:g} s: {why}"
        return Unavailable(TOO_LATE, message, retry_after_s=max(wait_s, RETRY_MIN_S))

    async def _send_pieces(self, turn: Turn) -> None:
        """What is said, as it is said. A piece that cannot be sent is lost; the answer has the whole text."""
        client, index = turn.query.client, 0
        async for said in turn.pieces():
            for start in range(0, len(said.text), PIECE_MAX_CHARS):
                piece = Piece(
                    query_id=turn.name,
                    client=client,
                    node=self._settings.node,
                    index=index,
                    text=said.text[start : start + PIECE_MAX_CHARS],
                    tokens=said.tokens if start == 0 else 0,
                )
                index += 1
                told = self._broker.tell(streams.answers(client), pack(piece))
                if not turn.ended:  # else the answer goes with the same trip, behind it
                    await asyncio.wait([told])

    def _refusal(self, query: Query, error: QigError) -> bytes:
        metrics.QUERIES.labels("refused").inc()
        return pack(refusal(self.serving, query, node=self._settings.node, error=error))

    async def _keep(self, done: Answered) -> bytes:
        """The packed answer, with its interaction on disk; an earlier computation's, if there was one."""
        body, each = pack(done.answer), done.interaction
        if each is None:
            return body
        probe = is_probe(each.client, each.query_id, self._settings.probe_share)
        kept = body if await asyncio.to_thread(self._is_clean, done.answer.text) else b""
        if await asyncio.to_thread(self._record.add, each, kept, probe=probe):
            return body
        return await asyncio.to_thread(self._record.answer_to, each.client, each.query_id) or body

    def _redacted(self, serving: Serving, done: Answered) -> Answered:
        """With what may be kept of the interaction. Nothing, when the operator's function fails."""
        if done.interaction is None:
            return done
        try:
            kept = redacted(serving.constellation, done.interaction, self._redact)
        except Rejected as error:
            log.error("nothing is kept of a query: %s", error)  # noqa: TRY400 -- the operator's fault
            kept = None
        return replace(done, interaction=kept)

    def _is_clean(self, said: str) -> bool:
        """Whether an answer may be kept. One that may not is computed again should its query come again: with the same
        seed, to the same text.
        """
        try:
            return self._redact(said) == said
        except Rejected as error:
            log.error("an answer is not kept: %s", error)  # noqa: TRY400 -- the operator's fault
            return False

    def _begin(self, query: Query, name: str) -> "_Making":
        """On a worker's thread: the prompt is read by what serves now, and so is the rest, whatever is swapped in."""
        serving = self.serving
        assert serving is not None, "ask looked"
        return _Making(self, serving, Generation(serving.answering, query, name))

    def conclude(self, serving: Serving, generation: Generation, seconds: float, problem: Problem | None) -> Answered:
        """On a worker's thread: measured with all others, one after the other."""
        with self._measuring:
            gauges = measured(generation, self._gauges)
            if generation.query is not _PROOF:  # what this edge asks itself says nothing of what it is asked
                self._gauges = gauges
        done = conclude(serving, generation, gauges, at_s=self._now(), seconds=seconds, problem=problem)
        return self._redacted(serving, done)

    # Bundles

    async def start(self) -> None:
        """Serve the last good slot, or nothing yet. After damage the bundles are followed from the start again."""
        self.scheduler.start()
        installed = await asyncio.to_thread(self._slots.load)
        if installed is None:
            return
        try:
            verify(installed.bundle, self._publisher)
            constellation = await asyncio.to_thread(bundle_parts.load, installed.parts)
        except (Rejected, Corrupt) as error:
            log.error("the installed bundle is not used: %s", error)  # noqa: TRY400 -- the data's fault
            return
        serving = self._serving(installed.bundle, constellation)
        self._swap(await asyncio.to_thread(relearned, self._record, serving))
        if installed.passed_over:
            log.error("damaged on disk, an older bundle serves: %s", "; ".join(installed.passed_over))
        else:
            self.follow_from = self._record.cursor or FROM_START

    async def stop(self) -> None:
        """Ends the schedule and closes the record: the last act."""
        self.live.ended = True
        await self.scheduler.stop()
        self._record.close()

    async def on_bundle(self, delivery: Delivery) -> None:
        """A release: verified, tried and swapped in while queries are served; then its packets are settled."""
        bundle = unpack(Bundle, delivery.body)
        try:
            verify(bundle, self._publisher)
        except Corrupt as error:
            await self._report(bundle, Trial("refused", str(error), None, None, None))
            raise
        if not await self._superseded(bundle):
            await self._report(bundle, await self._adopt(bundle))
        await self._settle(bundle, delivery.entry_id)
        await asyncio.to_thread(_give_back)

    async def _superseded(self, bundle: Bundle) -> bool:
        """Whether something newer serves already, or waits in the stream with the publisher's signature."""
        if self.serving is not None and bundle.version < self.serving.bundle:
            return True
        newest = await self._broker.latest(streams.BUNDLES)
        body = body_of(newest.fields) if newest else None
        try:
            later = unpack(Bundle, body or b"")
            verify(later, self._publisher)
        except (Rejected, Corrupt):
            return False
        return later.version > bundle.version

    async def _adopt(self, bundle: Bundle) -> Trial:
        serving = self.serving
        if serving is not None and serving.digest == digest(bundle):
            return Trial("applied", "was installed before", None, None, serving.constellation)
        try:
            parts = await self._fetch(bundle)
            probes = await asyncio.to_thread(self._record.probes, PROBES_MAX)
            current = None if serving is None else serving.constellation
            trial = await asyncio.to_thread(try_bundle, current, parts, probes)
        except (Rejected, Corrupt) as error:
            return Trial("refused", str(error), None, None, None)
        if trial.verdict == "applied" and trial.constellation is not None:
            await asyncio.to_thread(self._slots.activate, bundle)
            new = self._serving(bundle, trial.constellation)
            async with self._learning:  # what the bundle brings back is in the residue no more: nothing counts twice
                await self._acknowledge(new, bundle, None)
                self._swap(await asyncio.to_thread(relearned, self._record, new))
        return trial

    async def _fetch(self, bundle: Bundle) -> dict[str, bytes]:
        """All parts; only those that are not on disk come from the broker."""
        for part in bundle.parts.values():
            if not await asyncio.to_thread(self._slots.has, part):
                data = await self._broker.get_blob(part.digest, part.size_bytes)
                await asyncio.to_thread(self._slots.put, part, data)
        return {path: await asyncio.to_thread(self._slots.read, part) for path, part in bundle.parts.items()}

    def _serving(self, bundle: Bundle, constellation: Constellation) -> Serving:
        return Serving(constellation, bundle.version, digest(bundle), self._settings.node)

    def _swap(self, serving: Serving) -> None:
        self.serving = serving
        self._last = {domain: each for domain, each in self._last.items() if domain in serving.answering.domains}
        self._scores = {name: each for name, each in self._scores.items() if name in serving.answering.domains}
        homes = {name: each.basin_array for name, each in serving.constellation.domains.items()}
        self.live.serves(serving.bundle, atlas(homes))
        metrics.BUNDLE_VERSION.set(serving.bundle)
        log.info("bundle %d serves", serving.bundle)

    async def _settle(self, bundle: Bundle, entry_id: str) -> None:
        """The centre has what our packets in this bundle carried, whether or not we use the bundle."""
        if self.serving is None:
            return
        async with self._learning:
            if await self._acknowledge(self.serving, bundle, entry_id):
                await self._relearn(None)

    async def _acknowledge(self, serving: Serving, bundle: Bundle, entry_id: str | None) -> int:
        """Takes our packets in a bundle out of what is to be sent; how many. See `settle_bundle`."""
        key = key_id(self._key.verify_key)
        named = await asyncio.to_thread(
            settle_bundle, self._record, serving, bundle, key=key, entry_id=entry_id, now_s=self._now()
        )
        metrics.PACKETS.labels("acknowledged", "").inc(len(named))
        return len(named)

    async def _relearn(self, domains: Sequence[Domain] | None) -> None:
        """Lets what the record holds of these domains (None: of all) answer from now on; queries go on meanwhile.

        Under the learning lock, as whatever else changes what serves.
        """
        if self.serving is not None:
            self.serving = await asyncio.to_thread(relearned, self._record, self.serving, domains)

    async def _report(self, bundle: Bundle, trial: Trial) -> None:
        log.info("bundle %d %s: %s", bundle.version, trial.verdict, trial.reason)
        metrics.BUNDLE_APPLIED.labels(trial.verdict).inc()
        told = Applied(
            node=self._settings.node,
            version=bundle.version,
            verdict=trial.verdict,
            reason=trial.reason[:REASON_MAX_CHARS],
            probe_before=trial.before,
            probe_after=trial.after,
            at_s=self._now(),
        )
        await self._broker.produce(streams.APPLIED, pack(told), f"{told.node}:{digest(bundle)}:{trial.verdict}")

    # Sleep

    async def sleep(self) -> None:
        """One round of HEART's clock: fold each domain that is due, and send what is pending."""
        record = self._record
        async with self._learning:
            serving = self.serving
            if serving is None:
                return
            await asyncio.to_thread(self._give_up)
            wanted = await asyncio.to_thread(
                due_domains,
                record,
                serving,
                self._rhythm,
                asked_s=self._asked_s,
                now_s=self._now(),
                crowded=self._crowded,
                awake_s=self._awake_s,
            )
            for domain in wanted:
                done = await asyncio.to_thread(self._fold, serving, domain)
                if done is not None:
                    self._show_fold(domain or TERRITORY, done)
                    await self._relearn([domain])
            for packet in await asyncio.to_thread(record.packets, "pending"):
                await self._send(packet)

    async def prune(self) -> None:
        """Deletes what this edge is to keep no longer, also while no bundle serves."""
        keep_s, keep_bytes = self._settings.keep_days * DAY_S, self._settings.keep_bytes
        async with self._learning:
            gone = await asyncio.to_thread(
                self._record.prune, now_s=self._now(), max_age_s=keep_s, max_bytes=keep_bytes
            )
        if gone:
            log.info("%d interactions were too old or too much: deleted", gone)

    @property
    def _crowded(self) -> bool:
        """Whether queries wait here: there are more of them than threads."""
        return sum(self.scheduler.load) > self._settings.workers

    def _give_up(self) -> None:
        lost = give_up(self._record, now_s=self._now())
        if lost:
            metrics.PACKETS.labels("lost", "").inc(len(lost))
            log.warning("no bundle named packets %s: their counts go out again", lost)

    def _fold(self, serving: Serving, domain: Domain) -> Folded | None:
        """None where nothing was counted: a handful of strange texts only moves."""
        if domain is None and go_home(self._record, serving, self._rhythm):
            return None
        return fold_domain(
            self._record,
            serving,
            domain,
            gauges=self._gauges,
            crystal_bytes=self._settings.crystal_bytes,
            now_s=self._now(),
            max_bytes=NAP_MAX_BYTES if self._crowded else FOLD_MAX_BYTES,
        )

    def _show_fold(self, domain: str, done: Folded) -> None:
        size_bytes = max(done.body.fresh_bytes, 1)
        bundle, local = done.body.fresh_bits / size_bytes, done.local_bits / size_bytes
        self._scores[domain] = bundle, local
        metrics.BITS_PER_BYTE.labels(domain).set(bundle)
        metrics.LOCAL_BITS_PER_BYTE.labels(domain).set(local)

    async def _send(self, packet: Packet) -> None:
        """Sealed now, whenever it was folded: the centre's clock window is about the sending. The name stays."""
        record, body = self._record, unpack(PacketBody, packet.body)
        raw = seal(
            body,
            signing_key=self._key,
            epoch=record.epoch,
            sequence=packet.sequence,
            base_version=packet.base_version,
            base=packet.base,
            at_s=self._now(),
        )
        name = f"{key_id(self._key.verify_key).hex()}:{record.epoch}:{packet.sequence}"
        await asyncio.to_thread(record.leaving, packet.sequence, raw)
        await self._broker.produce(streams.PACKETS, raw, name)
        await asyncio.to_thread(record.sent, packet.sequence, raw, at_s=self._now())
        metrics.PACKET_BYTES.observe(len(raw))
        metrics.PACKETS.labels("sent", "").inc()
        log.info("packet %d sent: %d bytes, %d interactions", packet.sequence, len(raw), body.interactions)

    # One interaction, afterwards

    async def forget(self, client: str, query_id: str) -> Forgotten | None:
        """Deletes a query, or all of a request over HTTP, with answer and what was taught; None when nothing is kept
        under this name.
        """
        async with self._learning:
            names = choice_ids(query_id)
            folded = await asyncio.to_thread(self._folded, client, names)
            done = await asyncio.to_thread(forget_all, self._record, client, names)
            await self._relearn([kept.domain for kept in folded])
            return done

    async def judge(self, client: str, query_id: str, verdict: Verdict | None) -> bool:
        """Accepts or rejects what `forget` would delete, None: neither; False when nothing is kept under this name."""
        async with self._learning:
            names = choice_ids(query_id)
            folded = await asyncio.to_thread(self._folded, client, names)
            known = await asyncio.to_thread(judge_all, self._record, client, names, verdict)
            await self._relearn([kept.domain for kept in folded if "rejected" in (kept.verdict, verdict)])
            return known

    def _folded(self, client: str, names: Sequence[str]) -> list[Kept]:
        """Of a request's queries those whose text was counted."""
        found = [self._record.find(client, name) for name in names]
        return [kept for kept in found if kept is not None and kept.folded]

    # Heart

    async def beat(self) -> None:
        """Says that this edge lives, and how its kernels are."""
        last = dict(islice(self._last.items(), MAX_DOMAINS))  # new territory may be one more
        scores = dict(islice(self._scores.items(), MAX_DOMAINS))
        fresh = await asyncio.to_thread(self._record.fresh)
        told = Heartbeat(
            node=self._settings.node,
            service="edge",
            at_s=self._now(),
            bundle=self.serving.bundle if self.serving else 0,
            ready=self.serving is not None,
            phases={domain: each.phase for domain, each in last.items() if each.phase},
            phi={domain: each.phi for domain, each in last.items()},
            kappa={domain: each.kappa for domain, each in last.items()},
            bits_per_byte={domain: bundle for domain, (bundle, _) in scores.items()},
            local_bits_per_byte={domain: local for domain, (_, local) in scores.items()},
            fresh_bytes=sum(each.size_bytes for each in fresh),
        )
        await self._broker.produce(streams.HEART, pack(told), f"{told.node}:edge:{told.at_s:.3f}")

    def ready(self) -> str | None:
        """None once a bundle serves; that tokens come of it is for `prove` to say."""
        return None if self.serving else "waits for the first bundle"

    async def prove(self) -> None:
        """Has one token made as any other query's is, so that readiness is about answering, and not about a process.

        Raises Unavailable("no_token"). A waiting room that is full proves the same, and so does a token said lately.
        """
        if self.serving is None or self.scheduler.clock() - self.scheduler.said_s < PROVE_EVERY_S:
            return
        try:
            async with asyncio.timeout(PROVE_TIMEOUT_S):
                await self.scheduler.submit(_PROOF, "proof").result()
        except TimeoutError:
            message = f"no token for {PROVE_TIMEOUT_S:g} s: restart this node if it lasts"
            raise Unavailable("no_token", message) from None
        except Unavailable as error:
            if error.code != "overloaded":
                raise


@dataclass(frozen=True, slots=True)
class _Making:
    """A generation as the scheduler works on it."""

    edge: Edge
    serving: Serving
    generation: Generation

    @property
    def tokens(self) -> int:
        return self.generation.tokens

    @property
    def ended(self) -> bool:
        return self.generation.ended

    def say(self, tokens: int) -> str:
        return self.generation.say(tokens)

    @property
    def kernel(self) -> Role:
        return self.generation.heard.role

    def conclude(self, seconds: float, problem: Problem | None) -> Answered:
        return self.edge.conclude(self.serving, self.generation, seconds, problem)


def _give_back() -> None:
    """Memory of the bundle before: a hundred megabytes in too few objects for a collection of their own, and of which
    glibc keeps what it was told is free.
    """
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another libc: nothing to do
        ctypes.CDLL(None).malloc_trim(0)


def _show_answer(made: Answer) -> None:
    metrics.QUERIES.labels(made.finish).inc()
    metrics.ANSWER_SECONDS.observe(made.seconds)
    metrics.TOKENS.labels("read").inc(made.prompt_tokens)
    metrics.TOKENS.labels("written").inc(made.completion_tokens)
    metrics.show_constellation_phi(made.constellation_phi)
    if made.kernel is None:
        return
    metrics.DISTANCE.labels(made.kernel).observe(made.route[0].distance_rad)
    metrics.show_phi(made.kernel, made.phi, made.phi_p)
    if made.kappa is not None and made.phase is not None:
        metrics.KAPPA.labels(made.kernel).set(made.kappa)
        metrics.show_phase(made.kernel, made.phase)


def state_dir(home: Path, node: str) -> Path:
    """Where a node keeps what it remembers."""
    return home / "edges" / node


def _address(settings: EdgeSettings) -> str:
    """Where this edge serves HTTP; empty while nobody knows, because any free port will do."""
    host = f"[{settings.http_host}]" if ":" in settings.http_host else settings.http_host
    return f"http://{host}:{settings.http_port}" if settings.http_port else ""


def _access(settings: EdgeSettings, api: ApiSettings) -> Access:
    """Who may ask over HTTP. Raises Rejected("no_api_keys") where others reach the address and nobody has a key."""
    found = KeyFile(api.api_keys or default_path(settings.home))
    loopback = is_loopback(settings.http_host)
    needed = not (api.api_open or loopback)
    if needed and not found.keys:
        message = (
            f"{settings.http_host} is an address that others reach, and {found.path} holds no key: make one with"
            " `qig keys api add NAME`, or listen on this machine alone (QIG_HTTP_HOST=127.0.0.1)"
        )
        raise Rejected("no_api_keys", message)
    rates = Rates(settings.broker_url, api.api_per_minute) if api.api_per_minute else None
    return Access(found, rates, needed=needed, local=loopback and not api.api_open)


async def build(settings: EdgeSettings, broker: Broker, api: ApiSettings = DEFAULT_API) -> Wiring:
    """The edge's parts. Raises Unavailable and Corrupt for a state directory or a key that cannot be used, and Rejected
    where others reach its API and there is no key for it.
    """
    home = state_dir(settings.home, settings.node)
    record = await asyncio.to_thread(Record, home / "edge.db", now_s=time.time(), address=_address(settings))
    try:
        access = _access(settings, api)
        edge = Edge(settings, broker, record, Slots(home / "bundles"))
    except QigError:
        record.close()
        raise
    await edge.start()
    http = application(edge, access, created=int(time.time()))

    async def stop() -> None:
        await http.stop()
        await edge.stop()

    queries = Consumer(
        streams.QUERIES,
        streams.GROUPS[streams.QUERIES],
        lambda body: unpack(Query, body),
        edge.on_query,
        at_once=ACTIVE_MAX,
        max_records=QUERIES_READ,
        turn_away=edge.turn_away,
    )
    return Wiring(
        consumers=[queries],
        followers=[
            Follower(streams.BUNDLES, edge.follow_from, edge.on_bundle),
            Follower(streams.CANCEL, ONLY_NEW, edge.on_cancel),
        ],
        ticks=[
            Tick("sleep", SLEEP_CHECK_S, edge.sleep),
            Tick("prune", PRUNE_EVERY_S, edge.prune),
            Tick("heart", HEART_EVERY_S, edge.beat),
            Tick("generate", PROVE_EVERY_S, edge.prove),
            Tick("look", LOOK_EVERY_S, Lookout(edge.live, broker).look),
        ],
        app=with_page(http, edge.live),
        ready=edge.ready,
        stop=stop,
    )


def main() -> None:
    """`python -m services.edge.app`: settings from the environment (docs/settings.md), until SIGTERM."""
    gc.freeze()  # what is imported stays: a collection after a swap looks at what came since, in milliseconds
    run("edge", EdgeSettings, lambda settings, broker: build(settings, broker, load(ApiSettings)))


if __name__ == "__main__":
    main()
