import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from common.errors import Rejected, Unavailable
from common.runtime import access, embedded, keys, streams
from common.runtime.rights import OPERATOR
from common.runtime.settings import user_of
from services.cli import child, demo, fleet, home, probe, stop, watch
from services.cli.broker import check_there, clear_left, client, find_url

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def small_services(monkeypatch):
    """The service's name is the mode in which the small one runs."""
    script = str(Path(__file__).with_name("cli_service.py"))
    monkeypatch.setattr(fleet, "service_command", lambda mode: [sys.executable, script, mode])
    monkeypatch.setattr(child, "BACKOFF_FIRST_S", 0.01)
    monkeypatch.delenv("QIG_BROKER_URL", raising=False)


@pytest.fixture
def alone(tmp_path, broker_url):
    """A fleet on somebody else's broker."""
    return fleet.Fleet(tmp_path, broker_url=broker_url)


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # in a container nobody may collect an orphan: a zombie is dead
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_a_killed_service_is_started_again_at_its_address(alone):
    async with alone:
        member = await alone.start("serve", "edge-1")
        await alone.wait_ready("edge-1")
        first = member.pid
        await alone.kill("edge-1")
        await alone.wait_ready("edge-1")
        assert member.pid not in (None, first)
        assert await probe.gauge(member.url, "qig_bundle_version") == 7.0


async def test_a_service_starts_in_each_of_its_lives_until_it_was_ready(alone):
    async with alone:
        member = await alone.start("serve", "edge-1")
        assert member.child.is_starting
        await alone.wait_ready("edge-1")
        assert not member.child.is_starting
        await alone.restart("edge-1")
        assert member.child.is_starting
        await alone.wait_ready("edge-1")
        assert not member.child.is_starting


async def test_a_service_that_is_held_stays_down_until_it_is_restarted(alone, eventually):
    async with alone:
        member = await alone.start("serve", "edge-1")
        await alone.wait_ready("edge-1")
        await alone.kill("edge-1", hold=True)
        await eventually(lambda: member.state == "waiting")
        assert (member.pid, member.child.starts) == (None, 1)
        await alone.restart("edge-1")
        await alone.wait_ready("edge-1")
        assert member.child.starts == 2


async def test_a_restart_of_a_running_service_is_a_new_process(alone):
    async with alone:
        member = await alone.start("serve", "edge-1")
        await alone.wait_ready("edge-1")
        first = member.pid
        await alone.restart("edge-1")
        assert not is_alive(first)
        assert member.pid != first


async def test_no_process_is_left_behind(tmp_path):
    async with fleet.Fleet(tmp_path) as running:
        member = await running.start("serve", "edge-1")
        await running.wait_all_ready()
        pids = [member.pid, running.broker.pid]
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


async def test_no_process_is_left_behind_by_an_error(tmp_path):
    pids = []

    async def fail():
        async with fleet.Fleet(tmp_path) as running:
            member = await running.start("serve", "edge-1")
            pids.extend([member.pid, running.broker.pid])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not any(map(is_alive, pids))


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
    tmp_path, eventually
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


async def test_a_service_that_does_not_stop_is_killed_at_the_deadline(alone, monkeypatch):
    monkeypatch.setattr(child, "STOP_DEADLINE_S", 0.1)
    async with alone:
        member = await alone.start("stubborn", "edge-1")
        await alone.wait_ready("edge-1")
        pid = member.pid
    assert not is_alive(pid)


async def test_a_service_that_refuses_to_start_is_not_tried_again_and_says_why(alone):
    async with alone:
        member = await alone.start("refuse", "edge-1")
        with pytest.raises(Unavailable, match="missing_key: no key at all"):
            await alone.wait_ready("edge-1")
        assert (member.state, member.child.starts) == ("refused", 1)


async def test_settings_reach_the_service_in_its_own_home(alone):
    async with alone:
        member = await alone.start("serve", "edge-1", sleep_idle_s=0.5)
        await alone.wait_ready("edge-1")
        assert member.child.last_line() == "QIG_SLEEP_IDLE_S = 0.5"


async def test_prometheus_finds_the_services_of_a_fleet_while_it_runs_and_each_by_its_job(alone, tmp_path):
    async with alone:
        urls = [(await alone.start("serve", node)).url for node in ("edge-1", "edge-2")]
        found = json.loads((tmp_path / home.PROMETHEUS).read_text())
        assert found == [{"targets": [url.removeprefix("http://")], "labels": {"job": "serve"}} for url in urls]
    assert not (tmp_path / home.PROMETHEUS).exists()


