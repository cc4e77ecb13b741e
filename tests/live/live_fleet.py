"""A whole constellation of real processes for the live tests: what clients see of it, and what must be left."""

import asyncio
import contextlib
import dataclasses
import itertools
import sqlite3
from pathlib import Path

from corpora import small_corpora

from common.client import Client
from common.constellation import parts as bundle_parts
from common.constellation.domains import from_json
from common.errors import Corrupt, Rejected, Unavailable
from common.runtime import access, keys, store, streams
from common.runtime.connection import connect
from common.runtime.entries import body_of
from common.runtime.follower import kept, newest
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.inference import Answer
from common.wire.messages import Bundle, DeadLetter
from services.aggregator.app.hashes import LEDGER
from services.cli import home as places
from services.cli import probe
from services.cli.desk import Desk
from services.cli.fleet import Fleet
from services.trainer import folder
from services.trainer.corpora import document
from services.trainer.corpora.split import split

DATA = Path("data")
ROOT = "root"  # of a broker with users: a user of the tests alone, and its password
EDGES = ("edge-1", "edge-2")
SLEEP_AFTER_BYTES = 3_000
DEADLINE_S = 45.0
LOOK_S = 0.02  # at what a kill waits for
LOOK_FAR_S = 0.15  # at all bundles and both edges, which takes 20 ms of a processor
QUESTIONS = ("heron: a large wading bird", "Congress should", "The whale rose", "O sing to me of love")


async def until(condition, what, deadline_s=DEADLINE_S, look_s=LOOK_S):
    """What the condition (plain or async) gave once it was true; fails at the deadline, and says what did not come."""
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                held = condition()
                if held := await held if asyncio.iscoroutine(held) else held:
                    return held
                await asyncio.sleep(look_s)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s:g} s: {what}") from None


def passages():
    """Text that no kernel has seen, without end."""
    return itertools.cycle(each.text for each in split(document.documents("unseen/scripture", root=DATA)).train)


@dataclasses.dataclass
class Live:
    """A running fleet, a client for what the test looks at, and text to read."""

    fleet: Fleet
    redis: object
    passages: object

    @property
    def home(self):
        return self.fleet.home

    # What clients do

    @contextlib.asynccontextmanager
    async def desk(self):
        """A client of its own, whose answers are kept until it leaves."""
        async with Client(self.fleet.broker_url) as client:
            yield Desk(client)

    async def read(self, desk, number):
        """The edges are given that many passages to learn from."""
        return [desk.send(next(self.passages), max_tokens=0) for _ in range(number)]

    @contextlib.asynccontextmanager
    async def traffic(self, desk, every_s=0.15):
        """Ordinary questions the whole time; ends between two of them, so that each was really asked."""
        stop = asyncio.Event()

        async def ask():
            for number in itertools.count():
                desk.send(QUESTIONS[number % len(QUESTIONS)], max_tokens=8, store=False)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), every_s)
                    return

        asking = asyncio.create_task(ask())
        try:
            yield
        finally:
            stop.set()
            await asking

    async def arrival(self, stream):
        """Return as soon as the next entry comes to `stream`; also when it was finished between two looks."""
        position = await newest(self.redis, stream)

        async def came():
            return (
                await self.redis.xread({stream: position}, block=1_000) or await newest(self.redis, stream) != position
            )

        await until(came, f"an entry on {stream}")

    # What the fleet says

    async def messages(self, stream, cls):
        return [unpack(cls, body_of(entry.fields)) async for entry in kept(self.redis, stream)]

    async def bundles(self):
        """The releases by version: what else lies in the stream was not released, or is there again."""
        trust, found = Trust(self.redis, keys.load_root(self.home)), {}
        async for entry in kept(self.redis, streams.BUNDLES):
            with contextlib.suppress(Rejected, Corrupt):
                bundle = unpack(Bundle, body_of(entry.fields))
                await trust.verify(bundle.version, body_of(entry.fields))
                found[bundle.version] = bundle
        return [found[version] for version in sorted(found)]

    async def letters(self, stream):
        return await self.messages(streams.dead(stream), DeadLetter)

    async def answers(self, desk):
        return await self.messages(streams.answers(desk.client.name), Answer)

    async def version(self, node):
        """The bundle that an edge serves; None while it does not answer."""
        with contextlib.suppress(Unavailable):
            return await probe.gauge(self.fleet.members[node].url, "qig_bundle_version")

    async def newest_on_both_edges(self, above, deadline_s=DEADLINE_S):
        """The newest bundle, once it is newer than `above` and both edges serve it."""

        async def everywhere():
            last = (await self.bundles())[-1]
            served = {await self.version(node) for node in EDGES}
            return last if last.version > above and served == {float(last.version)} else None

        return await until(everywhere, f"a bundle after {above} on both edges", deadline_s, look_s=LOOK_FAR_S)

    async def parts(self, bundle):
        return {path: await store.get(self.redis, p.digest, p.size_bytes) for path, p in bundle.parts.items()}

    # What is left

    def rows(self, node, sql):
        """What an edge remembers; its file is only read."""
        path = places.node_dir(self.home, node) / "edges" / node / "edge.db"
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()

    def sent(self):
        """Every packet that an edge ever sealed, as its bytes, with what the edge believes of it."""
        return [row for node in EDGES for row in self.rows(node, "SELECT raw, status FROM packets ORDER BY sequence")]

    async def settled(self):
        """Return when nothing is on its way: no text that is due, no packet, no batch, no candidate."""
        await until(self._is_settled, "every packet in a bundle and every edge told", look_s=LOOK_FAR_S)

    async def _is_settled(self):
        due = f"SELECT sum(size_bytes) FROM interactions WHERE NOT folded AND NOT probe GROUP BY domain \
            HAVING sum(size_bytes) >= {SLEEP_AFTER_BYTES}"
        if any(self.rows(node, due) for node in EDGES) or {status for _, status in self.sent()} - {"acknowledged"}:
            return False
        return await self.at_rest()

    async def at_rest(self):
        """Whether the centre has nothing to do."""
        boxes = [name for stream in streams.GROUPS for name in (stream, streams.outbox(stream))]
        return not any([await self.redis.hlen(LEDGER), *[await self.redis.xlen(box) for box in boxes]])


