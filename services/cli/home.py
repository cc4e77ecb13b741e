"""The state directory of a constellation on one machine, and who may run on it.

    HOME/fleet.lock      held by `qig up` while it runs; its pid inside
    HOME/members.lock    held by it and by each service that it has started: free when the last of them has ended; its
                         pid inside
    HOME/broker/         the embedded broker's data;  HOME/broker.json  where it listens
    HOME/private, trust  keys (common/runtime/keys.py)
    HOME/genesis/        the parts of the first constellation
    HOME/prometheus.json where the services of a running fleet show their metrics, for Prometheus; of one that was
                         killed, and had QIG_BROKER_URL, it stays until the next is stopped
    HOME/logs/NODE.log   what a process writes;  NODE.log.1 the life before, when it was long
    HOME/nodes/NODE/     a process's own QIG_HOME: links to what it may see, and its own state

A node's home links to the public keys and to its own private key alone, an edge's also to the secret that edges share,
so that no process can read another's.
"""

import asyncio
import fcntl
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from common.errors import Unavailable
from common.runtime import keys
from services.cli.show import command

LOG_MAX_BYTES: Final = 16 * 1024 * 1024  # chosen: a log longer than this is set aside at the next start
PROMETHEUS: Final = "prometheus.json"
REST_S: Final = 60.0  # a service finishes what is in flight within 30 s, the broker within 10
_POLL_S: Final = 0.05
_LOCK: Final = "fleet.lock"
_MEMBERS: Final = "members.lock"
_BROKER: Final = "broker.json"


def broker_dir(home: Path) -> Path:
    """The embedded broker's data directory."""
    return home / "broker"


def genesis_dir(home: Path) -> Path:
    """The parts of the first constellation."""
    return home / "genesis"


def node_dir(home: Path, node: str) -> Path:
    """A process's own QIG_HOME."""
    return home / "nodes" / node


def log_path(home: Path, node: str) -> Path:
    """Where a process's log goes."""
    return home / "logs" / f"{node}.log"


@contextmanager
def lock(home: Path) -> Iterator[None]:
    """Hold the home for one fleet. Raises Unavailable: "already_running" with the pid, "home_unwritable"."""
    with _opened(home, _LOCK) as handle:
        if not _take(handle):
            pid = _named(handle) or "not known"
            message = f"a constellation already runs on {home} (pid {pid})"
            message += f": `{command('stop', home)}` ends it, or use another --home"
            raise Unavailable("already_running", message)
        _name(handle)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)  # else the next holder is taken for us until it has written


@asynccontextmanager
async def members(home: Path) -> AsyncIterator[int]:
    """Hold the handle that the services of one fleet inherit, once those have ended that a killed fleet has left on
    this home; our pid is in the file then. Raises Unavailable: "still_ending" when they have not after REST_S seconds,
    "home_unwritable".
    """
    with _opened(home, _MEMBERS) as handle:
        try:
            async with asyncio.timeout(REST_S):
                while not _take(handle):  # noqa: ASYNC110 -- nobody tells when a lock is free
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            message = f"processes that a killed `qig up` left on {home} still run after {REST_S:g} s"
            raise Unavailable("still_ending", f"{message}: end them (`lsof {home / _MEMBERS}` shows them)") from None
        _name(handle)
        yield handle


@contextmanager
def members_of(home: Path, pid: int) -> Iterator[bool]:
    """Hold the same, however long it takes, once the members have ended of the fleet that was the process `pid`; False
    where somebody else came first, who has waited for them too.
    """
    with _opened(home, _MEMBERS) as handle:
        while not (is_held := _take(handle)) and _named(handle) == pid:
            time.sleep(_POLL_S)
        yield is_held and _named(handle) == pid


@contextmanager
def _opened(home: Path, name: str) -> Iterator[int]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        handle = os.open(home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unwritable(home, error) from None
    try:
        yield handle
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _name(handle: int) -> None:
    """Write down that this process holds it."""
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)