async def test_a_killed_broker_comes_back_at_its_address_with_its_data(tmp_path, eventually):
    async with fleet.Fleet(tmp_path) as running:
        url, first = running.broker_url, running.broker.pid
        async with client(url) as redis:
            await redis.set("kept", "1")
        await running.kill_broker()
        await eventually(lambda: running.broker.pid not in (None, first))
        async with client(running.broker_url) as redis:
            assert (running.broker_url, await redis.get("kept")) == (url, b"1")
        assert (running.broker.starts, running.broker.ended) == (2, "ended by SIGKILL")
        assert home.read_broker(tmp_path) == url
    assert home.read_broker(tmp_path) is None  # no command looks where nothing listens any more


async def test_a_broker_that_is_held_is_back_after_its_restart(tmp_path):
    async with fleet.Fleet(tmp_path) as running:
        await running.kill_broker(hold=True)
        assert running.broker.pid is None
        await running.restart_broker()
        async with client(running.broker_url) as redis:
            assert await redis.ping()


async def test_no_broker_is_left_behind_when_its_address_cannot_be_written(tmp_path, monkeypatch):
    def fail(_home, _url, pid):
        pids.append(pid)
        raise Unavailable("home_unwritable", "no room")

    pids = []
    monkeypatch.setattr(home, "write_broker", fail)
    with pytest.raises(Unavailable, match="no room"):
        await fleet.Fleet(tmp_path).__aenter__()
    assert not is_alive(pids[0])
    assert not home.is_locked(tmp_path)


async def test_a_service_that_keeps_dying_is_started_after_pauses_that_double_up_to_a_limit(
    alone, monkeypatch, eventually
):
    pauses = []

    async def rest(self, state, reason, pause_s):
        pauses.append(pause_s)
        return False

    monkeypatch.setattr(child.Child, "_rest", rest)
    monkeypatch.setattr(child, "BACKOFF_MAX_S", 0.04)
    async with alone:
        await alone.start("die", "edge-1")
        await eventually(lambda: len(pauses) >= 4)
    assert pauses[:4] == [0.01, 0.02, 0.04, 0.04]


async def test_a_broker_left_behind_by_a_killed_fleet_is_taken_over_with_its_data(tmp_path, orphan):
    async with client(orphan.url) as redis:
        await redis.set("kept", "1")
    async with fleet.Fleet(tmp_path) as running, client(running.broker_url) as redis:
        assert await redis.get("kept") == b"1"
    assert orphan.pid is None


@pytest.fixture
def port():
    """A port that was free a moment ago."""
    return probe.free_port()


async def test_a_broker_with_users_keeps_them_over_a_kill_and_is_taken_over_by_the_next_fleet(tmp_path):
    access.make(tmp_path)
    orphan = fleet.Fleet(tmp_path).broker
    await orphan.start()
    await orphan.restart()
    async with client(access.login(tmp_path, "publisher", orphan.url)) as redis:
        await redis.set(f"{streams.BLOB}ab:0", b"kept")
    async with fleet.Fleet(tmp_path) as running, client(running.broker_url) as redis:
        assert await redis.getrange(f"{streams.BLOB}ab:0", 0, 9) == b"kept"
        assert (user_of(running.broker_url), user_of(running.url_of("edge"))) == (OPERATOR, "edge")
        assert find_url(tmp_path, {}) == running.broker_url
        assert urlsplit(running.broker_url).password not in (tmp_path / "broker.json").read_text()
        with pytest.raises(Rejected, match="broker_refused"):
            async with client(running.url_of("edge")) as edge:
                await edge.set(f"{streams.BLOB}ab:0", b"changed")
    assert orphan.pid is None


@pytest.mark.parametrize("user", ["", "edge:guess@"])
async def test_a_command_that_the_broker_does_not_let_in_says_so(tmp_path, user):
    access.make(tmp_path)
    async with fleet.Fleet(tmp_path) as running:
        url = f"redis://{user}{running.broker_url.rpartition('@')[2]}"
        async with client(url) as redis:
            with pytest.raises(Rejected, match="broker_refused"):
                await check_there(redis, url)


