"""The aggregator: the shell around the pure rooms beside it. `python -m services.aggregator.app` starts one.

packets.py     qig:packets ──▶ admit ─▶ the ledger, or refused ─▶ qig:returned
batches.py     tick cut    ──▶ due? cut, tally, gather ─────────▶ qig:batches, qig:common, qig:returned
pool.py        what waits for a quorum, and what batches under way have of it
window.py      qig:bundles ──▶ what packets may be based on
enrolment.py   who may send any
hashes.py      what all of it keeps in the broker
"""

from typing import Final

from common.runtime import causes, keys, streams
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.follower import Follower
from common.runtime.heart import heart
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import AggregatorSettings
from common.runtime.trust import Trust
from services.aggregator.app.batches import Batches
from services.aggregator.app.enrolment import Enrolment
from services.aggregator.app.packets import Packets
from services.aggregator.app.standings import Standings
from services.aggregator.app.window import Window

CUT_EVERY_S: Final = 1.0
PACKETS_READ: Final = 32  # chosen: together they hold the processor for some 15 ms
# Chosen. A process that dies holds packets that it has not looked at yet; five that die one after the other, as of any
# other stream, would bury them.
MAX_DELIVERIES: Final = 20


class Aggregator:
    """One aggregator: its themes around the bundles and the enrolment that they share."""

    def __init__(self, settings: AggregatorSettings, broker: Broker, trust: Trust) -> None:
        """Raises Unavailable("missing_key"), Rejected("bad_key")."""
        enrolment = Enrolment(settings.home)
        standings = Standings(broker, enrolment)
        self.window = Window(broker, trust, quorum=settings.crystal_edges > 1)
        self.packets = Packets(broker, self.window, enrolment, standings, most=settings.node_packets)
        self.batches = Batches(settings, broker, self.window, enrolment, standings, self.packets.read)


async def build(settings: AggregatorSettings, broker: Broker) -> Wiring:
    """Raises Unavailable("missing_root") without a root to believe bundles by."""
    aggregator = Aggregator(settings, broker, Trust(broker.redis, keys.load_root(settings.home)))
    window, packets = aggregator.window, aggregator.packets
    return Wiring(
        consumers=[
            Consumer(
                streams.PACKETS,
                streams.GROUPS[streams.PACKETS],
                packets.open,
                packets.take,
                max_deliveries=MAX_DELIVERIES,
                max_records=PACKETS_READ,
                handle_read=packets.take_read,
                cause=lambda _, envelope: causes.packet(envelope.ref),
            )
        ],
        followers=[Follower(streams.BUNDLES, await window.first_position(), window.follow)],
        ticks=[
            Tick("cut", CUT_EVERY_S, aggregator.batches.cut_due),
            heart(broker, "aggregator", settings.node, bundle=lambda: window.version, ready=window.ready),
        ],
        ready=window.ready,
    )


def main() -> None:
    """`python -m services.aggregator.app`: settings from the environment (docs/settings.md), until SIGTERM."""
    run("aggregator", AggregatorSettings, build)
