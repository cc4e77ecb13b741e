"""The blobs of releases: kept while somebody can need them, and not for ever."""

import pytest
from centre import decided

from common.errors import Rejected
from common.runtime import keys, scripts, streams
from common.runtime.effects import Send
from common.wire import bundle as bundles
from common.wire.codec import pack
from common.wire.messages import Candidate, Evidence, Part
from services.publisher import app, metadata
from services.publisher.app import blobs

pytestmark = pytest.mark.anyio
SHARED = b"every bundle has it"


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """What nobody names goes at once."""
    monkeypatch.setattr(blobs, "IDLE_S", 0.0)


async def offered(centre, number, *own, parent=None):
    """A candidate of parts that are its own, and one that all share; its parts are in the store."""
    content = dict(enumerate((SHARED, b"of %d" % number, *own)))
    parts = {
        f"part-{place}": Part(digest=await centre.broker.put_blob(data), size_bytes=len(data))
        for place, data in content.items()
    }
    known = bundles.digest(parent) if parent else ""
    return Candidate(
        id=f"c-{number}",
        parent=parent.version if parent else 0,
        parent_digest=known,
        parts=parts,
        evidence=Evidence(),
    )


async def released(centre, numbers):
    """So many releases in the stream, as the publisher's, each with a part of its own."""
    key, parent = keys.load_private(centre.home, keys.PUBLISHER), None
    for version in numbers:
        made = await offered(centre, version, parent=parent)
        parent = bundles.sign(made, version=version, released_at_s=float(version), signing_key=key)
        await centre.broker.produce(streams.BUNDLES, pack(parent), f"{version}")
    return parent


async def there(centre):
    """The digests of all blobs in the broker."""
    return {key.decode().split(":")[2] for key in await centre.broker.redis.keys(f"{streams.BLOB}*")}


def digests(*named):
    return {part.digest for each in named for part in each.parts.values()}


@pytest.mark.parametrize("count", [metadata.LISTED - 1, metadata.LISTED, metadata.LISTED + 6])
async def test_of_many_releases_the_blobs_of_those_that_are_listed_stay(centre, count):
    await released(centre, range(1, count + 1))
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    for _ in range(2):
        await publisher.blobs.sweep()
        assert await there(centre) == digests(*(await centre.bundles())[-metadata.LISTED :])
    assert len(await there(centre)) == 1 + min(count, metadata.LISTED)


async def test_only_a_release_that_is_listed_can_be_brought_back_for_the_parts_of_others_are_gone(centre):
    await released(centre, range(1, metadata.LISTED + 7))
    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    await publisher.blobs.sweep()
    with pytest.raises(Rejected, match=r"not_listed: there is no release 6 to go back to; .*there are: 7, 8, "):
        await publisher.releases.take_back(6, "by hand")
    assert await publisher.releases.take_back(7, "by hand") == (metadata.LISTED + 7, 7)


@pytest.mark.parametrize("where", ["stream", "outbox", "nowhere"])
async def test_the_blobs_of_a_candidate_stay_until_it_is_decided_on(centre, where):
    last = await released(centre, [1])
    waits = await offered(centre, 2, b"waits", parent=last)
    if where == "stream":
        await centre.offer(waits)
        await centre.broker.redis.xadd(streams.CANDIDATES, {"__data__": b"no candidate"})
    if where == "outbox":
        await scripts.commit(
            centre.broker.redis, streams.BATCHES, [Send(streams.CANDIDATES, pack(waits), waits.id)], direct=False
        )
    await app.Publisher(centre.settings("publisher"), centre.broker).blobs.sweep()
    assert await there(centre) == digests(last, *([] if where == "nowhere" else [waits]))


async def test_a_publisher_that_believes_no_release_deletes_nothing(centre, tmp_path_factory):
    await released(centre, [1])
    await centre.broker.put_blob(b"nobody's")
    home = tmp_path_factory.mktemp("stranger")
    keys.init(home, [])
    stranger = app.Publisher(centre.settings("publisher").model_copy(update={"home": home}), centre.broker)
    await stranger.blobs.sweep()
    assert len(await there(centre)) == 3


async def test_a_sweep_that_is_killed_half_way_is_finished_by_the_next(centre, monkeypatch):
    last = await released(centre, [1])
    for number in range(5):
        await centre.broker.put_blob(b"left %d" % number)
    calls, forget = [], scripts.forget

    async def dying(*given, **options):
        calls.append(given)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return await forget(*given, **options)

    publisher = app.Publisher(centre.settings("publisher"), centre.broker)
    with monkeypatch.context() as killed:
        killed.setattr(scripts, "forget", dying)
        with pytest.raises(KeyboardInterrupt):
            await publisher.blobs.sweep()
    assert len(await there(centre)) == 5
    await publisher.blobs.sweep()
    assert await there(centre) == digests(last)


async def test_a_running_publisher_forgets_what_a_refused_candidate_brought(centre, eventually, monkeypatch):
    monkeypatch.setattr(app, "BLOBS_EVERY_S", 0.02)
    async with centre.running("publisher"):
        await centre.offer(await centre.candidate())
        await decided(centre, eventually)
        (first,) = await centre.bundles()
        worse = await centre.candidate(first, change={"notes.txt": b"its own"}, figures=())
        await centre.offer(worse.model_copy(update={"parent_digest": "0" * 64}))
        await decided(centre, eventually)

        async def only_the_release():
            return await there(centre) == digests(first)

        await eventually(only_the_release)