async def test_who_watches_as_a_service_that_may_not_is_told_whose_address_does(tmp_path, monkeypatch):
    access.make(tmp_path)
    async with fleet.Fleet(tmp_path) as running:
        monkeypatch.setenv("QIG_BROKER_URL", running.url_of("trainer"))
        with pytest.raises(Rejected, match=r"broker_refused: .*the operator's address does"):
            await asyncio.to_thread(watch.run, once=True, every_s=1.0, home=tmp_path, json=False)


async def test_a_list_of_users_that_the_broker_cannot_read_is_one_clear_error(tmp_path):
    access.make(tmp_path)
    access.acl_path(tmp_path).write_text("user operator on nonsense\n")
    with pytest.raises(Unavailable, match=r"broker_failed.*users\.acl"):
        await fleet.Fleet(tmp_path).broker.start()


async def test_a_broker_listens_where_it_is_told_also_after_its_restart(tmp_path, port):
    async with fleet.Fleet(tmp_path, broker_port=port) as running:
        assert running.broker_url == f"redis://127.0.0.1:{port}"
        await running.restart_broker()
        assert running.broker_url == f"redis://127.0.0.1:{port}"


async def test_a_broker_whose_port_is_taken_takes_a_free_one_and_keeps_it(tmp_path, port):
    with socket.create_server(("127.0.0.1", port)):
        async with fleet.Fleet(tmp_path, broker_port=port) as running:
            url = running.broker_url
            assert url != f"redis://127.0.0.1:{port}"
            await running.restart_broker()
            assert running.broker_url == url


async def test_a_broker_that_a_killed_fleet_left_behind_makes_room_on_its_port(tmp_path, port):
    orphan = fleet.Fleet(tmp_path, broker_port=port).broker
    await orphan.start()
    async with fleet.Fleet(tmp_path, broker_port=port) as running:
        assert running.broker_url == f"redis://127.0.0.1:{port}"
    assert orphan.pid is None


async def test_two_fleets_on_one_home_are_refused_with_the_pid(alone, tmp_path, broker_url):
    async with alone:
        with pytest.raises(Unavailable, match=rf"already_running.*pid {os.getpid()}"):
            await fleet.Fleet(tmp_path, broker_url=broker_url).__aenter__()
        assert home.is_locked(tmp_path)
    assert not home.is_locked(tmp_path)


async def test_a_taken_port_is_refused_by_its_number(alone):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with alone:
            with pytest.raises(Unavailable, match=rf"port_taken: port {port} .*--port"):
                await alone.start("serve", "edge-1", port=port)


async def test_a_fleet_does_not_kill_a_broker_that_is_not_its_own(alone):
    async with alone:
        with pytest.raises(Unavailable, match="not_our_broker"):
            await alone.kill_broker()


async def test_nobody_who_never_answers_is_waited_for_beyond_the_timeout(alone):
    async with alone:
        member = await alone.start("stubborn", "edge-1")
        await alone.kill("edge-1", hold=True)
        with pytest.raises(Unavailable, match=r"not_ready: edge-1 is not ready after 0\.05 s"):
            await alone.wait_ready("edge-1", timeout_s=0.05)
        assert member.pid is None


def test_a_process_sees_no_private_key_but_its_own_and_an_edge_the_secret(tmp_path):
    keys.init(tmp_path, ["edge-1", "edge-2"])
    keys.make_secret(tmp_path)
    edge, centre = home.furnish(tmp_path, "edge", "edge-1"), home.furnish(tmp_path, "aggregator", "aggregator")
    assert sorted(path.name for path in (edge / "private").iterdir()) == ["edge-1.key", "fleet.secret"]
    assert keys.load_private(edge, "edge-1") == keys.load_private(tmp_path, "edge-1")
    assert list((centre / "private").iterdir()) == []
    assert {node for node, _ in keys.load_enrolled(centre).values()} == {"edge-1", "edge-2"}


def test_a_long_log_is_set_aside_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(home, "LOG_MAX_BYTES", 3)
    os.close(home.open_log(tmp_path, "edge-1"))
    home.log_path(tmp_path, "edge-1").write_text("abcd")
    os.close(home.open_log(tmp_path, "edge-1"))
    assert home.log_path(tmp_path, "edge-1").read_text() == ""
    assert (tmp_path / "logs" / "edge-1.log.1").read_text() == "abcd"
