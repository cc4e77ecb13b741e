"""Services that answer a request at once, as redis-py, FastStream and taskiq do it: the peers of benchmarks/query.py.

    python benchmarks/peers/request.py NAME URL QUERIES EVERY TEXT ...

NAME: redis, faststream or taskiq; arrivals are Poisson, EVERY seconds apart in the mean, and take turns with the texts.
In a process of its own, because another Python may be the one that has the peer.
"""

import asyncio
import os
import random
import sys
import time

from common.runtime.connection import connect


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def request_redis(url):
    """A stream there and a stream back, as plain as redis-py does it."""
    there, back = connect(url), connect(url)

    async def serve():
        last = "$"
        while True:
            for _, entries in await there.xread({"bench:there": last}, block=1000):
                for last, fields in entries:  # noqa: B007 -- the last one read is where the next read begins
                    await there.xadd("bench:back", fields)

    waiting, replies = {}, "0"

    async def read():
        nonlocal replies
        while True:
            for _, entries in await back.xread({"bench:back": replies}, block=1000):
                for replies, fields in entries:  # noqa: B007
                    waiting.pop(fields[b"id"]).set_result(None)

    asking = connect(url)
    tasks = [asyncio.create_task(serve()), asyncio.create_task(read())]
    await asyncio.sleep(0.2)

    async def ask(number, text):
        done = waiting[str(number).encode()] = asyncio.get_running_loop().create_future()
        await asking.xadd("bench:there", {"id": str(number), "text": text})
        await done

    return ask, tasks


async def request_faststream(url):
    from faststream.redis import RedisBroker  # noqa: PLC0415 -- the peer's own process imports it

    broker = RedisBroker(url, logger=None)

    @broker.subscriber("bench:faststream")
    async def serve(text: str) -> str:
        return text

    await broker.start()

    async def ask(_, text):
        await broker.request(text, "bench:faststream", timeout=10)

    return ask, [serve]


async def request_taskiq(url):
    from taskiq.receiver import Receiver  # noqa: PLC0415
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker  # noqa: PLC0415

    broker = RedisStreamBroker(url).with_result_backend(RedisAsyncResultBackend(url))

    @broker.task
    async def serve(text: str) -> str:
        return text

    await broker.startup()
    work = asyncio.create_task(Receiver(broker).listen(asyncio.Event()))

    async def ask(_, text):
        task = await serve.kiq(text)
        await task.wait_result(check_interval=0.001, timeout=10)

    return ask, [work]


async def be_peer(name, url, queries, every, texts):
    ask, kept = await {"redis": request_redis, "faststream": request_faststream, "taskiq": request_taskiq}[name](url)
    chance, asked = random.Random(1), []

    async def timed_ask(number):
        began = time.perf_counter()
        await ask(number, texts[number % len(texts)])
        return time.perf_counter() - began

    for number in range(20):
        await timed_ask(number)
    for number in range(queries):
        asked.append(asyncio.create_task(timed_ask(number)))
        await asyncio.sleep(chance.expovariate(1.0 / every))
    took = await asyncio.gather(*asked)
    assert kept
    for share, label in ((0.5, "p50"), (0.99, "p99")):
        print(f"request and reply, {label}\t{quantile(took, share)}")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(be_peer(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]))
