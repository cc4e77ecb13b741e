"""A worker on RunPod: batches become candidates where no broker is. `python .runpod/handler.py` starts one.

    Request (job.py) ─▶ keep the chunks it brings ─▶ made before? ─▶ what is missing? ─▶ consolidate ─▶ keep ─▶ Reply

It reads QIG_DATA and QIG_RUNPOD_VOLUME and no other setting, and knows no key of the fleet. What it keeps lies below
VOLUME/qig, or in a temporary directory where there is no volume:

    parts/DIGEST.INDEX     chunks of bundles' parts        made/NAME.json    what became of a job
    training/NAME/         checkpoints of one that was killed

A job that was made is not made again, so it may be asked for twice, by its batch or by RunPod itself. A job that is
cancelled or out of time ends with its next step of training; its checkpoint stays.
"""

import asyncio
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from common.errors import Corrupt, QigError, Rejected
from common.runtime import logs
from common.runtime.service import EXIT_REFUSED
from common.runtime.settings import WorkerSettings, load
from common.wire.bundle import part_of
from common.wire.codec import unpack
from common.wire.messages import Batch, Part
from services.trainer import folder, job, text
from services.trainer.consolidate import consolidate
from services.trainer.job import Job, Made, Refused, Reply, Request

log = logging.getLogger(__name__)

KEPT_S: Final = 14 * 86_400.0  # what was not used for so long is deleted
TOLD_EVERY_S: Final = 5.0
TRAINING: Final = "training"

Told = Callable[[str, float], None]
"""What is being done, and what share of it is; raises Stopped."""


class Stopped(Exception):
    """The job was cancelled, or is out of time."""


class Shelf:
    """What a worker keeps: files by name, each written whole; those that are used stay."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes) -> None:
        """Keep a file. Two workers that write the same name write the same bytes."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before its name: a name whose bytes a lost machine took along would be found
        Path(beside).replace(path)

    def get(self, name: str) -> bytes | None:
        """A file, if it is there."""
        try:
            data = (self.root / name).read_bytes()
            os.utime(self.root / name)
        except FileNotFoundError:
            return None
        return data

    def has(self, name: str) -> bool:
        """Whether it is there."""
        return (self.root / name).is_file()

    def drop(self, name: str) -> None:
        """Delete one."""
        (self.root / name).unlink(missing_ok=True)

    def forget(self, before_s: float) -> None:
        """Delete what was not used since, in seconds since 1970."""
        for path in self.root.rglob("*"):
            with suppress(FileNotFoundError):  # another worker deletes as well
                if path.is_file() and path.stat().st_mtime < before_s:
                    path.unlink()


