"""An edge: the shell around the pure rooms beside it. `python -m services.edge.app` starts one.

    queries.py       qig:queries ──▶ schedule, record ──▶ pieces, answer ───▶ qig:answers:CLIENT, as it is acknowledged
                     qig:cancel  ──▶ leave it after the slice that is being said
    bundles.py       qig:bundles ──▶ verify, fetch, try, swap, settle ──────▶ qig:applied
                     tick bundles ──▶ the same, for what was passed over while its list was withheld
    arrivals.py        which release is the newest, and a bundle's parts, by a thin link too
    health.py        tick health  ──▶ what is on trial: good, or gone back from
    common.py        qig:common  ──▶ what may be said from now on
    sleep.py         tick sleep  ──▶ fold what is due, send what is pending ▶ qig:packets
                     qig:returned ─▶ wait no longer for what the centre dropped
    interactions.py  tick prune  ──▶ delete what is too old or too much
    heart.py         tick heart  ──▶ how it goes ───────────────────────────▶ qig:heart
                     tick generate   one token, so that /readyz is about answering
    ../http/         HTTP        ──▶ ask, finish, forget, judge ────────────▶ its client
                     tick look   ◀── how the fleet goes, for the live page
    node.py          what these share

State lies under HOME/edges/NODE: edge.db (record/), bundles/ (slots.py) and trust/ (common/runtime/trust.py). Whatever
computes runs in a thread, so that leases, health and metrics go on. `serving` is one reference: a query uses the one it
began with to its end.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Final

from common.errors import QigError, Rejected
from common.runtime import keys, streams
from common.runtime.api_keys import KeyFile, default_path
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.follower import ONLY_NEW, Follower
from common.runtime.heart import HEART_EVERY_S
from common.runtime.http import base_url
from common.runtime.rates import Rates
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import DEFAULT_API, DEFAULT_PRIVACY, ApiSettings, EdgeSettings, PrivacySettings, load
from common.runtime.trust import Trust
from common.wire.codec import unpack
from common.wire.inference import Query
from services.edge.app.bundles import Bundles
from services.edge.app.common import Commons
from services.edge.app.health import WATCH_EVERY_S, Health
from services.edge.app.heart import PROVE_EVERY_S, Heart
from services.edge.app.interactions import Interactions
from services.edge.app.node import Node
from services.edge.app.queries import ACTIVE_MAX, QUERIES_READ, Queries, cause_of
from services.edge.app.sleep import Sleep
from services.edge.http.access import is_loopback, is_unspecified
from services.edge.http.guard import Access
from services.edge.http.live import with_page
from services.edge.http.lookout import LOOK_EVERY_S, Lookout
from services.edge.http.routes import application
from services.edge.record import Record
from services.edge.slots import Slots

SLEEP_CHECK_S: Final = 0.5
PRUNE_EVERY_S: Final = 60.0
LOOK_AGAIN_S: Final = 60.0


class Edge:
    """One edge: its themes around the node that they share. now, steady: as of Node."""

    def __init__(
        self,
        settings: EdgeSettings,
        broker: Broker,
        record: Record,
        slots: Slots,
        trust: Trust,
        *,
        privacy: PrivacySettings = DEFAULT_PRIVACY,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Unavailable("missing_key"), Rejected("bad_key", "bad_setting")."""
        self.node = Node(settings, broker, record, privacy=privacy, now=now, steady=steady)
        self.health = Health(self.node)
        self.queries = Queries(self.node, self.health)
        self.bundles = Bundles(self.node, slots, trust, self.health)
        self.commons = Commons(self.node)
        self.sleep = Sleep(self.node, self.queries.scheduler)
        self.interactions = Interactions(self.node)
        self.heart = Heart(self.node, self.queries.scheduler, self.health)

    async def start(self) -> None:
        """Starts the schedule, and serves what is installed, if anything is."""
        self.queries.scheduler.start()
        await self.bundles.start()

    async def stop(self) -> None:
        """Ends the schedule and closes the record: the last act."""
        self.node.live.ended = True
        await self.queries.scheduler.stop()
        await self.bundles.rest()
        self.node.record.close()


def state_dir(home: Path, node: str) -> Path:
    """Where a node keeps what it remembers."""
    return home / "edges" / node


