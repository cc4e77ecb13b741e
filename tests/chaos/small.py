"""A service in small, in a process of its own: the real runtime, with handlers of a few lines, ten times as impatient.

    qig:queries ──answer──▶ qig:answers:CLIENT         qig:packets ──take──▶ ledger ──cut──▶ qig:batches
    qig:common ──follow──▶ a file

A batch is a function of its packets alone, so it can be told what it must be. How often each entry had its effect is
counted beside its stream.
"""

import asyncio
import ctypes
import hashlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

from faststream.redis.subscriber.usecases import basic, stream_subscriber
from scenario import WAVE, kind_of

from common.client import client
from common.errors import Rejected
from common.runtime import connection, follower, logs, relay, scripts, service, streams, subscription
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.effects import Absent, Effect, Equals, HashAdd, HashDelete, HashSet, Send
from common.runtime.entries import Delivery
from common.runtime.follower import FROM_START, Follower
from common.runtime.service import Tick, Wiring
from common.runtime.settings import CommonSettings
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Query

CLAIM_AFTER_S = 0.2
SLOW_S = 0.5
CHECK_EVERY_S = 0.05
CUT_EVERY_S = 0.05
PATIENCE = {"claim_after_s": CLAIM_AFTER_S, "retry_first_s": 0.02, "max_deliveries": 5, "at_once": 4}
HASTE = 10
LEDGER = streams.side_key(streams.PACKETS, "ledger")
COUNTED = streams.side_key(streams.PACKETS, "counted")
CUTS = streams.side_key(streams.PACKETS, "cuts")
CONSUMED = (streams.QUERIES, streams.PACKETS)
_PR_SET_PDEATHSIG = 1


def counts(stream: str) -> str:
    """Where it stands how often each entry of `stream` had its effect."""
    return streams.side_key(stream, "counts")


def hurry() -> None:
    """Whatever the runtime waits for, it waits a tenth as long for: patience is no part of what is promised."""
    subscription.READ_BLOCK_MS //= HASTE
    subscription.GONE_CONSUMER_S = 1.0
    relay.RELAY_BLOCK_MS //= HASTE
    follower.FOLLOW_BLOCK_MS //= HASTE
    connection.SOCKET_TIMEOUT_S /= HASTE
    connection.WAIT_MAX_S /= HASTE
    for room in (connection, follower):
        room.BACKOFF_FIRST_S /= HASTE
    for room in (connection, follower, relay, client):
        room.BACKOFF_MAX_S /= HASTE
    for room in (basic, stream_subscriber):
        room.CONSUME_ERROR_BACKOFF_SECONDS /= HASTE


def answered(text: str) -> str:
    """What is answered to a text."""
    return text[::-1]


def batch_of(packets: list[bytes]) -> bytes:
    """The batch of these packets, whatever their order."""
    return b"\n".join(sorted(packets))


async def work(kind: str) -> None:
    """What a message of this kind costs, or does to its handler."""
    if kind == "slow":
        await asyncio.sleep(SLOW_S)
    if kind == "wrong":
        raise Rejected("wrong", "it was made to be refused")
    if kind == "bug":
        msg = "it was made to fail"
        raise RuntimeError(msg)
    if kind == "deadly":
        os._exit(9)


class Small:
    """What the services do, in small."""

    def __init__(self, broker: Broker, heard: Path) -> None:
        self.broker, self.heard = broker, heard

    async def answer(self, delivery: Delivery, query: Query) -> list[Effect]:
        await work(kind_of(query.text))
        said = Answer(
            query_id=query.id, client=query.client, node="light", bundle=0, text=answered(query.text), finish="stop"
        )
        sent = Send(streams.answers(query.client), pack(said), query.id)
        return [HashAdd(counts(streams.QUERIES), delivery.entry_id, 1), sent]

    async def take(self, delivery: Delivery, packet: bytes) -> list[Effect]:
        name, _, kind = packet.decode().partition(" ")
        await work(kind)
        if await self.broker.redis.hexists(LEDGER, name) or await self.broker.redis.hexists(COUNTED, name):
            raise Rejected("replayed", f"packet {name} was taken before")
        taken = [Absent(LEDGER, name), Absent(COUNTED, name), HashSet(LEDGER, name, packet)]
        return [*taken, HashAdd(counts(streams.PACKETS), delivery.entry_id, 1)]

    async def cut(self) -> None:
        count = await self.broker.redis.hget(CUTS, "count")
        ledger = await self.broker.read_hash(LEDGER)
        if len(ledger) < WAVE:
            return
        names = sorted(ledger)[:WAVE]
        held = Absent(CUTS, "count") if count is None else Equals(CUTS, "count", count)
        number, batch = int(count or 0) + 1, batch_of([ledger[name] for name in names])
        moved = [each for name in names for each in (HashDelete(LEDGER, name), HashSet(COUNTED, name, b""))]
        sent = Send(streams.BATCHES, batch, hashlib.sha256(batch).hexdigest())
        await self.broker.commit(streams.PACKETS, [held, HashSet(CUTS, "count", b"%d" % number), *moved, sent])

    async def hear(self, delivery: Delivery) -> None:
        with self.heard.open("a") as file:
            file.write(f"{os.getpid()} {delivery.entry_id}\n")


def last_heard(file: Path) -> str:
    """Where a follower goes on."""
    lines = file.read_text().splitlines() if file.exists() else []
    return lines[-1].split()[1] if lines else FROM_START


def live(url: str, home: str, node: str, *, direct: bool) -> None:
    """The life of one process. node: its name, which begins with its role."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    log = os.open(Path(home) / f"{node}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    hurry()
    if not direct:  # as on a Cluster
        scripts.has_slots = _always
    settings = CommonSettings(broker_url=url, home=home, node=node)
    logs.configure("light", node, settings.log_level)
    built = partial(_build, settings)
    asyncio.run(service.serve(settings, service="light", build=built, check_every_s=CHECK_EVERY_S))


async def _always(redis) -> bool:
    return True


async def _build(settings: CommonSettings, broker: Broker) -> Wiring:
    heard = settings.home / f"{settings.node}.heard"
    small = Small(broker, heard)
    consumers = {
        "edge": Consumer(streams.QUERIES, "edge", partial(unpack, Query), small.answer, **PATIENCE),
        "aggregator": Consumer(streams.PACKETS, "aggregator", bytes, small.take, **PATIENCE),
    }
    role = settings.node.partition("-")[0]
    return Wiring(
        consumers=[consumers[role]],
        followers=[Follower(streams.COMMON, last_heard(heard), small.hear)],
        ticks=[Tick("cut", CUT_EVERY_S, small.cut)] if role == "aggregator" else [],
    )
