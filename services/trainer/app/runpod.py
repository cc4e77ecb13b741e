"""A RunPod endpoint as the trainer's shell sees it: a job goes there, and is asked for until it is done.

    no job noted ──▶ POST /run ──▶ noted beside the batches ──▶ wait
    noted ──GET /status──▶ in queue, in progress ──▶ wait
                           completed ──▶ made: what is new is fetched, verified, put into the store
                                         missing: another job brings what fits of it, and is noted ──▶ wait
                                         refused: as if it had been refused here
                           failed, cancelled, out of time ──▶ forgotten: one of the batch's tries
                           not known any more (results are kept for 30 minutes) ──▶ forgotten ──▶ wait
    noted for another batch or parent ──▶ POST /cancel

To wait is to raise Unavailable: the batch is delivered again, after longer pauses up to five seconds, to whichever
trainer is there then. So a stop need not wait for a job, and a restart asks for the job that runs. A job that was
submitted and not noted, for a kill came between, is submitted again: the worker makes it once (worker.py).
"""

import asyncio
import json
import logging
import re
import time
from collections.abc import Awaitable, Sequence
from typing import Any, Final, cast

import httpx2

from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import metrics
from common.runtime.broker import Broker
from common.runtime.effects import HashDelete, HashSet
from common.runtime.settings import RunPodSettings, variable
from common.runtime.streams import BATCHES
from common.wire.codec import unpack
from common.wire.fields import Amount, Count, Digest, Value
from common.wire.messages import Part
from services.trainer import job
from services.trainer.app.hashes import CANDIDATE, JOB
from services.trainer.job import Job, Made, Reply, Request

log = logging.getLogger(__name__)

WAIT_S: Final = 20  # that /runsync may take: it gives bytes that a worker has, once there is a worker
TIMEOUT_S: Final = WAIT_S + 10.0  # of one answer, and so of a stop
QUEUED_S: Final = 24 * 3600.0  # that a job may wait for a worker
TTL_MAX_S: Final = 7 * 24 * 3600.0  # what RunPod allows; without one it forgets a job after a day, waiting or at work
UNDER_WAY: Final = ("IN_QUEUE", "IN_PROGRESS", "RUNNING")
UNKNOWN: Final = "Job ID not found"  # so says the API on one's own machine, where RunPod answers 404
SHOWN: Final = 12  # characters of a job's name


class Note(Value):
    """The job that runs: its name, its id at RunPod, how many chunks it has from the first one that was missing when it
    was submitted, and when that was for the first time, in seconds since 1970.
    """

    job: Digest
    id: str
    missing: Count = 0
    began_s: Amount = 0.0


