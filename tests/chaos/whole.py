"""The whole world: the services themselves, one fleet for all scenarios, as patient as they are.

Each edge, the aggregator, the trainer and the publisher meet the broker by a wire of their own. In each scenario
clients ask and have texts read while faults happen; then everything must have settled: every query answered once, every
packet that an edge ever sealed in exactly one bundle, and the newest memories what an undisturbed run's packets give.
"""

import asyncio
import itertools
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Unpack

from checker import REPLAYED
from faults import Machine, MortalBroker, Played, World, happen
from live_counts import MASS_CAP, check_counts
from live_fleet import EDGES, Live, begin, narrow, passages, prepared
from load import ask_until_told
from micro import make_parts
from proxy import Proxy
from scenario import WHOLE, WHOLE_S, Scenario, whole

from common.client import Client, Wishes
from common.runtime import streams
from common.runtime.connection import connect
from common.wire.codec import pack
from common.wire.inference import Answer, Query
from services.cli.fleet import Fleet

SERVICES = ("publisher", "aggregator", "trainer", *EDGES)
READ = 10  # passages a scenario: 19 KB, so that some domain sleeps
ANSWERED_S = 120.0
READY_S = 120.0


class Clients:
    """Clients that ask until they are told; as a desk, to the load of the live tests. asked: by query id."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.asked: dict[str, asyncio.Task[Answer]] = {}
        self.queries: list[Query] = []
        self._names = (f"q-{number}" for number in itertools.count())

    def send(self, text: str, **wishes: Unpack[Wishes]) -> None:
        name = wishes["id"] = next(self._names)
        self.queries.append(Query(text=text, client=self.client.name, **wishes))
        self.asked[name] = asyncio.create_task(ask_until_told(self.client, text, **wishes), name=name)

    async def all_answered(self) -> list[str]:
        """What those were told, at the deadline at the latest, that were given no answer."""
        _, late = await asyncio.wait(self.asked.values(), timeout=ANSWERED_S)
        for task in late:
            task.cancel()
        told = await asyncio.gather(*self.asked.values(), return_exceptions=True)
        pairs = zip(self.asked, told, strict=True)
        return [f"query {name} was answered with {what!r}" for name, what in pairs if not isinstance(what, Answer)]


class Service:
    """A member of the fleet, killed by its supervisor's hand and started again. deaths: that were wanted."""

    def __init__(self, fleet: Fleet, node: str) -> None:
        self._fleet, self._node = fleet, node
        self.deaths = 0

    @property
    def pid(self) -> int | None:
        return self._fleet.members[self._node].pid

    async def kill(self, down_s: float) -> None:
        self.deaths += 1
        await self._fleet.kill(self._node, hold=True)
        await asyncio.sleep(down_s)
        await self._fleet.restart(self._node)

    def ended(self) -> list[str]:
        """Deaths that nobody wanted."""
        more = self._fleet.members[self._node].child.starts - 1 - self.deaths
        return [f"{self._node} ended {more} times by itself"] if more else []


class Whole:
    """A running fleet to play scenarios with."""

    def __init__(self, live: Live, broker: MortalBroker, services: list[Service], wires: list[Proxy]) -> None:
        self._live, self._broker, self._services, self._wires = live, broker, services, wires

    async def play(self, scenario: Scenario) -> tuple[list[str], list[str]]:
        """The complaints about one scenario, and the faults that could not be made here."""
        live = self._live
        async with Client(self._broker.running.url, name=f"chaos-{scenario.seed}") as client:
            clients = Clients(client)

            async def again(whom: int) -> None:
                packets = [(streams.PACKETS, raw) for raw, _ in live.sent()]
                queries = [(streams.QUERIES, pack(query)) for query in clients.queries]
                sent = (packets or queries) if whom % 2 else queries
                stream, message = sent[whom % len(sent)]
                await live.redis.xadd(stream, {streams.DATA_FIELD: message})

            world = World(self._broker, live.redis, self._services, self._wires, tuple(streams.GROUPS), again)
            async with live.traffic(clients):
                await live.read(clients, READ)
                faults = [happen(world, fault) for fault in scenario.faults]
                missed, _ = await asyncio.gather(asyncio.gather(*faults), asyncio.sleep(WHOLE_S))
            found = [*await clients.all_answered(), *await self._settled(clients)]
        return found, [reason for reason in missed if reason]

    async def _settled(self, clients: Clients) -> list[str]:
        live = self._live
        await live.fleet.wait_all_ready(READY_S)
        answers = Counter(answer.query_id for answer in await live.answers(clients))
        found = [f"query {name} has {number} answers" for name, number in answers.items() if number != 1]
        found += [f"query {name} has no answer in its stream" for name in clients.asked.keys() - answers.keys()]
        try:
            await live.settled()
            await check_counts(live, refused=(REPLAYED,))
        except AssertionError as error:
            found.append(str(error))
        for stream, group in streams.GROUPS.items():
            pending = (await live.redis.xpending(stream, group))["pending"]
            found += [f"{stream}: {pending} pending"] if pending else []
        return found + [end for service in self._services for end in service.ended()]


@asynccontextmanager
async def playing(machine: Machine) -> AsyncIterator[Callable[[int], Awaitable[Played]]]:
    """Plays the scenario of a seed, in one fleet for all: what one leaves behind is the next one's."""
    home = machine.folder("whole")
    broker = MortalBroker(home, machine, set(WHOLE))
    await broker.rise()
    async with AsyncExitStack() as stack:
        stack.callback(broker.end)
        wires = [Proxy(broker.port) for _ in SERVICES]
        for wire in wires:
            await wire.start()
            stack.push_async_callback(wire.stop)
        redis = await stack.enter_async_context(connect(broker.running.url))
        corpora = prepared(home / "fleet", narrow(make_parts()))
        fleet = await stack.enter_async_context(Fleet(home / "fleet", broker_url=broker.running.url))
        urls = {node: wire.url for node, wire in zip(SERVICES, wires, strict=True)}
        await begin(fleet, corpora, wires=urls, mass_cap=MASS_CAP)
        services = [Service(fleet, node) for node in SERVICES]
        world = Whole(Live(fleet, redis, passages()), broker, services, wires)

        async def play(seed: int) -> Played:
            scenario = whole(seed)
            return scenario, *await world.play(scenario)

        yield play
    shutil.rmtree(home)
