import asyncio
import errno
import io
import json
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from processes import is_alive
from rich.console import Console

from common.errors import Rejected, Unavailable
from common.runtime import access, keys, streams
from common.runtime.rights import OPERATOR
from common.runtime.settings import user_of
from services.cli import child, fleet, home, probe, up, watch
from services.cli.broker import check_there, client, find_url

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


async def test_a_service_whose_process_cannot_be_made_for_a_while_is_tried_again(
    alone, tmp_path, monkeypatch, eventually
):
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    script = str(Path(__file__).with_name("cli_service.py"))
    monkeypatch.setattr(fleet, "service_command", lambda mode: [str(python), script, mode])
    async with alone:
        member = await alone.start("serve", "edge-1")
        await alone.wait_ready("edge-1")
        python.unlink()  # as while a new version is installed
        await alone.kill("edge-1")
        why = f"cannot be started ([Errno 2] No such file or directory: '{python}'); starts again in "
        await eventually(lambda: why in member.child.reason)
        python.symlink_to(sys.executable)
        await alone.wait_ready("edge-1")


async def test_a_log_that_cannot_be_written_is_one_clear_error(alone, tmp_path):
    async with alone:
        (tmp_path / "logs").touch()
        with pytest.raises(Unavailable, match=f"home_unwritable: cannot write to {tmp_path}: File exists"):
            await alone.start("serve", "edge-1")


async def test_a_fleet_goes_on_while_the_disk_is_full_that_its_lines_go_to(alone, eventually):
    disk, stopping = Disk(), asyncio.Event()
    async with alone:
        await alone.start("serve", "edge-1")
        shown = asyncio.create_task(up._show(alone, Console(file=disk), stopping))
        await eventually(lambda: disk.refused > 1)
        disk.is_full = False
        await alone.kill("edge-1", hold=True)
        await eventually(lambda: "edge-1  ended by SIGKILL" in disk.getvalue())
        stopping.set()
        await shown


class Disk(io.StringIO):
    is_full = True
    refused = 0

    def write(self, text):
        if self.is_full:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


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