class Endpoint:
    """One endpoint. Raises Rejected("bad_setting") for a key that cannot be read."""

    def __init__(self, url: str, settings: RunPodSettings, broker: Broker) -> None:
        self._broker = broker
        ttl_s = min(TTL_MAX_S, settings.runpod_timeout_s + QUEUED_S)
        self._policy = {"executionTimeout": round(settings.runpod_timeout_s * 1000), "ttl": round(ttl_s * 1000)}
        metrics.JOB_LIMIT.set(settings.runpod_timeout_s)
        self._http = httpx2.AsyncClient(base_url=url, headers=_authorization(settings), timeout=TIMEOUT_S)

    async def close(self) -> None:
        """Leave connections in good order."""
        await self._http.aclose()

    async def began_s(self) -> float:
        """When the job that runs was submitted first, since 1970; 0 while there is none."""
        note = await self._noted()
        return 0.0 if note is None else note.began_s

    async def made(self, asked: Job) -> Made:
        """What the job made, once it is done; its new parts lie in the store then.

        Raises Unavailable while it is not, Rejected and Corrupt as `consolidate` where that refused the batch,
        RuntimeError for a job that failed.
        """
        note = await self._noted()
        if note is not None and note.job != asked.name:
            await self._cancel(note)
            note = None
        if note is None:
            await self._submit(Request(job=asked), missing=0, began_s=time.time())
            raise Unavailable("job_begun", f"job {asked.name[:SHOWN]} went to RunPod; it is asked for")
        reply = await self._reply(note)
        if reply.refused is not None:
            await self._forget()
            raise reply.refused.error()
        if reply.other_text is not None:
            message = (
                f"the worker at RunPod has text {reply.other_text[:SHOWN]}, this trainer {asked.text[:SHOWN]}: give"
                f" both the same {variable('data')}; asked again when RunPod forgets its answer, in half an hour"
            )
            raise Unavailable("other_text", message)
        if reply.made is None:
            await self._bring(asked, reply.missing, note)
            raise Unavailable(
                "job_begun", f"job {asked.name[:SHOWN]} lacked {len(reply.missing)} chunks; some go there"
            )
        await self._store(asked, reply.made, dict(reply.chunks))
        return reply.made

    async def _reply(self, note: Note) -> Reply:
        """Raises Unavailable until there is one, RuntimeError where there will be none."""
        answer = await self._ask("GET", f"/status/{note.id}")
        state = answer.get("status") if answer else None
        if answer is None or (state == "FAILED" and answer.get("error") == UNKNOWN):
            await self._forget()
            raise Unavailable("job_unknown", f"RunPod knows job {note.id} no more: it is submitted again")
        if state in UNDER_WAY:
            raise Unavailable("job_under_way", f"job {note.id} is {state} {_shown(answer.get('output'))}".rstrip())
        reply = _read(answer) if state == "COMPLETED" else None
        if reply is None or not (reply.made or reply.missing or reply.refused or reply.other_text):
            await self._forget()  # the next try is another job
            said = _shown(answer.get("error") or answer.get("output"))
            raise RuntimeError(f"job {note.id} at RunPod is {state}: {said}")
        return reply

    async def _bring(self, asked: Job, missing: Sequence[str], note: Note) -> None:
        """Submit the job again with what fits of what it lacks. Raises Unavailable("chunks_forgotten") where what was
        brought before is not there: the workers share no volume, and a job of this size needs one.
        """
        # By the place of the first, which is brought each time: a reply names NAMES_MAX of those that are missing.
        wanted, names = frozenset(missing), job.all_names(asked.parts.values())
        first = next((at for at, name in enumerate(names) if name in wanted), 0)
        left = len(names) - first
        if note.missing and left >= note.missing:
            message = (
                f"the worker at RunPod lacks chunk {first + 1} of {len(names)} again, after it was brought: attach a"
                " network volume to the endpoint, for one request does not hold them all"
            )
            raise Unavailable("chunks_forgotten", message)
        chunks = await self._chunks(asked, missing)
        await self._submit(Request(job=asked, chunks=chunks), missing=left, began_s=note.began_s)

    async def _chunks(self, asked: Job, missing: Sequence[str]) -> dict[str, bytes]:
        wanted = frozenset(missing)
        found: list[tuple[str, bytes]] = []
        for part in {part.digest: part for part in asked.parts.values()}.values():
            if wanted.isdisjoint(job.names(part)):
                continue
            data = await self._broker.get_blob(part.digest, part.size_bytes)
            packed = await asyncio.to_thread(job.cut, part, data)
            found += [(name, chunk) for name, chunk in packed.items() if name in wanted]
            if sum(len(chunk) for _, chunk in found) > job.LOAD_BYTES:
                break
        return job.load(found)

    async def _store(self, asked: Job, made: Made, chunks: dict[str, bytes]) -> None:
        new = job.new_names(made.parts, asked.parts)
        while left := [name for name in new if name not in chunks]:
            answer = await self._ask(
                "POST", f"/runsync?wait={WAIT_S * 1000}", Request(wanted=tuple(left[: job.NAMES_MAX]))
            )
            if answer is None or answer.get("status") != "COMPLETED":
                if answer is not None and isinstance(answer.get("id"), str):  # asked again, it is another job
                    await self._ask("POST", f"/cancel/{answer['id']}")
                raise Unavailable("job_under_way", f"no worker gave the rest of a candidate's parts within {WAIT_S} s")
            reply = _read(answer)
            given = reply.chunks if reply else {}
            if chunks.keys() >= given.keys():
                message = (
                    f"another worker answered, without {len(left)} chunks: attach a network volume to the endpoint"
                )
                raise Unavailable("chunks_forgotten", message)
            chunks |= given
        for part in {part.digest: part for part in made.parts.values()}.values():
            if not set(new).isdisjoint(job.names(part)):
                await self._broker.put_blob(await self._joined(part, chunks))

    async def _joined(self, part: Part, chunks: dict[str, bytes]) -> bytes:
        try:
            return await asyncio.to_thread(job.joined, part, [chunks[name] for name in job.names(part)])
        except Corrupt as error:  # not the batch's fault
            await self._forget()  # the next try is another job: a worker looks at what it keeps before it answers one
            raise RuntimeError(f"what RunPod gave is not what it promised: {error}") from error

    async def _submit(self, request: Request, *, missing: int, began_s: float) -> None:
        assert request.job is not None
        answer = await self._ask("POST", "/run", request)
        if answer is None or not isinstance(answer.get("id"), str):
            raise Unavailable("runpod_refused", f"RunPod has no such endpoint: check {variable('runpod_endpoint')}")
        note = Note(job=request.job.name, id=answer["id"], missing=missing, began_s=began_s)
        await self._broker.commit(BATCHES, [HashSet(CANDIDATE, JOB, note.model_dump_json().encode())])
        log.info("job %s is %s at RunPod, with %d chunks", note.job[:SHOWN], note.id, len(request.chunks))

    async def _cancel(self, note: Note) -> None:
        """One whose batch or parent is another by now; that it cannot be cancelled any more is no matter."""
        await self._ask("POST", f"/cancel/{note.id}")
        await self._forget()

    async def _noted(self) -> Note | None:
        found = await cast("Awaitable[bytes | None]", self._broker.redis.hget(CANDIDATE, JOB))
        return None if found is None else Note.model_validate_json(found)

    async def _forget(self) -> None:
        await self._broker.commit(BATCHES, [HashDelete(CANDIDATE, JOB)])

    async def _ask(self, method: str, path: str, request: Request | None = None) -> dict[str, Any] | None:
        """An answer; None for 404. Raises Unavailable("runpod_away", "runpod_refused")."""
        body = None
        if request is not None:
            body = {"input": request.model_dump(mode="json", exclude_defaults=True), "policy": self._policy}
        try:
            answer = await self._http.request(method, path, json=body)
            if answer.status_code == httpx2.codes.METHOD_NOT_ALLOWED:  # the API on one's own machine knows POST alone
                answer = await self._http.request("POST", path, json=body)
            if answer.status_code == httpx2.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
            found = answer.json()
        except httpx2.HTTPStatusError as error:
            status = error.response.status_code
            refused = status in (httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN)
            code, hint = ("runpod_refused", f": check {variable('runpod_key')}") if refused else ("runpod_away", "")
            raise Unavailable(code, f"RunPod answers {path} with {status}{hint}") from None
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            raise Unavailable("runpod_away", f"RunPod does not answer {path}: {error!r}") from None
        return found if isinstance(found, dict) else None


def _read(answer: dict[str, Any]) -> Reply | None:
    """What a worker said; None for what is no Reply."""
    try:
        return unpack(Reply, json.dumps(answer.get("output")).encode())
    except Rejected as error:
        log.warning("job %s at RunPod said what is no reply: %s", answer.get("id"), error)
        return None


def _authorization(settings: RunPodSettings) -> dict[str, str]:
    if settings.runpod_key is None:
        return {}
    where = f"{variable('runpod_key')}={settings.runpod_key}"
    try:
        key = settings.runpod_key.read_bytes().strip()
    except OSError as error:
        raise Rejected("bad_setting", f"{where}: {error.strerror}") from None
    if not re.fullmatch(rb"[!-~]+", key):  # no header takes it, and a request would say that RunPod does not answer
        raise Rejected("bad_setting", f"{where} holds no key: it is one word, as RunPod shows it")
    return {"authorization": f"Bearer {key.decode()}"}


def _shown(said: object) -> str:
    return "" if said is None else str(said)[:200]