def _trust(settings: EdgeSettings, broker: Broker) -> Trust:
    """Raises Unavailable("missing_root")."""
    return Trust(broker.redis, keys.load_root(settings.home), state_dir(settings.home, settings.node) / "trust")


def _address(settings: EdgeSettings) -> str:
    """Where this edge serves HTTP; empty while nobody knows, because any free port will do.

    On every address of this machine: by its name, for the file may lie in a volume that others mount too.
    """
    host = gethostname() if is_unspecified(settings.http_host) else settings.http_host
    return base_url(host, settings.http_port) if settings.http_port else ""


def _access(settings: EdgeSettings, api: ApiSettings) -> Access:
    """Who may ask over HTTP. Raises Rejected("no_api_keys") where others reach the address and nobody has a key."""
    found = KeyFile(api.api_keys or default_path(settings.home))
    loopback = is_loopback(settings.http_host)
    needed = not (api.api_open or loopback)
    if needed and not found.keys:
        message = (
            f"{settings.http_host} is an address that others reach, and {found.path} holds no key: make one with"
            " `qig keys api add NAME`, or listen on this machine alone (QIG_HTTP_HOST=127.0.0.1)"
        )
        raise Rejected("no_api_keys", message)
    rates = Rates(settings.broker_url, api.api_per_minute) if api.api_per_minute else None
    return Access(found, rates, needed=needed, local=loopback and not api.api_open)


async def build(
    settings: EdgeSettings,
    broker: Broker,
    api: ApiSettings = DEFAULT_API,
    privacy: PrivacySettings = DEFAULT_PRIVACY,
) -> Wiring:
    """The edge's parts. Raises Unavailable and Corrupt for a state directory or a key that cannot be used, and Rejected
    where others reach its API and there is no key for it.
    """
    home = state_dir(settings.home, settings.node)
    record = await asyncio.to_thread(Record, home / "edge.db", now_s=time.time(), address=_address(settings))
    try:
        access = _access(settings, api)
        slots = Slots(home / "bundles")
        edge = Edge(settings, broker, record, slots, _trust(settings, broker), privacy=privacy)
    except QigError:
        record.close()
        raise
    await edge.start()
    http = application(edge.queries, edge.interactions, access, created=int(time.time()))

    async def stop() -> None:
        await http.stop()
        await edge.stop()

    queries = Consumer(
        streams.QUERIES,
        streams.GROUPS[streams.QUERIES],
        lambda body: unpack(Query, body),
        edge.queries.on_query,
        at_once=ACTIVE_MAX,
        max_records=QUERIES_READ,
        turn_away=edge.queries.turn_away,
        cause=cause_of,
    )
    private = [Follower(streams.COMMON, edge.commons.follow_from, edge.commons.on_common)] if edge.node.secret else []
    return Wiring(
        consumers=[queries],
        followers=[
            Follower(streams.BUNDLES, edge.bundles.follow_from, edge.bundles.on_bundle),
            Follower(streams.RETURNED, edge.sleep.follow_from, edge.sleep.on_returned),
            Follower(streams.CANCEL, ONLY_NEW, edge.queries.on_cancel),
            *private,
        ],
        ticks=[
            Tick("sleep", SLEEP_CHECK_S, edge.sleep.round),
            Tick("bundles", LOOK_AGAIN_S, edge.bundles.look_again),
            Tick("health", WATCH_EVERY_S, edge.bundles.watch),
            Tick("prune", PRUNE_EVERY_S, edge.interactions.prune),
            Tick("heart", HEART_EVERY_S, edge.heart.beat),
            Tick("generate", PROVE_EVERY_S, edge.heart.prove),
            Tick("look", LOOK_EVERY_S, Lookout(edge.node.live, broker).look),
        ],
        app=with_page(http, edge.node.live),
        ready=edge.heart.ready,
        stopping=edge.bundles.arrivals.stopping,
        stop=stop,
    )


def main() -> None:
    """`python -m services.edge.app`: settings from the environment (docs/settings.md), until SIGTERM."""
    run(
        "edge",
        EdgeSettings,
        lambda settings, broker: build(settings, broker, load(ApiSettings), load(PrivacySettings)),
    )