def _named(handle: int) -> int | None:
    pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
    return int(pid) if pid.isdigit() else None


def is_locked(home: Path) -> bool:
    """Whether a fleet runs on this home now."""
    return _is_held(home / _LOCK)


def holder(home: Path) -> int | None:
    """The process of the fleet that runs on this home now; None where none does, or one is only just starting."""
    if not is_locked(home):
        return None
    pid = (home / _LOCK).read_text("ascii", "replace").strip()
    return int(pid) if pid.isdigit() else None


def is_ending(home: Path) -> bool:
    """Whether no fleet runs on this home, and something that a killed one has left there still does."""
    return not is_locked(home) and _is_held(home / _MEMBERS)


def _is_held(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def running_near(home: Path) -> Path | None:
    """A home beside, above or below this one on which a fleet runs now: `.qig/demo`, seen from `.qig`, and back."""
    near = (
        home.parent,
        *(found.parent for around in (home, home.parent) for found in sorted(around.glob(f"*/{_LOCK}"))),
    )
    return next((found for found in near if found.resolve() != home.resolve() and is_locked(found)), None)


def furnish(home: Path, service: str, node: str) -> Path:
    """Make a process's home: links to the trusted keys, to the private key it signs with, and an edge's to the
    secret.
    """
    own = node_dir(home, node)
    signer = keys.PUBLISHER if service == "publisher" else node
    try:
        (own / "private").mkdir(parents=True, exist_ok=True, mode=0o700)
        (home / "trust").mkdir(parents=True, exist_ok=True, mode=0o700)
        _link(own / "trust", home / "trust")
        if service in ("publisher", "edge"):
            _link(keys.private_path(own, signer), keys.private_path(home, signer))
        if service == "edge":
            _link(keys.secret_path(own), keys.secret_path(home))
    except OSError as error:
        raise unwritable(home, error) from None
    return own


def open_log(home: Path, node: str) -> int:
    """A file handle that appends to a node's log; a log that grew too long is set aside first."""
    path = log_path(home, node)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > LOG_MAX_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise unwritable(home, error) from None


def write_broker(home: Path, url: str, pid: int) -> None:
    """Say where the embedded broker listens. url: without a password."""
    write_atomically(home / _BROKER, json.dumps({"url": url, "pid": pid}).encode() + b"\n", 0o600)


def forget_broker(home: Path) -> None:
    """It was stopped in good order: nothing listens any more."""
    (home / _BROKER).unlink(missing_ok=True)


def read_broker(home: Path) -> str | None:
    """Where the embedded broker of this home listens, or listened when it was killed."""
    try:
        found: Any = json.loads((home / _BROKER).read_bytes())
    except (OSError, ValueError):
        return None
    url = found.get("url") if isinstance(found, dict) else None
    return url if isinstance(url, str) else None


def write_prometheus(home: Path, services: Iterable[tuple[str, str]]) -> None:
    """Say where services can be scraped, (service, HOST:PORT) each, as Prometheus finds them by file: the job is the
    service. Raises Unavailable("home_unwritable").
    """
    found = [{"targets": [address], "labels": {"job": service}} for service, address in services]
    write_atomically(home / PROMETHEUS, json.dumps(found, indent=1).encode() + b"\n")


def forget_prometheus(home: Path) -> None:
    """They were stopped in good order: nobody is missing."""
    (home / PROMETHEUS).unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """The whole file or none of it, also when the machine stops half-way. Raises Unavailable("home_unwritable")."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(mode)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path.parent, error) from None


def unwritable(home: Path, error: OSError) -> Unavailable:
    """The one line for a directory that cannot be written."""
    return Unavailable("home_unwritable", f"cannot write to {home}: {error.strerror}; choose another directory")


def _link(link: Path, target: Path) -> None:
    """A relative link, so that a home can be moved."""
    wanted = os.path.relpath(target, link.parent)
    if link.is_symlink() and str(link.readlink()) == wanted:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(wanted)
