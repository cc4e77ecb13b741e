"""What keeps a start from succeeding: one clear line on standard error, no traceback, and a code that is not 0."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from live_fleet import DATA

from common.runtime import keys
from common.runtime.settings import PREFIX
from services.cli import home as places
from services.trainer import folder

pytestmark = [pytest.mark.live]

QIG = [sys.executable, "-m", "services.cli.app"]
START_S = 60.0
REPOSITORY = Path(__file__).resolve().parents[2]


def module(service):
    return [sys.executable, "-m", f"services.{service}.app"]


def environ(given):
    """This process's environment without settings of ours, and those given."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return ours | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in given.items()}


def refused(command, prefix=(), **given):
    """The one line with which a command that does not start ends; its log lines, at `error`, would be more than one."""
    given = {"QIG_LOG_LEVEL": "error"} | given
    done = subprocess.run(
        [*prefix, *command], env=environ(given), cwd=REPOSITORY, capture_output=True, text=True, timeout=START_S,
        check=False,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode not in (0, 1), done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


@contextmanager
def running(command, **given):
    """A process that stays, and is ended in good order."""
    process = subprocess.Popen(
        command, env=environ(given), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=START_S)


@contextmanager
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


@pytest.fixture
def home(tmp_path):
    """Keys of a fleet of one edge."""
    keys.init(tmp_path / "home", ["edge-1"])
    return tmp_path / "home"


@pytest.fixture
def start(home, broker_url):
    """Everything that a service needs; what a test gives instead is what is wrong."""
    return {
        "QIG_BROKER_URL": broker_url,
        "QIG_HOME": home,
        "QIG_NODE": "edge-1",
        "QIG_HTTP_PORT": 0,
    }


def up(home, *options):
    return [*QIG, "up", "--edges", "1", "--home", str(home), *options]


# Starting twice


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_killed_command_line_takes_the_training_of_its_first_kernels_with_it(home):
    def training():
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it may have ended
                if {b"train", os.fsencode(places.genesis_dir(home))} <= set(path.read_bytes().split(b"\0")):
                    return True
        return False

    with running(up(home, "--port", "0"), QIG_SIZE="tiny") as first:
        wait_for(training)
        first.kill()
    wait_for(lambda: not training())
    assert not places.genesis_dir(home).exists()  # it was ended, and did not come to its end
    wait_for(lambda: places.read_broker(home) is None)  # the broker too


def test_ctrl_c_ends_a_constellation_that_waits_for_what_a_killed_one_left(home):
    with (home / "members.lock").open("w") as left:
        fcntl.flock(left, fcntl.LOCK_EX)
        with running(up(home, "--port", "0")) as waiting:
            assert "is still ending, wait" in waiting.stdout.readline()
            wait_for(lambda: places.is_locked(home))
            waiting.send_signal(signal.SIGINT)
            assert waiting.wait(START_S) == 0
            assert waiting.stdout.read() == "stopped; nothing was started\n"


def stop(home):
    """What the command says."""
    command = [*QIG, "stop", "--home", str(home)]
    return subprocess.run(
        command, env=environ({}), cwd=REPOSITORY, capture_output=True, text=True, timeout=START_S, check=True
    ).stdout


def test_a_second_constellation_on_one_home_is_refused_and_stop_ends_the_first_in_good_order(home, micro_parts):
    folder.write(micro_parts, places.genesis_dir(home))
    with running(up(home, "--port", "0")) as first:
        assert first.stdout.readline() == f"home    {home}, as it was left\n"
        line = refused(up(home, "--port", "0"))
        said = stop(home)
        assert first.wait(START_S) == 0
    assert line.startswith(f"error: a constellation already runs on {home} (pid {first.pid}): ")
    assert f" stop --home {home}` ends it" in line  # without it another one would end
    assert line.endswith("(already_running)")
    assert f"pid {first.pid} on {home} stops" in said
    assert "stopped; the state is kept" in said
    assert stop(home).startswith(f"no constellation runs on {home}")


def test_a_second_edge_under_one_name_is_refused(home, start):
    with running(module("edge"), **start):
        wait_for((home / "edges" / "edge-1" / "edge.db").exists)
        line = refused(module("edge"), **start)
    assert line.startswith("qig edge: state_in_use: ")
    assert "an edge runs once a node, choose another QIG_NODE" in line


def wait_for(condition):
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


# A taken port


def test_up_names_the_port_that_is_taken_and_what_to_do(home):
    with taken_port() as port:
        line = refused(up(home, "--edges", "3", "--port", str(port)))
    assert line.startswith(f"error: port {port} on 127.0.0.1 cannot be used (Address already in use): edge-1 needs it")
    assert f" up --edges 3 --port {port + 6} " in line  # as many as were asked for
    assert f" --home {home}" in line  # without it another constellation would begin


@pytest.mark.parametrize("service", ["edge", "aggregator"])
def test_a_service_names_the_port_that_is_taken(start, service):
    with taken_port() as port:
        line = refused(module(service), **start | {"QIG_HTTP_PORT": port})
    assert line.startswith(f"qig {service}: port_taken: ")
    assert f"{port}" in line
    assert "QIG_HTTP_PORT" in line


# A directory that cannot be written


def test_up_names_the_home_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    line = refused(up(tmp_path / "file" / "home"))
    assert line.startswith(f"error: cannot write to {tmp_path}/file/home: Not a directory")
    assert line.endswith("(home_unwritable)")


def test_an_edge_names_the_home_that_cannot_be_written(tmp_path, start):
    (tmp_path / "file").touch()
    line = refused(module("edge"), **start | {"QIG_HOME": tmp_path / "file" / "home"})
    assert line.startswith(f"qig edge: unwritable: {tmp_path}/file/home/edges/edge-1/edge.db: Not a directory")


# No space on the disk


@pytest.fixture(scope="module")
def tiny_disk(tmp_path_factory):
    """Runs what follows with an empty disk of 1 MB, of which `free` KB are left, at the path that it gives."""
    disk = tmp_path_factory.mktemp("disk")
    alone = ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--mount"]
    script = 'mount -t tmpfs -o size=1m tmpfs "$0" || exit 77; fill=$1; shift; {}; exec "$@"'
    filled = script.format('head -c $((1048576 - 1024 * fill)) /dev/zero > "$0/filler" || exit 77')
    trial = [*alone, "sh", "-c", filled, str(disk), "64", "true"]
    if not shutil.which("unshare") or subprocess.run(trial, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a disk of its own (unshare --mount): full disks are NOT tested here")
    return disk, lambda free_kb: [*alone, "sh", "-c", filled, str(disk), str(free_kb)]


def test_up_on_a_full_disk_says_how_much_is_free_and_how_much_it_needs(tiny_disk):
    disk, with_free_kb = tiny_disk
    line = refused(up(disk / "home"), prefix=with_free_kb(64))
    assert line.startswith("error: ")
    assert f"bytes free at {disk}/home/broker; the broker needs" in line
    assert line.endswith("(disk_full)")


@pytest.mark.parametrize("free_kb", [0, 8, 32])
def test_an_edge_on_a_full_disk_says_so(tiny_disk, home, start, free_kb):
    disk, with_free_kb = tiny_disk
    line = refused(module("edge"), prefix=with_free_kb(free_kb), **start | {"QIG_HOME": disk})
    assert line.startswith("qig edge: disk_full: no space left for ")
    assert str(disk) in line


# A missing key


@pytest.mark.parametrize(
    ("service", "key"),
    [
        ("edge", "private/edge-1.key"),
        ("edge", "trust/root.json"),
        ("aggregator", "trust/root.json"),
        ("trainer", "trust/root.json"),
        ("publisher", "private/publisher.key"),
    ],
)
def test_a_service_names_the_key_that_is_missing(home, start, service, key):
    (home / key).unlink()
    line = refused(module(service), **start | {"QIG_DATA": DATA})
    what = "root" if key.endswith(".json") else "key"
    assert line.startswith(f"qig {service}: missing_{what}: no {what} at {home / key}: ")


@pytest.mark.parametrize("name", ["publisher", "edge-1"])
def test_up_does_not_replace_a_private_key_that_was_lost(home, micro_parts, name):
    folder.write(micro_parts, places.genesis_dir(home))
    keys.private_path(home, name).unlink()
    line = refused(up(home, "--port", "0"))
    assert line.startswith(f"error: {name} does not start: ")
    assert "missing_key: no key at " in line


# An unknown setting


@pytest.mark.parametrize("service", ["edge", "publisher"])
def test_a_service_names_the_setting_that_it_does_not_know_and_the_closest(start, service):
    line = refused(module(service), **start | {"QIG_SLEEP_AFTR_BYTES": 1})
    assert line.startswith(f"qig {service}: unknown_setting: QIG_SLEEP_AFTR_BYTES is no setting: did you mean ")
    assert line.endswith("QIG_SLEEP_AFTER_BYTES?")


def test_up_names_the_setting_that_nobody_knows_and_the_closest(home):
    line = refused(up(home), QIG_SLEEP_AFTR_BYTES=1)
    assert "QIG_SLEEP_AFTR_BYTES is no setting: did you mean QIG_SLEEP_AFTER_BYTES?" in line
