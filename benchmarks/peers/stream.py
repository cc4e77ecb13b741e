"""Consumers of one stream, each in a process of its own: ours, and those beside it in benchmarks/streams.py.

    python benchmarks/peers/stream.py NAME URL COUNT

qig             as a service runs it (common/runtime/service.py), handling whole reads; "qig, one by one": each message
                alone; "qig, an effect": whole reads, and a count in a hash goes with each message; "qig, named": each
                alone, and the consumer can tell what it is called; "qig, traced": and spans are made, which go nowhere
redis-py        XREADGROUP COUNT 100 and one XACK a read; nothing is looked at, and a handler's failure loses the read
redis-py, validated     the same, and each message is decoded and validated as ours is
FastStream      a subscriber with a group and a pydantic model, as its documentation shows it

Prints "reading" once it reads and one line of JSON when COUNT messages were handled, or at SIGTERM.
"""

import asyncio
import gc
import json
import os
import signal
import sys
import time
from typing import Annotated

from annotated_types import Len
from faststream.redis import RedisBroker, StreamSub
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from pydantic import BaseModel
from redis.asyncio import Redis

from common.runtime import causes, streams, tracing
from common.runtime.consumer import Consumer
from common.runtime.effects import HashAdd
from common.runtime.otel import Spans
from common.runtime.service import Wiring, serve
from common.runtime.settings import EdgeSettings, load
from common.wire.codec import unpack
from common.wire.fields import Amount, Count, Message, Name, Value

STREAM, GROUP = streams.PACKETS, streams.GROUPS[streams.PACKETS]
FIELD = streams.DATA_FIELD
READ = 128
COUNTS = streams.side_key(STREAM, "counts")


class Record(Value):
    name: Name
    count: Count
    weight: Amount


class Reading(Message):
    """3 KB as a packet once was: a basin, a text, some records. due_s: when it was to be sent, monotonic."""

    due_s: Amount
    basin: Annotated[tuple[Amount, ...], Len(64, 64)]
    text: Annotated[str, Len(0, 2048)]
    records: Annotated[tuple[Record, ...], Len(0, 8)]


class PlainRecord(BaseModel):
    name: str
    count: int
    weight: float


class PlainReading(BaseModel):
    """The same for FastStream, whose JSON has no tuples."""

    v: int
    due_s: float
    basin: list[float]
    text: str
    records: list[PlainRecord]


def reading(due_s):
    records = tuple(Record(name=f"record-{n}", count=n, weight=n / 3.0) for n in range(8))
    return Reading(due_s=due_s, basin=(1 / 64,) * 64, text="x" * 2048, records=records)


class Tally:
    """What was handled, when, and at which cost of this process."""

    def __init__(self, count):
        self.count, self.handled, self.done = count, 0, asyncio.Event()
        self.took = []
        self._began = None

    def add(self, due_s, number=1):
        now = time.monotonic()
        if self._began is None:
            self._began = now, time.process_time()
        if due_s:
            self.took.append((due_s, now - due_s))
        self.handled += number
        if self.handled >= self.count:
            self.done.set()

    def told(self):
        began, used = self._began or (time.monotonic(), time.process_time())
        spent = {"seconds": time.monotonic() - began, "processor_s": time.process_time() - used}
        return {"handled": self.handled, "took": self.took} | spent


class Dropped(SpanExporter):
    def export(self, spans):  # noqa: ARG002 -- its signature
        return SpanExportResult.SUCCESS


async def be_qig(url, tally, *, together=True, effect=False, named=False, traced=False):
    if traced:
        tracing.begin(Spans(BatchSpanProcessor(Dropped()), "edge", "one"))

    async def handle(_delivery, message):
        tally.add(message.due_s)
        return [HashAdd(COUNTS, "all", 1)] if effect else []

    async def handle_read(given):
        return [await handle(delivery, message) for delivery, message in given]

    consumer = Consumer(
        STREAM,
        GROUP,
        lambda body: unpack(Reading, body),
        handle,
        max_records=READ,
        cause=(lambda delivery, _: causes.query("one", delivery.entry_id)) if named or traced else None,
        **({"handle_read": handle_read, "at_once": 2} if together else {}),
    )
    settings = load(EdgeSettings, {"QIG_BROKER_URL": url, "QIG_HTTP_PORT": "0"})

    async def build(_broker):
        return Wiring(consumers=[consumer])

    await serve(settings, service="edge", build=build, stop=tally.done, on_start=lambda _: say_reading())


async def be_redis(url, tally, *, validated):
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        say_reading()
        while not tally.done.is_set():
            answer = await redis.xreadgroup(GROUP, "one", {STREAM: ">"}, count=100, block=1000)
            for _, entries in answer:
                for _, fields in entries:
                    tally.add(unpack(Reading, fields[FIELD.encode()]).due_s if validated else 0.0)
                await redis.xack(STREAM, GROUP, *(entry for entry, _ in entries))


async def be_faststream(url, tally):
    async with Redis.from_url(url) as redis:
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)  # else it begins behind what is there
    broker = RedisBroker(url, logger=None)

    @broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="one"))
    async def handle(message: PlainReading) -> None:
        tally.add(message.due_s)

    await broker.start()
    say_reading()
    await tally.done.wait()
    await broker.stop()


def say_reading():
    print("reading", flush=True)


KINDS = {
    "qig": be_qig,
    "qig, an effect": lambda url, tally: be_qig(url, tally, effect=True),
    "qig, one by one": lambda url, tally: be_qig(url, tally, together=False),
    "qig, named": lambda url, tally: be_qig(url, tally, together=False, named=True),
    "qig, traced": lambda url, tally: be_qig(url, tally, together=False, traced=True),
    "redis-py": lambda url, tally: be_redis(url, tally, validated=False),
    "redis-py, validated": lambda url, tally: be_redis(url, tally, validated=True),
    "FastStream": be_faststream,
}


async def main(name, url, count):
    tally = Tally(count)
    gc.freeze()  # as a service of ours does; it helps the others as well
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, tally.done.set)
    work = asyncio.create_task(KINDS[name](url, tally))
    await asyncio.wait({work, asyncio.create_task(tally.done.wait())}, return_when=asyncio.FIRST_COMPLETED)
    print(json.dumps(tally.told()), flush=True)
    if work.done():
        await work
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