class Worker:
    """One worker: its text, the parts that came with it by digest, and its shelf."""

    def __init__(self, owned: text.Text, shipped: Mapping[str, bytes], shelf: Shelf) -> None:
        self._text, self._shipped, self._shelf = owned, shipped, shelf
        self._digest = owned.digest
        self._one = threading.Lock()  # a job at a time: the second of the same finds what the first has made

    def answer(self, given: Mapping[str, Any], told: Told, now_s: float) -> dict[str, Any]:
        """Input to output, as RunPod carries them. Raises Rejected for what is no Request."""
        return self.reply(unpack(Request, json.dumps(given).encode()), told, now_s).model_dump(mode="json")

    def reply(self, request: Request, told: Told, now_s: float) -> Reply:
        """Whatever `told` raises ends the work."""
        for name, packed in request.chunks.items():
            self._shelf.put(_chunk_file(name), packed)
        asked = request.job
        if asked is None:
            return Reply(chunks=self._load(request.wanted))
        if asked.text != self._digest:
            return Reply(other_text=self._digest)
        with self._one:
            made = self._made_before(asked)
            if made is None:
                parts, missing = self._parts(asked)
                if missing:
                    return Reply(missing=tuple(missing[: job.NAMES_MAX]))
                try:
                    made = self._make(asked, parts, told)
                except (Rejected, Corrupt) as error:
                    refused = Refused(code=error.code, reason=error.message, corrupt=isinstance(error, Corrupt))
                    return Reply(refused=refused)
                self._shelf.forget(now_s - KEPT_S)
        return Reply(made=made, chunks=self._load(job.new_names(made.parts, asked.parts)))

    def _load(self, names: Iterable[str]) -> dict[str, bytes]:
        """As many of the chunks as one reply holds, of those that are there."""
        found = ((name, self._shelf.get(_chunk_file(name))) for name in names)
        return job.load((name, packed) for name, packed in found if packed is not None)

    def _made_before(self, asked: Job) -> Made | None:
        """None where it was not, or what is kept of it is not whole: then it is made again, to the same bytes."""
        found = self._shelf.get(_made_file(asked))
        if found is None:
            return None
        try:
            made = Made.model_validate_json(found)
        except ValidationError as error:
            log.warning("dropped what became of job %s: %s", asked.name[:12], error)
            self._shelf.drop(_made_file(asked))
            return None
        known = {part.digest for part in asked.parts.values()}
        new = [part for part in made.parts.values() if part.digest not in known]
        return made if all(self._part(part) is not None for part in new) else None

    def _parts(self, asked: Job) -> tuple[dict[str, bytes], list[str]]:
        """The parent's parts that are here, and the chunks of all others."""
        found: dict[str, bytes] = {}
        missing: list[str] = []
        for path, part in asked.parts.items():
            data = self._shipped.get(part.digest) or self._part(part)
            if data is not None:
                found[path] = data
            else:
                missing += [name for name in job.names(part) if not self._shelf.has(_chunk_file(name))]
        return found, list(dict.fromkeys(missing))

    def _part(self, part: Part) -> bytes | None:
        packed = [self._shelf.get(_chunk_file(name)) for name in job.names(part)]
        whole = [chunk for chunk in packed if chunk is not None]
        if len(whole) < len(packed):
            return None
        try:
            return job.joined(part, whole)
        except Corrupt as error:  # torn on the disk, or on its way: it is to be sent again
            log.warning("dropped: %s", error)
            for name in job.names(part):
                self._shelf.drop(_chunk_file(name))
            return None

    def _make(self, asked: Job, parts: Mapping[str, bytes], told: Told) -> Made:
        started = time.monotonic()
        told("merging", 0.0)
        training = self._shelf.root / TRAINING / asked.name
        found = consolidate(
            parts,
            unpack(Batch, asked.batch),
            replay=self._text.replay,
            held_out=self._text.held_out,
            parents=self._text.parents,
            steps=asked.steps,
            seed=asked.seed,
            held_back=frozenset(asked.held_back),
            folder=training,
            progress=told,
        )
        told("keeping", 0.0)
        listed = {path: part_of(data) for path, data in found.parts.items()}
        new = frozenset(job.new_names(listed, asked.parts))
        for path, part in listed.items():
            if new.issuperset(job.names(part)):
                for name, packed in job.cut(part, found.parts[path]).items():
                    self._shelf.put(_chunk_file(name), packed)
        made = Made(
            parts=listed,
            figures=found.figures,
            guards=found.guards,
            grown=found.grown,
            dropped=found.dropped,
            seconds=time.monotonic() - started,
        )
        self._shelf.put(_made_file(asked), made.model_dump_json().encode())
        shutil.rmtree(training, ignore_errors=True)
        return made


def _chunk_file(name: str) -> str:
    return f"parts/{name.replace(':', '.')}"


def _made_file(asked: Job) -> str:
    return f"made/{asked.name}.json"


class Handler:
    """What RunPod's loop calls with each job. tell: its progress_update."""

    def __init__(self, worker: Worker, tell: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
        self._worker, self._tell = worker, tell

    async def __call__(self, given: dict[str, Any]) -> dict[str, Any]:
        """A job's output. Cancelled, by hand or by its time limit, it ends with the next step of training."""
        stopped = threading.Event()
        last: dict[str, float] = {}

        def told(stage: str, done: float) -> None:
            if stopped.is_set():
                raise Stopped(f"job {given['id']} was cancelled while {stage} was at {done:.0%}")
            now = time.monotonic()
            if now - last.get(stage, -math.inf) >= TOLD_EVERY_S:
                last[stage] = now
                self._tell(given, {"stage": stage, "done": round(done, 3)})

        try:
            return await asyncio.to_thread(self._worker.answer, given["input"], told, time.time())
        except asyncio.CancelledError:
            stopped.set()
            raise


def build() -> Worker:
    """Raises Unavailable("missing_corpus", "unreadable"), Rejected("bad_setting")."""
    settings = load(WorkerSettings)
    owned, shipped = text.load(settings.data), folder.read(folder.shipped(settings.data)) or {}
    volume = settings.runpod_volume
    root = volume / "qig" if volume.is_dir() else Path(tempfile.gettempdir()) / "qig-worker"
    log.info("text %s, %d parts shipped, keeps what it makes in %s", owned.digest[:12], len(shipped), root)
    return Worker(owned, {part_of(part).digest: part for part in shipped.values()}, Shelf(root))


def main() -> None:
    """RunPod's loop, or with its options one input (--test_input) or its API on this machine (--rp_serve_api)."""
    logs.configure("worker", "runpod", "info")
    try:
        worker = build()
    except QigError as error:
        sys.stderr.write(f"qig worker: {error}\n")
        sys.exit(EXIT_REFUSED)
    import runpod  # noqa: PLC0415 -- the extra of its image; the module is read without it

    runpod.serverless.start({"handler": Handler(worker, runpod.serverless.progress_update)})
