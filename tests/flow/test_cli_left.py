"""What a `qig up` that was killed leaves, and who ends it: nobody but the kernel told its services."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from processes import is_alive

from common.errors import Unavailable
from common.runtime import embedded
from services.cli import demo, fleet, home, stop
from services.cli.broker import clear_left, client

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def own_broker(monkeypatch):
    monkeypatch.delenv("QIG_BROKER_URL", raising=False)


only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")


@pytest.fixture
def killed(tmp_path):
    """Makes a fleet of one service and kills it when that is ready: the pids of the service and of the broker. Whatever
    is left of them after the test is killed too.
    """
    code = f"""
import asyncio, pathlib, sys
from services.cli import fleet
fleet.service_command = lambda mode: [sys.executable, {str(Path(__file__).with_name("cli_service.py"))!r}, mode]
async def main():
    async with fleet.Fleet(pathlib.Path({str(tmp_path)!r})) as running:
        member = await running.start(sys.argv[1], "edge-1")
        await running.wait_ready("edge-1")
        print(member.pid, running.broker.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    left = []

    async def make(mode):
        command = [sys.executable, "-c", code, mode]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        pids = [int(word) for word in (await process.stdout.readline()).split()]
        left.extend(pids)
        process.kill()
        await process.wait()
        return pids

    yield make
    for pid in filter(is_alive, left):
        with suppress(ProcessLookupError):  # a broker may just be ending
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
async def orphan(tmp_path):
    """A broker that nobody watches."""
    broker = fleet.Fleet(tmp_path).broker
    await broker.start()
    yield broker
    await broker.kill()


@only_linux
async def test_a_killed_command_line_takes_its_services_and_its_broker_with_it(tmp_path, killed, eventually):
    pids = await killed("serve")
    await eventually(lambda: not any(map(is_alive, pids)))
    await eventually(lambda: home.read_broker(tmp_path) is None)


async def test_a_broker_that_a_killed_command_line_left_stays_until_its_services_have_ended(
    tmp_path, killed, eventually
):
    service, broker = await killed("stubborn")
    await eventually(lambda: home.is_ending(tmp_path))
    async with client(home.read_broker(tmp_path)) as redis:
        assert await redis.ping()
    os.kill(service, signal.SIGKILL)
    await eventually(lambda: not is_alive(broker))


async def test_the_next_fleet_waits_for_what_a_killed_one_left_and_goes_on_with_its_data(tmp_path, killed, eventually):
    service, broker = await killed("stubborn")
    async with client(home.read_broker(tmp_path)) as redis:
        await redis.set("kept", "1")
    running = fleet.Fleet(tmp_path)
    starts = asyncio.create_task(running.__aenter__())
    await eventually(lambda: home.is_locked(tmp_path))
    assert not starts.done()
    os.kill(service, signal.SIGKILL)
    await starts
    try:
        assert not is_alive(broker)
        async with client(running.broker_url) as redis:
            assert await redis.get("kept") == b"1"
    finally:
        await running.__aexit__(None, None, None)


async def test_what_a_killed_command_line_left_and_does_not_end_is_named(tmp_path, killed, monkeypatch, eventually):
    monkeypatch.setattr(home, "REST_S", 0.0)
    service, broker = await killed("stubborn")
    with pytest.raises(Unavailable, match=r"still_ending.*lsof .*members\.lock"):
        await fleet.Fleet(tmp_path).__aenter__()
    os.kill(service, signal.SIGKILL)
    await eventually(lambda: not is_alive(broker))


async def test_a_fleet_that_is_cancelled_while_it_waits_lets_its_home_go(tmp_path, killed, eventually):
    service, broker = await killed("stubborn")
    starts = asyncio.create_task(fleet.Fleet(tmp_path).__aenter__())
    await eventually(lambda: home.is_locked(tmp_path))
    starts.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starts
    assert home.is_ending(tmp_path)
    os.kill(service, signal.SIGKILL)
    await eventually(lambda: not is_alive(broker))  # its keeper has waited on


@only_linux
async def test_stop_waits_for_the_broker_too_that_a_killed_fleet_has_left(tmp_path, killed, capsys):
    await killed("serve")
    await asyncio.to_thread(stop.run, tmp_path)
    assert home.read_broker(tmp_path) is None
    await asyncio.to_thread(stop.run, tmp_path)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert f"what a killed `qig up` left on {tmp_path} stops" in first
    assert last == f"no constellation runs on {tmp_path}"


async def test_stop_ends_a_broker_that_nobody_else_would_end(tmp_path, orphan):
    await asyncio.to_thread(stop.run, tmp_path)
    assert orphan.pid is None


async def test_stop_ends_a_demo_as_ctrl_c_does(tmp_path, eventually):
    where = tmp_path / "demo"
    code = f"""
import pathlib, sys
from services.cli import demo, fleet
fleet.service_command = lambda _: [sys.executable, {str(Path(__file__).with_name("cli_service.py"))!r}, "serve"]
sys.exit(demo.run(home=pathlib.Path({str(where)!r}), json=False))
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    await eventually(lambda: home.read_broker(where), 60)
    await asyncio.to_thread(stop.run, where)
    said, _ = await process.communicate()
    assert process.returncode == 130
    assert b"cancelled: nothing runs any more" in said
    assert home.read_broker(where) is None


async def test_who_ends_a_broker_that_was_left_waits_for_its_services_however_long_they_take_and_for_no_others(
    tmp_path,
):
    def waits(pid):
        with home.members_of(tmp_path, pid) as are_ours:
            return are_ours

    async with home.members(tmp_path):
        ours, others = (asyncio.create_task(asyncio.to_thread(waits, pid)) for pid in (os.getpid(), 1))
        assert not await others
        assert not ours.done()
    assert await ours
    assert not await asyncio.to_thread(waits, 1)


async def test_what_does_not_end_is_not_forgotten(tmp_path, monkeypatch, orphan):
    os.kill(orphan.pid, signal.SIGSTOP)
    with monkeypatch.context() as hurried:
        hurried.setattr(embedded, "END_TIMEOUT_S", 0.05)
        with pytest.raises(Unavailable, match=r"still_ending: the broker .* after SIGTERM: .*lsof \+D .*/broker`"):
            await clear_left(tmp_path)
    assert home.read_broker(tmp_path) == orphan.url
    os.kill(orphan.pid, signal.SIGCONT)
    await clear_left(tmp_path)
    assert (home.read_broker(tmp_path), orphan.pid) == (None, None)


async def test_a_demo_ends_the_broker_of_a_killed_one_before_it_takes_its_files(tmp_path, orphan):
    (tmp_path / demo.MARK).touch()
    await demo._clear(tmp_path)
    assert orphan.pid is None
    assert [path.name for path in tmp_path.iterdir()] == [demo.MARK]


async def test_a_broker_left_behind_by_a_killed_fleet_is_taken_over_with_its_data(tmp_path, orphan):
    async with client(orphan.url) as redis:
        await redis.set("kept", "1")
    async with fleet.Fleet(tmp_path) as running, client(running.broker_url) as redis:
        assert await redis.get("kept") == b"1"
    assert orphan.pid is None
