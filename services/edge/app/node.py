"""What the themes of one edge share: its settings, broker and record, what serves, and what they tell each other."""

import asyncio
import time
from collections.abc import Callable, Sequence

from nacl.signing import SigningKey

from common.runtime import keys
from common.runtime.broker import Broker
from common.runtime.settings import EdgeSettings, PrivacySettings
from common.wire.inference import Answer
from services.edge.answer import Gauges, Serving
from services.edge.learning import relearned
from services.edge.live import Live
from services.edge.record import Domain, Record


class Node:
    """One edge node while it runs. now: seconds since 1970, by a clock that may be set; steady: by one that never is,
    since any moment of this life.

    serving: what answers, one reference: a query uses the one it began with to its end.
    learning: held by whatever folds, settles, forgets, judges or prunes: all read residues and write them.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        broker: Broker,
        record: Record,
        *,
        privacy: PrivacySettings,
        now: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises Unavailable("missing_key", "missing_secret"), Rejected("bad_key")."""
        self.settings = settings
        self.privacy = privacy
        self.broker = broker
        self.record = record
        self.now = now
        self.steady = steady
        self.key: SigningKey = keys.load_private(settings.home, settings.node)
        self.secret: bytes | None = _secret(settings, privacy)
        self.learning = asyncio.Lock()
        self.live = Live(settings.node)
        self.serving: Serving | None = None
        self.gauges: Gauges = {}
        self.last: dict[str, Answer] = {}  # by domain: what the heartbeat tells
        self.scores: dict[str, tuple[float, float]] = {}  # by domain: of the last fold, by the bundle and as answered
        self.asked_s = 0.0

    async def relearn(self, domains: Sequence[Domain] | None) -> None:
        """Lets what the record holds of these domains (None: of all) answer from now on; queries go on meanwhile.

        Under the learning lock, as whatever else changes what serves.
        """
        if self.serving is not None:
            self.serving = await asyncio.to_thread(relearned, self.record, self.serving, domains)


def _secret(settings: EdgeSettings, privacy: PrivacySettings) -> bytes | None:
    """What this edge mentions with. An edge that is not private does without: then it proposes no merges."""
    path = privacy.fleet_secret or keys.secret_path(settings.home)
    return keys.load_secret(path) if privacy.private != "off" or path.exists() else None
