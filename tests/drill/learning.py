"""What is trained and judged: text that harms, documents that are none, a disk that hangs."""

import asyncio
import contextlib
import json
import os
import random
import urllib.request

from live_fleet import EDGES, Live, passages, prepared, settings_for, until
from micro import SENTENCES, make_parts
from stage import PATIENCE_S, Drill

from common.constants import ROLES
from common.runtime import keys, streams
from common.runtime.broker import Broker
from common.runtime.connection import connect
from common.wire.messages import Batch
from services.aggregator.app.accounts import disown
from services.cli.fleet import Fleet
from services.trainer.app import RUNS
from services.trainer.corpora import document
from services.trainer.corpora.split import split

SOUND, POISONED = EDGES
STEPS = 50
ZEROES = 20_000  # bytes: most of what a state is trained on
WORDS = 200
EVERY_S = 0.3
LONG_ENOUGH = "count_over_time(qig_candidates_total[1m]) > 15"  # of a shorter series increase() makes more than it has


async def play(scratch):
    home = scratch / "home"
    corpora = prepared(home, make_parts())
    sound = {role: (corpora / f"{role}.jsonl.gz").read_bytes() for role in ROLES}
    spoil(corpora)
    async with Fleet(home) as fleet, connect(fleet.broker_url) as redis:
        settings = settings_for(fleet, corpora, batch_packets=1)
        settings |= {"publisher": {}, "trainer": settings["trainer"] | {"steps": STEPS}}  # the gate as it is shipped
        drill = Drill("learning", Live(fleet, redis, passages()), settings)
        await drill.start(*settings)
        await drill.ready()
        async with drill.watched(scratch):  # since the first release: none is seen until the faults have ended
            await until(lambda: drill.holds(LONG_ENOUGH), "a past of the counters", PATIENCE_S)
            async with told(drill, POISONED, out_of_order()):
                await drill.fires("GuardRestored", "CandidatesRefused")
            await fleet.kill("trainer", hold=True)
            for role, data in sound.items():
                (corpora / f"{role}.jsonl.gz").write_bytes(data)
            drill.clears("GuardRestored")
            keys.disown(home, POISONED)
            await disown(Broker(redis), POISONED)
            async with told(drill, SOUND, drill.live.passages):
                await a_disk_that_hangs(drill)
                drill.clears("CandidatesRefused")
                await drill.cleared()
    return drill.left


async def a_disk_that_hangs(drill):
    """A file of the batch's run is opened and does not come, as where a network's disk is gone: it is a pipe."""

    async def waiting():
        return [batch for batch in await drill.live.messages(streams.BATCHES, Batch) if batch.domains]

    batch = (await until(waiting, "a batch to learn from", PATIENCE_S))[0]
    run = drill.settings["trainer"]["genesis"].with_name(RUNS) / batch.id
    run.mkdir(parents=True, exist_ok=True)
    os.mkfifo(run / "before.jsonl")
    await drill.fleet.restart("trainer")
    await drill.fires("TrainerStuck")
    await drill.fleet.kill("trainer", hold=True)
    (run / "before.jsonl").unlink()
    await drill.fleet.restart("trainer")
    await drill.fleet.wait_ready("trainer", PATIENCE_S)
    drill.clears("TrainerStuck")


@contextlib.asynccontextmanager
async def told(drill, node, texts):
    """This edge alone is asked, and learns."""
    url = f"{drill.fleet.members[node].url}/v1/completions"

    def post(text):
        body = json.dumps({"model": "constellation", "prompt": text, "max_tokens": 1}).encode()
        asked = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
            answer.read()

    async def tell():
        while True:
            await asyncio.to_thread(post, next(texts))
            await asyncio.sleep(EVERY_S)

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()


def out_of_order():
    """Words of a domain that most texts are read by, and nothing that they say."""
    words, chance = SENTENCES["strategy"].split(), random.Random(7)
    while True:
        yield " ".join(chance.choices(words, k=WORDS))


def spoil(corpora):
    """Beside the documents that a state is trained on lies one that a disk has left as zeroes."""
    for role in ROLES:
        rows = document.documents(role, root=corpora)
        known = split(rows).train[0]
        zeroes = document.make(role, known.source, known.title, "\0" * ZEROES, parent=known.parent)
        (corpora / f"{role}.jsonl.gz").write_bytes(document.compress(document.pack([*rows, zeroes])))
