"""The trainer's shell: makes the genesis when there is no bundle, and turns each batch into a candidate.
`python -m services.trainer.app` starts one.

    batches ──▶ consolidate (in a thread, under its lease) ──▶ parts to the store ──▶ candidates
                ├▶ or, with QIG_RUNPOD_ENDPOINT, a job there (runpod.py), which a worker answers (worker.py)
                └▶ a batch that is wrong in itself: its packets are Returned, then a dead letter

One candidate at a time, however many trainers there are: the oldest batch of the stream is worked on, and only when the
publisher has decided on the candidate before, for its parent would be out of date. A batch that is redelivered after a
kill goes on from its last checkpoint to the same bytes; the candidate's id is the batch's, so it counts once. A trainer
that is stopped leaves training with the next step, and hands its batch back: that try does not count.
"""

import asyncio
import hashlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final, cast

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import causes, keys, metrics, streams, tracing
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.effects import Effect, HashDelete, HashSet, Send, Then
from common.runtime.entries import Delivery
from common.runtime.heart import heart
from common.runtime.releases import newest_release
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import DEFAULT_RUNPOD, RunPodSettings, TrainerSettings, load
from common.runtime.trust import Trust
from common.wire.bundle import candidate_id, digest
from common.wire.codec import pack, unpack
from common.wire.fields import REASON_MAX_CHARS
from common.wire.messages import Batch, Bundle, Candidate, Evidence, Figure, Part, Returned
from services.trainer import folder, gpu, proposals, text
from services.trainer.ancestry import ancestry
from services.trainer.app.hashes import CANDIDATE, FAILED, GROWN, JOB, LAST
from services.trainer.app.runpod import Endpoint
from services.trainer.consolidate import consolidate
from services.trainer.evaluate import Examiner, instruments
from services.trainer.job import Job, Made

log = logging.getLogger(__name__)

SEED: Final = 0
SMALLEST: Final = "tiny"  # what is trained where nothing is shipped and no size is set
MAX_DELIVERIES: Final = 5
GENESIS_EVERY_S: Final = 2.0
MEASURE_EVERY_S: Final = 5.0
BRANCH_WORKERS: Final = 2
RUNS: Final = "training"  # beside the genesis: a folder of the batch that is worked on, for what a kill leaves of it


