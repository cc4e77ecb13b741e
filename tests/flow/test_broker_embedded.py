import os
import shutil
import signal
import socket

import pytest
from redis import Redis

from common.errors import Unavailable
from common.runtime import embedded, memory


@pytest.fixture
def started():
    running = []

    def start(*args):
        running.append(embedded.start(*args))
        return running[-1]

    yield start
    for broker in running:
        broker.stop()


def test_the_broker_is_durable_and_refuses_rather_than_forgets(tmp_path, started):
    with Redis.from_url(started(tmp_path).url) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert int(client.config_get("maxmemory")["maxmemory"]) == memory.allowed_bytes() // 2


def test_in_a_container_it_takes_half_of_what_that_may_use(tmp_path, started, monkeypatch):
    monkeypatch.setattr(memory, "allowed_bytes", lambda: 512 << 20)
    with Redis.from_url(started(tmp_path).url) as client:
        assert client.config_get("maxmemory") == {"maxmemory": str(256 << 20)}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_written_is_there_after_the_broker_ended_and_started_again(tmp_path, started, number):
    first = started(tmp_path)
    with Redis.from_url(first.url) as client:
        client.set("a", "1")
    os.kill(first.pid, number)
    first.process.wait()
    with Redis.from_url(started(tmp_path).url) as client:
        assert client.get("a") == b"1"


def test_starting_twice_on_one_directory_says_who_runs_there(tmp_path, started):
    first = started(tmp_path)
    with pytest.raises(Unavailable, match=f"broker_running.*pid {first.pid}, {first.url}"):
        embedded.start(tmp_path)


def test_stopping_twice_is_stopping_once(tmp_path, started):
    broker = started(tmp_path)
    broker.stop()
    broker.stop()
    assert broker.process.returncode == 0


def test_a_server_that_does_not_end_is_said_to_run_still(tmp_path, started, monkeypatch):
    monkeypatch.setattr(embedded, "END_TIMEOUT_S", 0.05)
    running = started(tmp_path)
    running.process.send_signal(signal.SIGSTOP)
    assert not embedded.end(tmp_path)
    running.process.send_signal(signal.SIGCONT)
    assert running.process.wait() == 0


def test_a_server_that_somebody_left_is_ended_though_it_does_not_answer_yet_and_none_is_no_error(
    tmp_path, started, monkeypatch
):
    def ask_and_wake(pid, number, kill=os.kill):
        kill(pid, number)
        kill(pid, signal.SIGCONT)

    assert embedded.end(tmp_path / "none")
    running = started(tmp_path)
    running.process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(os, "kill", ask_and_wake)
    assert embedded.end(tmp_path)
    assert running.process.wait() == 0
    assert embedded.end(tmp_path)
    assert started(tmp_path).process.poll() is None


def test_a_taken_port_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind((embedded.HOST, 0))
        taken.listen()
        with pytest.raises(Unavailable, match="port_taken"):
            embedded.start(tmp_path, taken.getsockname()[1])


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match=r"home_unwritable.*QIG_HOME"):
        embedded.start(tmp_path / "file" / "broker")


@pytest.mark.parametrize(("spare", "starts"), [(-1, False), (0, True)])
def test_a_full_disk_is_refused_before_the_start(tmp_path, monkeypatch, started, spare, starts):
    usage = shutil._ntuple_diskusage(1, 1, embedded.MIN_FREE_BYTES + spare)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    if starts:
        assert started(tmp_path).process.poll() is None
    else:
        with pytest.raises(Unavailable, match="disk_full"):
            embedded.start(tmp_path)


def test_a_server_that_does_not_start_says_why(tmp_path):
    (tmp_path / "appendonlydir").write_text("no directory")
    with pytest.raises(Unavailable, match=r"broker_failed.*valkey\.log"):
        embedded.start(tmp_path)
