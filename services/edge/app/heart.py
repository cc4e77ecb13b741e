"""The heartbeat, and whether this edge answers."""

import asyncio
from itertools import islice
from typing import Final

from common.errors import Unavailable
from common.runtime import streams
from common.wire.codec import pack
from common.wire.fields import MAX_DOMAINS
from common.wire.messages import Heartbeat
from services.edge.app.health import Health
from services.edge.app.node import Node
from services.edge.app.queries import PROOF
from services.edge.scheduler import Scheduler

PROVE_EVERY_S: Final = 5.0
PROVE_TIMEOUT_S: Final = 10.0


class Heart:
    """Tells the fleet and the orchestrator how one edge is."""

    def __init__(self, node: Node, scheduler: Scheduler, health: Health) -> None:
        self._node = node
        self._scheduler = scheduler
        self._health = health

    async def beat(self) -> None:
        """Says that this edge lives and how its kernels are, and has the broker take clients' queries."""
        last = dict(islice(self._node.last.items(), MAX_DOMAINS))  # new territory may be one more
        scores = dict(islice(self._node.scores.items(), MAX_DOMAINS))
        fresh = await asyncio.to_thread(self._node.record.texts.fresh)
        told = Heartbeat(
            node=self._node.settings.node,
            service="edge",
            at_s=self._node.now(),
            bundle=self._node.serving.bundle if self._node.serving else 0,
            ready=self._node.serving is not None,
            phases={domain: each.phase for domain, each in last.items() if each.phase},
            phi={domain: each.phi for domain, each in last.items()},
            kappa={domain: each.kappa for domain, each in last.items()},
            bits_per_byte={domain: bundle for domain, (bundle, _) in scores.items()},
            local_bits_per_byte={domain: local for domain, (_, local) in scores.items()},
            fresh_bytes=sum(each.size_bytes for each in fresh),
        )
        await asyncio.wait([self._node.broker.tell(streams.HEART, pack(told))])  # one that is lost has a next one
        await self._node.broker.teach()  # each time: a server that began anew, or is master now, knows nothing

    def ready(self) -> str | None:
        """None once a bundle serves; that tokens come of it is for `prove` to say."""
        return None if self._node.serving else "waits for the first bundle"

    async def prove(self) -> None:
        """Has one token made as any other query's is, so that readiness is about answering, and not about a process.

        Raises Unavailable("no_token"). A waiting room that is full proves the same, and so does a token said lately.
        """
        if self._node.serving is None or self._scheduler.clock() - self._scheduler.said_s < PROVE_EVERY_S:
            return
        try:
            async with asyncio.timeout(PROVE_TIMEOUT_S):
                await self._scheduler.submit(PROOF, "proof").result()
        except TimeoutError:
            self._health.failed(f"proof at {self._node.now():.3f}")
            message = f"no token for {PROVE_TIMEOUT_S:g} s: restart this node if it lasts"
            raise Unavailable("no_token", message) from None
        except Unavailable as error:
            if error.code != "overloaded":
                raise
