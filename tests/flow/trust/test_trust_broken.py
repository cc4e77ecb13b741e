"""What a reader of bundles does where a list is missing or broken, in the broker or on its own disk."""

import asyncio
import gc
import itertools
import os
import tempfile
import threading
import time

import pytest
from listing import list_releases
from released import DAY_S, STRANGER, files, message, of_role, put_back, release

from common.errors import Unavailable
from common.runtime import keys, streams
from common.wire.bundle import digest
from common.wire.codec import unpack
from common.wire.messages import Bundle

pytestmark = pytest.mark.anyio


async def test_without_metadata_nobody_can_tell_and_it_is_tried_again(home, redis, reader):
    trust = reader()
    with pytest.raises(Unavailable, match="no_metadata"):
        await trust.verify(1, message(home, 1))
    await release(redis, home, 1)
    await trust.verify(1, message(home, 1))


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"signed":{"_type":"root"}}', b'{"signed":3}'])
@pytest.mark.parametrize("role", ["timestamp", "bundles", "2.root"])
async def test_garbage_in_the_place_of_a_file_is_told_and_waited_out(home, redis, reader, role, data):
    await release(redis, home, 1)
    held = await files(redis)
    await redis.hset(streams.METADATA, b"2.root.json" if role == "2.root" else of_role(held, role), data)
    with pytest.raises(Unavailable, match="bad_metadata"):
        await reader().verify(1, message(home, 1))
    await put_back(redis, held)
    await reader().verify(1, message(home, 1))


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "bundles"])
async def test_a_file_that_is_missing_is_waited_for(home, redis, reader, role):
    await release(redis, home, 1)
    held = await files(redis)
    await redis.hdel(streams.METADATA, of_role(held, role))
    with pytest.raises(Unavailable, match="no_metadata"):
        await reader().verify(1, message(home, 1))
    await put_back(redis, held)
    await reader().verify(1, message(home, 1))


@pytest.mark.parametrize("fault", [False, True])
async def test_a_look_that_is_cancelled_is_left_when_its_thread_reads_no_more(
    home, redis, reader, monkeypatch, eventually, fault
):
    """Else that opens a connection once its client is closed, which nobody closes. What it found is nobody's."""
    await release(redis, home, 1)
    if fault:
        await redis.hset(streams.METADATA, "timestamp.json", b"{}")
    trust, begun, go_on = reader(), threading.Event(), threading.Event()
    update = trust._update

    def slow(*args):
        begun.set()
        assert go_on.wait(10)
        return update(*args)

    monkeypatch.setattr(trust, "_update", slow)
    looking = asyncio.create_task(trust.verify(1, message(home, 1)))
    await eventually(begun.is_set)
    looking.cancel()
    left, _ = await asyncio.wait([looking], timeout=0.05)
    assert not left
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await looking
    gc.collect()  # a fault that nobody took fails this test when its task is collected


async def test_two_lists_of_one_version_leave_nobody_sure_until_the_next(home, redis, reader):
    """A broker that lost its last second, and a publisher that signed again within it."""
    now_s = time.time()
    await release(redis, home, 1, now_s=now_s)
    await reader().verify(1, message(home, 1))
    await redis.delete(streams.METADATA)
    await release(redis, home, 2, now_s=now_s)
    with pytest.raises(Unavailable, match=r"bad_metadata.*under its version"):
        await reader().verify(2, message(home, 2))
    await release(redis, home, 2, now_s=now_s)
    await reader().verify(2, message(home, 2))


async def test_after_the_broker_lost_everything_later_lists_are_no_rollback(home, redis, reader):
    await release(redis, home, 1, now_s=time.time() - 5)
    await reader().verify(1, message(home, 1))
    await redis.delete(streams.METADATA)
    await release(redis, home, 2)
    await reader().verify(2, message(home, 2))


@pytest.mark.parametrize("ahead_s", [-20 * 365 * DAY_S, 0.0])
async def test_a_clock_that_is_behind_believes_all_the_same(home, redis, reader, ahead_s):
    await release(redis, home, 1, now_s=time.time() - ahead_s)
    await reader().verify(1, message(home, 1))