class Trainer:
    """Holds what outlives a message: settings, broker, and the text."""

    def __init__(
        self, settings: TrainerSettings, broker: Broker, trust: Trust, endpoint: Endpoint | None = None
    ) -> None:
        """endpoint: where batches are worked on; None: here."""
        self._settings, self._broker, self._trust, self._endpoint = settings, broker, trust, endpoint
        self._text = text.load(settings.data)
        self._digest = self._text.digest
        self._runs = settings.genesis.with_name(RUNS)
        self.version = 0  # of the bundle trained on last, or found
        self._sent = ""  # the id of the genesis, once it is on its way to the publisher
        self._stopping = threading.Event()
        metrics.begin(metrics.GUARD_EVENTS, *((f"restore-{role}",) for role in ROLES))  # as dreams.py says it

    async def make_genesis(self) -> None:
        """Sends the genesis as the first candidate, until a bundle is there. Idempotent: its id is its content's."""
        released = await newest_release(self._broker.redis, self._trust)
        if released is not None:
            self.version = released.version
            return
        if self._sent and await self._broker.was_published(streams.CANDIDATES, self._sent):
            return
        began_ns = time.time_ns()
        parts = folder.read(self._settings.genesis)
        if parts is None and self._settings.size is None:
            parts = folder.read(folder.shipped(self._settings.data))
        if parts is None:
            from services.trainer.recipe import forget, genesis  # noqa: PLC0415 -- torch, as in `build`

            log.info("training the genesis; this takes minutes")
            where = self._settings.genesis
            kept = where.with_name(f"{where.name}-run")
            parts = await asyncio.to_thread(
                genesis,
                self._text.corpora,
                self._settings.size or SMALLEST,
                folder=kept,
                seed=SEED,
                workers=BRANCH_WORKERS,
                progress=self._log_progress,
            )
            await asyncio.to_thread(folder.write, folder.pack(parts), where)
            await asyncio.to_thread(forget, kept)
        evidence = await asyncio.to_thread(self._examine, parts)
        listed = await self._store(parts)
        name = hashlib.sha256(
            "".join(f"{path} {part.digest}\n" for path, part in sorted(listed.items())).encode()
        ).hexdigest()
        candidate = Candidate(id=f"genesis-{name[:16]}", parent=0, parent_digest="", parts=listed, evidence=evidence)
        with tracing.work("make genesis", causes.candidate(candidate).root, began_ns=began_ns):
            if await self._broker.produce(streams.CANDIDATES, pack(candidate), candidate.id):
                log.info("genesis %s sent to the publisher", candidate.id)
        self._sent = candidate.id

    async def take(self, delivery: Delivery, batch: Batch) -> Sequence[Effect]:
        """A batch becomes a candidate. One that is wrong in itself, or that no try came to an end with, does not, and
        its packets go back to their edges.

        That is said before the dead letter is written, and once. What went back is no batch any more, whoever replays
        it: its edges have sent it again.
        """
        if await self._broker.was_published(streams.RETURNED, batch.id):
            raise Rejected("batch_returned", f"the packets of batch {batch.id[:12]} went back to their edges before")
        if await self._broker.redis.xrange(streams.BATCHES, max=f"({delivery.entry_id}", count=1):
            raise Unavailable("batch_before", "an older batch comes first, here or with another trainer")
        await self._broker.check_room(streams.CANDIDATES)
        try:
            if delivery.deliveries >= MAX_DELIVERIES:  # what failed or killed every try so far does it again
                raise Rejected("never_finished", _unfinished(batch, delivery.deliveries - 1))  # noqa: TRY301
            return await self._consolidate(batch, delivery.at_ms / 1000)
        except (Rejected, Corrupt) as error:
            if batch.packets:
                told = Returned(packets=batch.packets, code=error.code, reason=error.message[:REASON_MAX_CHARS])
                await self._broker.produce(streams.RETURNED, pack(told), batch.id)
            raise

    def stop(self) -> None:
        """What is trained here ends with its next step: a redelivery goes on from its checkpoint."""
        self._stopping.set()

    async def measure(self) -> None:
        """How far training is, and what the GPUs do; as metrics."""
        metrics.CHECKPOINT.set(await asyncio.to_thread(_last_checkpoint_s, self._runs))
        found = await asyncio.to_thread(gpu.read)
        metrics.GPU_BUSY.clear()
        metrics.GPU_MEMORY.clear()
        for each in found:
            if each.busy is not None:
                metrics.GPU_BUSY.labels(each.index).set(each.busy)
            metrics.GPU_MEMORY.labels(each.index, "used").set(each.used_bytes)
            metrics.GPU_MEMORY.labels(each.index, "total").set(each.total_bytes)
        if self._endpoint is not None:  # work there goes on between this trainer's looks at it
            metrics.BATCH_BEGAN.set(await self._endpoint.began_s())

    async def _consolidate(self, batch: Batch, cut_s: float) -> Sequence[Effect]:
        """cut_s: when the batch came; what depends on time depends on that, so that every try does the same."""
        current = await self._current()
        known = await self._broker.read_hash(FAILED)
        failed = proposals.noted(known, await self._refused_growth(), cut_s)
        batch = await self._of_released(batch, current)
        make = self._here if self._endpoint is None else self._there
        made = await make(batch, current, proposals.waiting(known | failed, cut_s))
        evidence = Evidence(figures=made.figures, guards=made.guards, seconds=made.seconds)
        candidate = Candidate(
            id=candidate_id(batch),
            parent=current.version,
            parent_digest=digest(current),
            parts=made.parts,
            evidence=evidence,
            packets=batch.packets,
        )
        metrics.show_figures(evidence.figures)
        log.info("batch %s of %d packets is candidate on bundle %d", batch.id[:12], len(batch.packets), current.version)
        failed |= proposals.noted(known, made.dropped, cut_s)
        return [
            HashSet(CANDIDATE, LAST, candidate.id.encode()),
            HashSet(CANDIDATE, GROWN, " ".join(made.grown).encode()),
            HashDelete(CANDIDATE, JOB),
            *(HashSet(FAILED, name, note) for name, note in failed.items()),
            *(HashDelete(FAILED, name) for name in proposals.outdated(known, cut_s) if name not in failed),
            Send(streams.CANDIDATES, pack(candidate), candidate.id),
            Then(partial(_count, evidence.guards, self._settings.steps if made.figures else 0)),
        ]

    async def _here(self, batch: Batch, current: Bundle, held_back: Collection[str]) -> Made:
        started = time.monotonic()
        metrics.BATCH_BEGAN.set(time.time())
        try:
            parts = {
                path: await self._broker.get_blob(part.digest, part.size_bytes) for path, part in current.parts.items()
            }
            await asyncio.to_thread(_forget_others, self._runs, batch.id)
            found = await asyncio.to_thread(
                consolidate,
                parts,
                batch,
                replay=self._text.replay,
                held_out=self._text.held_out,
                parents=self._text.parents,
                steps=self._settings.steps,
                seed=SEED,
                held_back=held_back,
                folder=self._runs / batch.id,
                progress=self._until_stopped,
            )
            return Made(
                parts=await self._store(found.parts),
                figures=found.figures,
                guards=found.guards,
                grown=found.grown,
                dropped=found.dropped,
                seconds=time.monotonic() - started,
            )
        finally:
            metrics.BATCH_BEGAN.set(0)

    def _log_progress(self, stage: str, done: float) -> None:
        self._until_stopped(stage, done)
        if done >= 1.0:
            log.info("genesis: %s done", stage)

    def _until_stopped(self, stage: str, done: float) -> None:
        """On the thread that trains. Raises Unavailable, which takes this try off those that a batch has: every stop
        would be one else, however far it came.
        """
        if self._stopping.is_set():
            message = f"this trainer stops while {stage} is at {done:.0%}: it goes on from its checkpoint"
            raise Unavailable("stopping", message)

    async def _there(self, batch: Batch, current: Bundle, held_back: Collection[str]) -> Made:
        assert self._endpoint is not None
        asked = Job(
            batch=pack(batch),
            parts=current.parts,
            text=self._digest,
            steps=self._settings.steps,
            seed=SEED,
            held_back=tuple(sorted(held_back)),
        )
        return await self._endpoint.made(asked)

    async def _current(self) -> Bundle:
        """The newest release, once the last candidate is decided on and what came of it can be seen."""
        bundle = await newest_release(self._broker.redis, self._trust)
        if bundle is None:
            raise Unavailable(
                "no_bundle", "there is no bundle to train on yet; the publisher releases the genesis first"
            )
        self.version = bundle.version
        last = await self._hget(CANDIDATE, LAST)
        if last and last.decode() != bundle.id and await self._hget(streams.REFUSED, last.decode()) is None:
            released = await self._hget(streams.RELEASED, last.decode())
            if released is None or int(released) > bundle.version:
                message = f"the publisher has not decided on candidate {last.decode()[:12]} yet"
                raise Unavailable("candidate_pending", message)
        return bundle

    async def _of_released(self, batch: Batch, current: Bundle) -> Batch:
        """The batch with the corrections of batches that the current bundle has: what no release has is not in it.

        Raises Rejected("nothing_to_correct") where that leaves nothing.
        """
        if not batch.corrections:
            return batch
        known = await self._broker.read_hash(streams.RELEASED)
        has = ancestry({name: int(version) for name, version in known.items()}, current.version)
        left = tuple(each for each in batch.corrections if each.batch in has)
        if not left:
            message = f"none of the batches that batch {batch.id[:12]} corrects is in bundle {current.version}"
            raise Rejected("nothing_to_correct", message)
        return batch.model_copy(update={"corrections": left})

    async def _refused_growth(self) -> list[str]:
        """The names of the merges that were in the last candidate, where the publisher has refused that."""
        last, grown = await self._hget(CANDIDATE, LAST), await self._hget(CANDIDATE, GROWN)
        refused = last is not None and await self._hget(streams.REFUSED, last.decode()) is not None
        return grown.decode().split() if refused and grown else []

    async def _hget(self, key: str, field: str) -> bytes | None:
        return await cast("Awaitable[bytes | None]", self._broker.redis.hget(key, field))

    async def _store(self, parts: Mapping[str, bytes]) -> dict[str, Part]:
        return {
            path: Part(digest=await self._broker.put_blob(data), size_bytes=len(data)) for path, data in parts.items()
        }

    def _examine(self, parts: Mapping[str, bytes]) -> Evidence:
        """The genesis on held-out text: the figures that every later candidate is held against."""
        constellation = bundle_parts.load(parts)
        held_out = self._text.held_out
        figures = [
            Figure(name="bits_per_byte", domain=domain, before=None, after=score.bits_per_byte, unit="bit/B")
            for domain, score in Examiner(held_out).scores(constellation).items()
        ]
        for role in ROLES:
            seen = instruments(constellation, role, held_out[role])
            if seen.phi.phi is not None:
                figures.append(Figure(name="phi_ratio", domain=role, before=None, after=seen.phi.phi, unit="1"))
            figures.append(Figure(name="kappa", domain=role, before=None, after=seen.kappa, unit="1"))
        return Evidence(figures=tuple(figures))


