"""A desk that asks, and knows what of it was answered; and a watcher of what the fleet says. The demo's two eyes."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, Unpack, cast

from redis.asyncio import Redis

from common.client import Client, Wishes
from common.errors import QigError, Unavailable
from common.runtime import streams
from common.runtime.entries import Delivery, body_of
from common.runtime.follower import FROM_START, Follower, follow
from common.runtime.health import Health
from common.wire.codec import unpack
from common.wire.inference import Answer
from common.wire.messages import Applied, Bundle, DeadLetter
from common.wire.packet import open_envelope

ANSWER_TIMEOUT_S: Final = 60.0
ASK_EVERY_S: Final = 0.25


class Desk:
    """Asks as a client, many queries at once. asked: by query id; lost: without an answer when last waited for."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: dict[str, asyncio.Task[Answer]] = {}
        self.lost = 0
        self._names = itertools.count()

    def send(self, text: str, **wishes: Unpack[Wishes]) -> "asyncio.Task[Answer]":
        """Asks, and does not wait; the answer is the task's result."""
        name = wishes["id"] = f"q-{next(self._names)}"
        task = self.asked[name] = asyncio.create_task(self.client.ask(text, **wishes), name=name)
        task.add_done_callback(_is_lost)  # looked at, so that asyncio does not complain of an error nobody awaited
        return task

    async def ask(self, text: str, **wishes: Unpack[Wishes]) -> Answer:
        """One answer. Raises Unavailable("no_answer") when it takes too long."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self.send(text, **wishes)
        except TimeoutError:
            message = f"no edge answered within {ANSWER_TIMEOUT_S:g} s: see the edges' logs"
            raise Unavailable("no_answer", message) from None

    async def keep_asking(self, questions: Sequence[str], every_s: float = ASK_EVERY_S) -> None:
        """Ordinary traffic until cancelled; it asks to be forgotten, so that it teaches nothing."""
        for question in itertools.cycle(questions):
            self.send(question, max_tokens=16, store=False)
            await asyncio.sleep(every_s)

    async def all_answered(self) -> int:
        """Waits until nothing is open, or ANSWER_TIMEOUT_S; sets `lost`; how many were ever asked."""
        asked = list(self.asked.values())
        if asked:
            await asyncio.wait(asked, timeout=ANSWER_TIMEOUT_S)
        self.lost = sum(not task.done() or _is_lost(task) for task in asked)
        return len(asked)


def _is_lost(task: "asyncio.Task[Answer]") -> bool:
    return task.cancelled() or task.exception() is not None


@dataclass(frozen=True, slots=True)
class SeenPacket:
    """A packet as it passed on its stream. node: the first digits of its key."""

    node: str
    sequence: int
    size_bytes: int


class Watcher:
    """Reads packets as they pass while it lives, and bundles and verdicts from the beginning of their streams.

    on_refusal: told in words of each candidate that the publisher refuses, on_packet of each packet, as soon as it
    comes.
    """

    def __init__(
        self,
        client: Client,
        redis: Redis,
        on_refusal: Callable[[str], None],
        on_packet: Callable[["SeenPacket"], None],
    ) -> None:
        self._client = client
        self._redis = redis
        self._on_refusal = on_refusal
        self._on_packet = on_packet
        self.packets: list[SeenPacket] = []
        self._bundles: dict[int, Bundle] = {}
        self._verdicts: dict[tuple[int, str], Applied] = {}
        self._news = asyncio.Condition()

    async def __aenter__(self) -> Self:
        packets = Follower(streams.PACKETS, FROM_START, self._pass)
        refusals = Follower(streams.dead(streams.CANDIDATES), FROM_START, self._refuse)
        self._readers = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(follow(self._redis, packets, Health())),
            asyncio.create_task(follow(self._redis, refusals, Health())),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

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

    async def _watch(self) -> None:
        async for told in self._client.watch(after=FROM_START):
            async with self._news:
                if isinstance(told, Bundle):
                    self._bundles[told.version] = told
                elif isinstance(told, Applied):
                    self._verdicts[told.version, told.node] = told
                self._news.notify_all()

    async def _refuse(self, delivery: Delivery) -> None:
        letter = unpack(DeadLetter, delivery.body)
        self._on_refusal(f"{letter.code}: {letter.reason}")

    async def _pass(self, delivery: Delivery) -> None:
        with suppress(QigError):  # not ours to judge: whoever consumes the stream buries it with its reason
            envelope = open_envelope(delivery.body)
            self.packets.append(SeenPacket(envelope.key.hex()[:8], envelope.sequence, len(delivery.body)))
            self._on_packet(self.packets[-1])
