"""The light world: small processes (small.py) on an embedded broker, a load, and faults; two seconds a scenario."""

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import small
from checker import Left, Letter, Work, complaints
from faults import Machine, MortalBroker, Played, World, happen
from load import CLIENT, Load
from proxy import Proxy
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from scenario import NODES, Scenario, light

from common.client import Client
from common.runtime import streams
from common.runtime.connection import connect
from common.wire.codec import unpack
from common.wire.inference import Answer, Query
from common.wire.messages import DeadLetter

RESTART_S = 0.05
LOOK_S = 0.02
SETTLE_S = 20.0
STOP_S = 10.0
DEADLY = 9  # the code with which a deadly message ends a process
OF_WIRES = {"cut", "silence", "slow"}  # without any of these no wire is put between


def _processes() -> multiprocessing.context.ForkServerContext:
    """Where small processes come from: a server that has imported all they need, and forks."""
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small"])
    return context


class Node:
    """A small process, started again whenever it ends."""

    def __init__(self, context, url: str, home: Path, name: str, *, direct: bool, deadly: bool) -> None:
        self.name = name
        self.ended: list[str] = []  # how it ended when nobody ended it
        self._allowed = {DEADLY} if deadly else set()
        self._make = lambda: context.Process(
            target=small.live, args=(url, str(home), name), kwargs={"direct": direct}, daemon=True
        )
        self._process = None
        self._killed = False
        self._down_s = RESTART_S

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.is_alive() else None

    async def run(self) -> None:
        """Supervise for ever."""
        while True:
            self._process = self._make()
            self._killed, self._down_s = False, RESTART_S
            self._process.start()
            while self._process.is_alive():  # noqa: ASYNC110 -- a process tells nobody of its end
                await asyncio.sleep(LOOK_S)
            code = self._process.exitcode
            if not self._killed and code not in self._allowed:
                self.ended.append(f"{self.name} ended with code {code}")
            await asyncio.sleep(self._down_s)

    async def kill(self, down_s: float) -> None:
        self._killed, self._down_s = True, down_s
        if self._process:
            self._process.kill()

    async def stop(self) -> None:
        """End it in good order."""
        if self.pid is None:
            return
        self._process.terminate()
        await asyncio.to_thread(self._process.join, STOP_S)
        # By the signal, if it had only just been started.
        if self._process.exitcode not in (0, -signal.SIGTERM) and not self._killed:
            self.ended.append(f"{self.name} stopped with code {self._process.exitcode}")
            self._process.kill()


@asynccontextmanager
async def playing(machine: Machine) -> AsyncIterator[Callable[[int], Awaitable[Played]]]:
    """Plays the scenario of a seed, in a folder of its own, which stays with the logs when it failed."""
    small.hurry()
    context = _processes()

    async def play(seed: int) -> Played:
        scenario = light(seed)
        home = machine.folder(str(seed))
        try:
            found, missed = await _play(scenario, machine, context, home)
        except Exception as error:  # noqa: BLE001 -- the others are played all the same
            found, missed = [f"it could not be played to its end: {error!r}"], []
        if found:
            found.append(f"logs: {home}")
        else:
            shutil.rmtree(home)
        return scenario, found, missed

    yield play


async def _play(scenario: Scenario, machine: Machine, context, home: Path) -> tuple[list[str], list[str]]:
    """The complaints, and the faults that could not be made here."""
    broker = MortalBroker(home, machine, {fault.what for fault in scenario.faults})
    await broker.rise()
    try:
        url = broker.running.url
        async with (
            connect(url) as redis,
            Client(url, name=CLIENT) as client,
            _nodes(scenario, context, broker, home) as (nodes, wires),
        ):
            load = Load(client, redis, scenario)
            world = World(broker, redis, nodes, wires, small.CONSUMED, load.again)
            missed = await _run(world, load, scenario)
            left = await _settled(world, home, names_go=not scenario.turns_back)
    finally:
        broker.end()
    left = replace(left, ended=[end for node in nodes for end in node.ended])
    found = complaints(load.told, left, forgot=scenario.forgets, turned_back=scenario.turns_back)
    return found, [reason for reason in missed if reason]