def prepared(home, genesis, enrolled=EDGES, users=None):
    """A home with its genesis, its keys, its broker's users and texts to measure on: where these lie."""
    home.mkdir()
    if users is not None:
        access.make(home, users)
        with access.acl_path(home).open("a") as file:
            file.write(f"user {ROOT} on >{ROOT} ~* +@all\n")
    folder.write(genesis, places.genesis_dir(home))
    keys.init(home, enrolled)
    return small_corpora(home / "corpora")


def settings_for(fleet, corpora, *, sleep_after_bytes=SLEEP_AFTER_BYTES, **aggregator):
    """The settings of publisher, aggregator, trainer and two edges, by node: small thresholds, no training."""
    limits = {"batch_packets": 2, "batch_age_s": 0.3} | aggregator
    edges = {"sleep_after_bytes": sleep_after_bytes, "sleep_idle_s": 0, "probe_share": 1_000_000}
    return {
        "publisher": {"regress_limit": 1.0},  # an untrained kernel's figures are noise
        "aggregator": limits,
        "trainer": {"genesis": places.genesis_dir(fleet.home), "data": corpora, "steps": 0},
        **dict.fromkeys(EDGES, edges),
    }


async def begin(fleet, corpora, *, wires=None, **given):
    """These services, ready. wires: by name, by which address each meets the broker, when it is not the fleet's; given:
    as to `settings_for`.
    """
    for node, own in settings_for(fleet, corpora, **given).items():
        wire = {"broker_url": wires[node]} if wires else {}
        await fleet.start("edge" if node in EDGES else node, node, **own, **wire)
    await fleet.wait_all_ready()


@contextlib.asynccontextmanager
async def live(home, genesis, *, enrolled=EDGES, broker_url=None, users=None, **given):
    """A fleet. broker_url: None for an embedded broker of its own; given: as to `begin`.

    users: clients that have a user at the broker, and then each service has one; None: it has no users.
    """
    corpora = prepared(home, genesis, enrolled, users)
    async with Fleet(home, broker_url=broker_url) as fleet, connect(fleet.broker_url) as redis:
        await begin(fleet, corpora, **given)
        yield Live(fleet, redis, passages())


def narrow(parts):
    """The same constellation, whose domains reach less far: scripture is then new territory to them."""
    domains = {
        each.name: each.model_copy(update={"radius_rad": 0.4}) for each in from_json(parts[bundle_parts.DOMAINS])
    }
    return parts | bundle_parts.domains_part(domains)


def answered_once(desk, answers):
    """Whether each query that was asked at this desk has exactly one answer, and nothing else has one."""
    return sorted(answer.query_id for answer in answers) == sorted(desk.asked)
