import pytest

from common.runtime import streams
from common.runtime.entries import body_of
from common.runtime.heart import heart
from common.wire.codec import unpack
from common.wire.messages import Heartbeat

pytestmark = pytest.mark.anyio


async def test_a_heartbeat_says_who_lives_and_whether_it_is_ready(broker):
    for node, reason in (("one", None), ("two", "no bundle")):
        await heart(broker, "trainer", node, bundle=lambda: 7, ready=lambda why=reason: why).run()
    beats = [unpack(Heartbeat, body_of(fields)) for _, fields in await broker.redis.xrange(streams.HEART)]
    assert [(b.service, b.node, b.bundle, b.ready) for b in beats] == [
        ("trainer", "one", 7, True),
        ("trainer", "two", 7, False),
    ]
