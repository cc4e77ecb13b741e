"""A client's desk: it asks, remembers what it asked, and knows what was answered; and a watcher of what the fleet says.

Used by the demo; plain Redis streams throughout, as any client would use them.
"""

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from common.errors import QigError, Unavailable
from common.runtime import scripts, streams
from common.runtime.entries import body_of
from common.wire.codec import pack, unpack
from common.wire.messages import Answer, Applied, Bundle, DeadLetter, Query
from common.wire.packet import open_envelope

ANSWER_TIMEOUT_S: Final = 60.0
ASK_EVERY_S: Final = 0.25
BLOCK_MS: Final = 500
RETRY_S: Final = 0.2


class Desk:
    """Asks under one client name. `lost` counts the queries that stayed without an answer when last waited for."""

    def __init__(self, redis: Redis, client: str) -> None:
        self._redis = redis
        self._client = f"{client}-{secrets.token_hex(4)}"
        self._asked: dict[str, asyncio.Future[Answer]] = {}
        self._names = itertools.count()
        self.lost = 0

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def send(
        self, text: str, *, max_tokens: int, seed: int | None = None, store: bool = True
    ) -> "asyncio.Future[Answer]":
        """Publishes a query, exactly once whatever the broker does meanwhile; the answer comes into the future.

        Cancelled before it is known to be there, it counts as never asked: nobody waits for its answer.
        """
        name = f"q-{next(self._names)}"
        future = self._asked[name] = asyncio.get_running_loop().create_future()
        query = pack(Query(id=name, client=self._client, text=text, max_tokens=max_tokens, seed=seed, store=store))
        try:
            await self._publish(query, f"{self._client}:{name}")
        except asyncio.CancelledError:
            del self._asked[name]
            raise
        return future

    async def _publish(self, query: bytes, name: str) -> None:
        while True:
            try:
                await scripts.publish(self._redis, streams.QUERIES, query, name)
            except RedisError:
                await asyncio.sleep(RETRY_S)  # the same id again: a publication whose reply was lost is not repeated
            else:
                return

    async def ask(self, text: str, *, max_tokens: int, seed: int | None = None) -> Answer:
        """One answer. Raises Unavailable("no_answer")."""
        future = await self.send(text, max_tokens=max_tokens, seed=seed)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise Unavailable(
                "no_answer", f"no edge answered within {ANSWER_TIMEOUT_S:g} s: see the edges' logs"
            ) from None

    async def keep_asking(self, questions: Sequence[str], every_s: float = ASK_EVERY_S) -> None:
        """Ordinary traffic until cancelled; it asks to be forgotten, so that it teaches nothing."""
        number = 0
        while True:
            await self.send(questions[number % len(questions)], max_tokens=16, store=False)
            number += 1
            await asyncio.sleep(every_s)

    async def all_answered(self) -> int:
        """Waits until nothing is open, or ANSWER_TIMEOUT_S; sets `lost`; how many were ever asked."""
        open_ = [future for future in self._asked.values() if not future.done()]
        if open_:
            await asyncio.wait(open_, timeout=ANSWER_TIMEOUT_S)
        self.lost = sum(not future.done() for future in self._asked.values())
        return len(self._asked)

    async def _read(self) -> None:
        position = "0"
        while True:
            try:
                found = await self._redis.xread({streams.answers(self._client): position}, count=64, block=BLOCK_MS)
            except RedisError:
                await asyncio.sleep(RETRY_S)
                continue
            for entry, fields in cast("Any", found)[0][1] if found else ():
                position = entry
                answer = unpack(Answer, body_of(fields) or b"")
                future = self._asked.get(answer.query_id)
                if future is not None and not future.done():
                    future.set_result(answer)


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """A packet as it passed on its stream. node: the first digits of its key."""

    node: str
    sequence: int
    size_bytes: int


class Watcher:
    """Reads packets as they pass while it lives, and bundles and verdicts from the beginning of their streams."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.packets: list[SeenPacket] = []
        self._bundles: dict[int, Bundle] = {}
        self._verdicts: dict[tuple[int, str], Applied] = {}
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def bundle(self, at_least: int) -> Bundle:
        """The first bundle of this version or a higher one; waits for it."""
        async with self._news:
            await self._news.wait_for(lambda: any(version >= at_least for version in self._bundles))
        return self._bundles[min(version for version in self._bundles if version >= at_least)]

    async def verdicts(self, version: int, nodes: Sequence[str]) -> list[Applied]:
        """What each node made of a bundle; waits for all."""
        async with self._news:
            await self._news.wait_for(lambda: all((version, node) in self._verdicts for node in nodes))
        return [self._verdicts[version, node] for node in nodes]

    async def diagnosis(self, version: int) -> str:
        """Why there is no newer bundle: the newest dead letters, else how far the packets came."""
        for stream in (streams.PACKETS, streams.BATCHES, streams.CANDIDATES):
            rows = cast("list[Any]", await self._redis.xrevrange(streams.dead(stream), count=1))
            if rows:
                letter = unpack(DeadLetter, body_of(rows[0][1]) or b"")
                return f"no bundle after {version}: {letter.code} on {stream}: {letter.reason}"
        return (
            f"no bundle after {version}, {len(self.packets)} packets seen: `qig watch` and the logs show where it waits"
        )

    async def _read(self) -> None:
        positions = dict.fromkeys((streams.PACKETS, streams.BUNDLES, streams.APPLIED), "0")
        while True:
            try:
                found = cast("Any", await self._redis.xread(cast("Any", positions), count=64, block=BLOCK_MS))
            except RedisError:
                await asyncio.sleep(RETRY_S)
                continue
            async with self._news:
                for name, entries in found or ():
                    for entry, fields in entries:
                        positions[name.decode()] = entry
                        self._note(name.decode(), body_of(fields) or b"")
                self._news.notify_all()

    def _note(self, stream: str, body: bytes) -> None:
        try:
            if stream == streams.PACKETS:
                envelope = open_envelope(body)
                self.packets.append(SeenPacket(envelope.key.hex()[:8], envelope.sequence, len(body)))
            elif stream == streams.BUNDLES:
                bundle = unpack(Bundle, body)
                self._bundles[bundle.version] = bundle
            else:
                told = unpack(Applied, body)
                self._verdicts[told.version, told.node] = told
        except QigError:
            return  # not ours to judge: whoever consumes the stream buries it with its reason
