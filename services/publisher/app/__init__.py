"""The publisher's shell around the pure rooms beside it: candidates become bundles or refusals; edges' verdicts count.

    candidates.py   qig:candidates ─▶ judge ─▶ every new part read and verified ─▶ sign
                        ─▶ {current, released, metadata} + Bundle to the outbox + acknowledgement     one transaction
                        └▶ refused: {refused: id ─▶ reasons} + its packets Returned, then a dead letter
    releases.py     what a release follows, makes and undoes
                    tick trust ─▶ {metadata}, when it is not there, an hour old, or the keys are others
                    qig:bundles ─▶ gauges
    blobs.py        tick blobs ─▶ deletes what no listed bundle and no candidate names
    rings.py        tick rings ─▶ opens a release to everybody, or takes it back, by what those say who got it first
    verdicts.py     qig:applied ─▶ the fleet as it reports, gauges
    state.py        what is kept in the broker

Nothing that outlives a process is kept anywhere else: two publishers may run, and either may be killed at any moment.
"""

import math
from functools import partial
from typing import Final

from common.runtime import causes, streams
from common.runtime.broker import Broker
from common.runtime.consumer import Consumer
from common.runtime.follower import FROM_START, Follower
from common.runtime.heart import heart
from common.runtime.service import Tick, Wiring, run
from common.runtime.settings import PublisherSettings
from common.wire.codec import unpack
from common.wire.messages import Candidate
from services.publisher.app.blobs import Blobs
from services.publisher.app.candidates import MAX_DELIVERIES, Candidates
from services.publisher.app.releases import Releases
from services.publisher.app.rings import Rings
from services.publisher.app.verdicts import Verdicts
from services.publisher.policy import Limits

TRUST_EVERY_S: Final = 10.0  # how soon after `qig keys rotate` the new keys are in force
RINGS_EVERY_S: Final = 2.0
BLOBS_EVERY_S: Final = 60.0


class Publisher:
    """The publisher: its themes around the releases that they share."""

    def __init__(self, settings: PublisherSettings, broker: Broker) -> None:
        """Raises Unavailable: "missing_key" without the private key, "missing_root" without what names it."""
        self.verdicts = Verdicts(broker)
        self.releases = Releases(settings, broker, self.verdicts)
        self.candidates = Candidates(broker, self.releases, Limits(regress_limit=settings.regress_limit))
        self.rings = Rings(settings.home, self.releases, self.verdicts)
        self.blobs = Blobs(broker, self.releases)


async def build(settings: PublisherSettings, broker: Broker) -> Wiring:
    """Raises Unavailable: "missing_key" without the publisher's private key, "missing_root" without what names it."""
    publisher = Publisher(settings, broker)
    candidates = Consumer(
        streams.CANDIDATES,
        streams.GROUPS[streams.CANDIDATES],
        decode=partial(unpack, Candidate),
        handle=publisher.candidates.take,
        max_records=1,
        max_deliveries=MAX_DELIVERIES,
        give_up_after_s=math.inf,  # the trainer waits for a word, and what is given up here has none
        cause=lambda _, candidate: causes.candidate(candidate),
    )
    return Wiring(
        consumers=[candidates],
        followers=[
            Follower(streams.BUNDLES, FROM_START, publisher.releases.show),
            Follower(streams.APPLIED, await publisher.verdicts.catch_up(), publisher.verdicts.hear),
        ],
        ticks=[
            Tick("trust", TRUST_EVERY_S, publisher.releases.renew),
            Tick("rings", RINGS_EVERY_S, publisher.rings.watch),
            Tick("blobs", BLOBS_EVERY_S, publisher.blobs.sweep),
            heart(broker, "publisher", settings.node, bundle=lambda: publisher.releases.version, ready=lambda: None),
        ],
    )


def main() -> None:
    """Process entry."""
    run("publisher", PublisherSettings, build)
