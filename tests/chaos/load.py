"""Producers as they are meant to be: they try again under the same name until they know what became of it.

a client   asks with a deadline; unanswered, it asks again under the same id
an edge    sends a packet by name, and again after a while until it sees it in a batch
anybody    broadcasts once, and is content when the broker took it
"""

import asyncio
import itertools
from collections.abc import Iterable
from contextlib import suppress
from typing import Unpack

from checker import CODES, Told, batch_of, good
from redis.asyncio import Redis
from redis.exceptions import RedisError
from scenario import Asked, Scenario, kind_of

from common.client import Client, Wishes
from common.errors import Rejected, Unavailable
from common.runtime import streams
from common.runtime.broker import Broker
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Query
from common.wire.messages import DeadLetter

CLIENT = "chaos"
ASK_AGAIN_S = 1.5
SEND_AGAIN_S = 1.0
LOOK_S = 0.03
LATER_S = 0.05


async def ask_until_told(client: Client, text: str, **wishes: Unpack[Wishes]) -> Answer:
    """The answer, however often it has to be asked for under one id. Raises Rejected."""
    while True:
        try:
            return await client.ask(text, **wishes)
        except Unavailable:  # not answered in time, or the broker takes nothing
            await asyncio.sleep(LATER_S)


class Load:
    """The producers of one scenario, and what they were told."""

    def __init__(self, client: Client, redis: Redis, scenario: Scenario) -> None:
        self.told = Told(
            queries=tuple(asked.text for asked in scenario.queries),
            waves=tuple(tuple(wave) for wave in scenario.waves),
        )
        self._scenario = scenario
        self._redis, self._broker = redis, Broker(redis)
        self._client = client
        self._sent: list[tuple[str, bytes]] = []  # what was accepted lately and may come twice: stream, message

    async def run(self) -> None:
        """Until everything that was sent has its end."""
        async with asyncio.TaskGroup() as group:
            for asked in self._scenario.queries:
                group.create_task(self._ask(asked))
            group.create_task(self._send_waves())
            for number, at_s in enumerate(self._scenario.news):
                group.create_task(self._tell(number, at_s))

    async def again(self, whom: int) -> None:
        """Something that was accepted comes a second time, as an entry of its own; and its publication is repeated."""
        if not self._sent:
            return
        stream, message = self._sent[whom % len(self._sent)]
        text = message.decode() if stream == streams.PACKETS else unpack(Query, message).text
        if kind_of(text) == "deadly":  # one is enough
            return
        self.told.again.add(text)
        await self._redis.xadd(stream, {streams.DATA_FIELD: message})
        name = text.partition(" ")[0]
        await self._broker.produce(stream, message, f"{CLIENT}:{name}" if stream == streams.QUERIES else name)

    async def _ask(self, asked: Asked) -> None:
        await asyncio.sleep(asked.at_s)
        query = Query(text=asked.text, client=CLIENT, id=asked.name, deadline_s=ASK_AGAIN_S)
        self._sent.append((streams.QUERIES, pack(query)))
        outcomes = self.told.outcomes.setdefault(asked.text, [])
        try:
            said = await ask_until_told(self._client, asked.text, id=asked.name, deadline_s=ASK_AGAIN_S)
            outcomes.append(said.text)
        except Rejected as error:
            outcomes.append(error.code)

    async def _send_waves(self) -> None:
        for wave in self._scenario.waves:
            await self._send_wave(wave)

    async def _send_wave(self, wave: Iterable[str]) -> None:
        batch, wrong = batch_of(good(wave)), [packet for packet in wave if kind_of(packet) in CODES]
        for number in itertools.count():
            if number % int(SEND_AGAIN_S / LOOK_S) == 0:
                for packet in wave:
                    await self._send(packet)
            with suppress(RedisError):
                rows = await self._redis.xrange(streams.BATCHES)
                self.told.batched |= {fields[b"__data__"] for _, fields in rows}
                if batch in self.told.batched and await self._buried(wrong):
                    return
            await asyncio.sleep(LOOK_S)

    async def _send(self, packet: str) -> None:
        while True:
            try:
                await self._broker.produce(streams.PACKETS, packet.encode(), packet.partition(" ")[0])
            except Unavailable:
                await asyncio.sleep(LATER_S)
            else:
                break
        if not self._scenario.forgets:  # else one that was counted before could be counted anew afterwards
            self._sent.append((streams.PACKETS, packet.encode()))

    async def _buried(self, wrong: list[str]) -> bool:
        if not wrong:
            return True
        rows = await self._redis.xrange(streams.dead(streams.PACKETS))
        return {unpack(DeadLetter, fields[b"__data__"]).body.decode() for _, fields in rows} >= set(wrong)

    async def _tell(self, number: int, at_s: float) -> None:
        await asyncio.sleep(at_s)
        while True:
            try:
                await self._broker.produce(streams.COMMON, b"news %d" % number, f"news-{number}")
            except Unavailable:
                await asyncio.sleep(LATER_S)
            else:
                return