def _unfinished(batch: Batch, tries: int) -> str:
    name = batch.id[:12]
    left = "its packets go back to their edges, which send them again" if batch.packets else "then replay it"
    look = f"`qig batch save {name}` and `qig train --batch` try it by hand"
    return f"batch {name}: {tries} tries came to no end. The log says how each ended; {look}; {left}"


def _forget_others(runs: Path, batch_id: str) -> None:
    """What is left of other batches goes: they are done, or were given up."""
    for other in runs.glob("*"):
        if other.name != batch_id:
            shutil.rmtree(other, ignore_errors=True)


def _last_checkpoint_s(runs: Path) -> float:
    """When one was kept last, since 1970; 0 where there is none."""
    with suppress(FileNotFoundError):  # its batch is done
        return max((path.stat().st_mtime for path in runs.glob("*/*.safetensors")), default=0.0)
    return 0.0


def _count(guards: Sequence[str], steps: int) -> None:
    for guard in guards:
        metrics.GUARD_EVENTS.labels(guard).inc()
    metrics.TRAIN_STEPS.inc(steps)


async def build(settings: TrainerSettings, broker: Broker, runpod: RunPodSettings = DEFAULT_RUNPOD) -> Wiring:
    """Raises Unavailable: "missing_root" without a root to believe bundles by, "missing_corpus" without text; and
    Rejected("bad_setting") for a file of a key that cannot be read.
    """
    trust = Trust(broker.redis, keys.load_root(settings.home))
    if settings.steps:
        import services.trainer.dreams  # noqa: F401, PLC0415 -- torch, now rather than at the first batch
    endpoint = Endpoint(runpod.runpod_endpoint, runpod, broker) if runpod.runpod_endpoint else None
    trainer = Trainer(settings, broker, trust, endpoint)
    batches = Consumer(
        streams.BATCHES,
        streams.GROUPS[streams.BATCHES],
        decode=partial(unpack, Batch),
        handle=trainer.take,
        max_records=1,
        max_deliveries=MAX_DELIVERIES,
        cause=lambda _, batch: causes.batch(batch),
        give_up_after_s=math.inf,  # it waits for those before it, and for room: a full stream is more than a day's work
    )
    return Wiring(
        consumers=[batches],
        ticks=[
            Tick("genesis", GENESIS_EVERY_S, trainer.make_genesis),
            Tick("measure", MEASURE_EVERY_S, trainer.measure),
            heart(broker, "trainer", settings.node, bundle=lambda: trainer.version, ready=lambda: None),
        ],
        stopping=trainer.stop,
        stop=endpoint.close if endpoint else None,
    )


def main() -> None:
    """Process entry."""
    run("trainer", TrainerSettings, lambda settings, broker: build(settings, broker, load(RunPodSettings)))
