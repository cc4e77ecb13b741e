"""A heartbeat: every few seconds a service says on `qig:heart` that it lives, what bundle it knows, if it is ready."""

import time
from collections.abc import Callable
from typing import Final

from common.runtime import streams
from common.runtime.broker import Broker
from common.runtime.service import Tick
from common.wire.codec import pack
from common.wire.messages import Heartbeat

HEART_EVERY_S: Final = 5.0  # `qig watch` calls a service silent after three


def heart(
    broker: Broker, service: str, node: str, *, bundle: Callable[[], int], ready: Callable[[], str | None]
) -> Tick:
    """The tick that beats. bundle: the version the service works with now, 0 for none; ready: why not, or None."""

    async def beat() -> None:
        told = Heartbeat(node=node, service=service, at_s=time.time(), bundle=bundle(), ready=ready() is None)
        await broker.produce(streams.HEART, pack(told), f"{node}:{service}:{told.at_s:.3f}")

    return Tick("heart", HEART_EVERY_S, beat)