async def test_a_state_that_is_torn_at_any_byte_is_read_again_from_the_broker(home, redis, reader):
    messages = await release(redis, home, 2)
    await reader().verify(2, messages[2])
    state = home / "state" / "edge"
    whole = {path: path.read_bytes() for path in state.rglob("*.json") if not path.is_symlink()}
    assert len(whole) == 5
    for path, data in whole.items():
        for cut in range(0, len(data), 97):
            path.write_bytes(data[:cut])
            await reader().verify(2, messages[2])
            assert path.read_bytes() == data


async def test_a_state_with_any_file_lost_and_a_half_written_one_left_is_made_whole(home, redis, reader):
    messages = await release(redis, home, 1)
    await reader().verify(1, messages[1])
    state = home / "state" / "edge"
    for path in [path for path in state.rglob("*.json") if not path.is_symlink()]:
        path.unlink()
        (state / "tmpabcdefg").write_bytes(b"half")
        await reader().verify(1, messages[1])
        assert path.exists()
        assert not list(state.glob("tmp*"))


async def test_a_state_that_is_lost_once_it_was_read_hides_no_release_from_before_the_list(home, redis, reader):
    messages = await release(redis, home, 3)
    await list_releases(redis, home, {version: messages[version] for version in (2, 3)})
    trust = reader()
    await trust.verify(3, messages[3])
    for path in (home / "state" / "edge").rglob("*.json"):
        path.unlink()
    assert await trust.is_before(unpack(Bundle, messages[1]))
    assert not await trust.is_before(unpack(Bundle, message(home, 1, key=STRANGER)))
    assert not await trust.is_before(unpack(Bundle, message(home, 4)))  # newer than what is listed: withheld, or early


@pytest.mark.parametrize("stolen", [False, True])
async def test_a_release_from_before_the_list_may_be_signed_by_a_former_key_that_was_not_stolen(
    home, redis, reader, stolen
):
    former = keys.load_private(home, keys.PUBLISHER)
    messages = await release(redis, home, 2)
    last = digest(unpack(Bundle, messages[2]))
    keys.replace(home, ["publisher"], offline=keys.offline_dir(home), stolen=stolen, believed=last if stolen else None)
    await list_releases(redis, home, {2: message(home, 2)})
    trust = reader()
    await trust.verify(2, message(home, 2))
    assert await trust.is_before(unpack(Bundle, message(home, 1, key=former))) != stolen


class Killed(BaseException):
    pass


async def test_a_reader_that_is_killed_at_any_step_of_a_look_goes_on_from_what_is_there(
    home, redis, reader, monkeypatch
):
    """kill -9 before each write, rename and link of the state, while it takes over a new root and a new list."""
    first = await release(redis, home, 1, now_s=time.time() - 100)
    held = await files(redis)
    keys.replace(home, ["root-1", "publisher"], offline=keys.offline_dir(home))
    second = await release(redis, home, 2)
    newer = await files(redis)
    kills = 0
    for step in itertools.count():
        await put_back(redis, held)
        await reader(f"s{step}").verify(1, first[1])
        await put_back(redis, newer)
        left = [step]
        with monkeypatch.context() as patch:
            for place, name in ((os, "replace"), (os, "remove"), (os, "symlink"), (tempfile, "NamedTemporaryFile")):
                patch.setattr(place, name, dying(getattr(place, name), left))
            try:
                await reader(f"s{step}").verify(2, second[2])
            except Killed:
                kills += 1
        await reader(f"s{step}").verify(2, second[2])
        await put_back(redis, held)  # and what it saw before it was killed, it has not forgotten
        with pytest.raises(Unavailable, match="bad_metadata"):
            await reader(f"s{step}").verify(3, message(home, 3))
        if left[0] >= 0:
            break
    assert kills > 10


def dying(real, left):
    def act(*given, **more):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(*given, **more)

    return act
