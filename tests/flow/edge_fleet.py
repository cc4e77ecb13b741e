"""What an edge meets: a publisher that releases bundles, and clients that ask."""

from listing import list_releases
from nacl.signing import SigningKey

from common.runtime import keys, streams
from common.runtime.entries import Delivery, body_of
from common.runtime.settings import EdgeSettings, PrivacySettings
from common.wire.bundle import part_of, sign
from common.wire.codec import pack, unpack
from common.wire.inference import Answer, Query
from common.wire.messages import Applied, Candidate, Evidence

NODE = "node-1"
TEXT = "The king spake unto the people, and the people answered the king. "


class Publisher:
    """Releases parts under ascending versions."""

    def __init__(self, broker, home):
        self.broker, self.home, self.version = broker, home, 0
        self.released = {}

    async def release(self, parts, *, packets=(), key=None, flip=None, withhold=None, name=None):
        """flip: a path whose stored bytes are changed; withhold: one that is not stored; key: of somebody who can write
        into the stream, and is not the publisher.
        """
        self.version += 1
        candidate = Candidate(
            id=name or f"c{self.version}", parent=self.version - 1, parent_digest="ab" * 32 if self.version > 1 else "",
            parts={path: part_of(data) for path, data in parts.items()}, evidence=Evidence(), packets=tuple(packets),
        )  # fmt: skip
        for path, data in parts.items():
            if path != withhold:
                await self.broker.put_blob(data)
            if path == flip:
                await self.broker.redis.setrange(f"{streams.BLOB}{part_of(data).digest}:0", 5, b"\xff\xfe")
        own = keys.load_private(self.home, keys.PUBLISHER)
        bundle = sign(candidate, version=self.version, released_at_s=1.0, signing_key=key or own)
        if key is None:
            self.released[self.version] = pack(bundle)
            await list_releases(self.broker.redis, self.home, self.released)
        await self.broker.produce(streams.BUNDLES, pack(bundle), f"v{self.version}")
        return bundle


def settings_of(home, broker_url, **fields):
    keys.init(home, [NODE])
    basis = {"sleep_after_bytes": 200, "sleep_idle_s": 0.0, "probe_share": 1_000_000, "http_port": 0}
    return EdgeSettings(broker_url=broker_url, home=home, node=NODE, **(basis | fields))


def both_settings_of(home, broker_url, **fields):
    """An edge's settings and those of its privacy, from fields of either."""
    privacy = {name: fields.pop(name) for name in fields.keys() & PrivacySettings.model_fields.keys()}
    return settings_of(home, broker_url, **fields), PrivacySettings(**privacy)


def delivery_of(entry_id="1-0", stream=streams.QUERIES, body=b""):
    return Delivery(stream, entry_id, int(entry_id.partition("-")[0]), 1, body)


async def messages(redis, stream, cls):
    return [unpack(cls, body_of(fields)) for _, fields in await redis.xrange(stream)]


async def answers(redis, client="anonymous"):
    return await messages(redis, streams.answers(client), Answer)


async def packets(redis):
    return [body_of(fields) for _, fields in await redis.xrange(streams.PACKETS)]


async def verdicts(redis):
    return [(told.version, told.verdict) for told in await messages(redis, streams.APPLIED, Applied)]


async def bundles_to(edge, redis):
    """What a follower does: hands the edge every release after the last one that it handled, in order."""
    position = getattr(edge, "position", edge.bundles.follow_from)
    for entry_id, fields in await redis.xrange(streams.BUNDLES, min=f"({position}"):
        await edge.bundles.on_bundle(delivery_of(entry_id.decode(), streams.BUNDLES, body_of(fields)))
        edge.position = entry_id.decode()


async def commons_to(edge, redis):
    """The same with what is common."""
    position = getattr(edge, "common_position", edge.commons.follow_from)
    for entry_id, fields in await redis.xrange(streams.COMMON, min=f"({position}"):
        await edge.commons.on_common(delivery_of(entry_id.decode(), streams.COMMON, body_of(fields)))
        edge.common_position = entry_id.decode()


async def read(edge, number, text=TEXT, first=0):
    """The edge reads `number` texts and is asked for no answer."""
    for n in range(first, first + number):
        await edge.queries.on_query(delivery_of(f"{n + 1}-0"), Query(text=text, max_tokens=0, id=f"q{n}"))


def other_key():
    return SigningKey(b"\7" * 32)