@asynccontextmanager
async def _nodes(
    scenario: Scenario, context, broker: MortalBroker, home: Path
) -> AsyncIterator[tuple[Sequence[Node], Sequence[Proxy]]]:
    wired = bool(OF_WIRES & {fault.what for fault in scenario.faults})
    wires = [Proxy(broker.port) for _ in NODES]
    for wire in wires:
        await wire.start()
    deadly = any(asked.kind == "deadly" for asked in scenario.queries)
    urls = [wire.url if wired else broker.running.url for wire in wires]
    nodes = [
        Node(context, url, home, name, direct=scenario.direct, deadly=deadly)
        for name, url in zip(NODES, urls, strict=True)
    ]
    running = [asyncio.create_task(node.run()) for node in nodes]
    try:
        yield nodes, wires
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.gather(*(node.stop() for node in nodes))
        for wire in wires:
            await wire.stop()


async def _run(world: World, load: Load, scenario: Scenario) -> list[str | None]:
    """The load, and the faults meanwhile; both to their end, or the deadline."""
    loading = asyncio.create_task(load.run())
    missed = await asyncio.gather(*(happen(world, fault) for fault in scenario.faults))
    await asyncio.wait([loading], timeout=SETTLE_S)
    if loading.done():
        await loading
    else:
        loading.cancel()
        await asyncio.wait([loading])
    return missed


async def _settled(world: World, home: Path, *, names_go: bool) -> Left:
    """What is left once nothing is on its way any more, or at the deadline. names_go: consumers' names, too."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + SETTLE_S
    while True:
        left = await _left(world.redis, world.victims, home)
        if loop.time() > deadline or not _on_the_way(left, names_go=names_go):
            return left
        await asyncio.sleep(LOOK_S)


def _on_the_way(left: Left, *, names_go: bool) -> bool:
    waiting = any(work.length or work.pending or work.outbox for work in left.work.values())
    names = [name for work in left.work.values() for name in work.consumers]
    gone = names_go and any(int(name.split(".")[1]) not in left.alive for name in names)
    deaf = any(set(left.news) - {entry for _, entry in heard} for heard in left.heard.values())
    return waiting or gone or deaf or left.ledger > 0


async def _left(redis: Redis, nodes: Sequence[Node], home: Path) -> Left:
    answers = [unpack(Answer, fields[b"__data__"]) for _, fields in await redis.xrange(streams.answers(CLIENT))]
    heard = {
        node.name: [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []
        for node in nodes
        for file in [home / f"{node.name}.heard"]
    }
    return Left(
        work={stream: await _work(redis, stream) for stream in small.CONSUMED},
        answers=[(answer.query_id, answer.text) for answer in answers],
        batches=[fields[b"__data__"] for _, fields in await redis.xrange(streams.BATCHES)],
        ledger=await redis.hlen(small.LEDGER),
        heard=heard,
        news=[entry.decode() for entry, _ in await redis.xrange(streams.COMMON)],
        alive=[node.pid for node in nodes],
    )


async def _work(redis: Redis, stream: str) -> Work:
    try:
        about = await redis.xinfo_stream(stream)
        pending = (await redis.xpending(stream, streams.GROUPS[stream]))["pending"]
        consumers = await redis.xinfo_consumers(stream, streams.GROUPS[stream])
    except ResponseError:  # nobody has made it again yet
        return Work(pending=1)
    rows = await redis.xrange(streams.dead(stream))
    return Work(
        length=about["length"],
        pending=pending,
        outbox=await redis.xlen(streams.outbox(stream)),
        added=about["entries-added"],
        counts={entry.decode(): int(number) for entry, number in (await redis.hgetall(small.counts(stream))).items()},
        letters=[_letter(unpack(DeadLetter, fields[b"__data__"])) for _, fields in rows],
        consumers=[row["name"].decode() for row in consumers],
    )


def _letter(letter: DeadLetter) -> Letter:
    text = letter.body.decode() if letter.stream == streams.PACKETS else unpack(Query, letter.body).text
    return Letter(letter.entry, letter.code, letter.reason, text)
