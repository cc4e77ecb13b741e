"""The examinations of `qig doctor`: each looks at one thing, and says what it saw and what to do."""

import asyncio
import importlib.metadata
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

from redis import Redis
from redis.exceptions import RedisError

from common.errors import QigError
from common.runtime import embedded, keys, settings
from common.runtime.settings import given_broker, redacted, variable
from services.cli import genesis, probe
from services.cli import home as places
from services.cli.broker import check_there, client, own_url
from services.cli.fleet import HOST
from services.cli.show import command
from services.cli.up import plan

PYTHON_MIN: Final = (3, 11)
SERVER_MIN: Final = 7  # Redis 6 lacks what claiming needs; Valkey began with 7.2
PACKAGE: Final = "qig-constellation"
EDGES: Final = 2
MISSING: Final = "not installed"
_PIN: Final = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^;\s]+)$")


@dataclass(frozen=True, slots=True)
class Check:
    """fix: what to do, empty when all is well."""

    check: str
    ok: bool
    value: str
    fix: str = ""


def examinations(home: Path, port: int, environ: Mapping[str, str]) -> list[Callable[[], Check]]:
    """All of them, cheap ones first."""
    return [
        python,
        packages,
        torch,
        cores,
        partial(directory, home),
        partial(disk, home),
        partial(key_files, home),
        partial(constellation, home),
        partial(readable_settings, environ),
        partial(ports, home, port),
        embedded_broker,
        partial(broker, home, environ),
    ]


def python() -> Check:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, PYTHON_MIN))
    return Check(
        "python", sys.version_info >= PYTHON_MIN, f"{found}, {sys.executable}", f"install Python {wanted} or later"
    )


def packages(requirements: list[str] | None = None) -> Check:
    """Every pinned package, at its pin. requirements: those of the installed package when not given."""
    if requirements is None:
        try:
            requirements = importlib.metadata.requires(PACKAGE) or []
        except importlib.metadata.PackageNotFoundError:
            return Check(
                "packages", ok=False, value=f"{PACKAGE} is not installed", fix="pip install -e . in its folder"
            )
    pins = [found.groups() for line in requirements if (found := _PIN.match(line.replace(" ", "")))]
    wrong = [f"{name} {_version(name)} instead of {version}" for name, version in pins if _version(name) != version]
    value = ", ".join(wrong) or f"{len(pins)} at their pins"
    return Check("packages", not wrong, value, "pip install --require-hashes -r requirements.lock")


def torch() -> Check:
    """What the trainer alone needs."""
    version = _version("torch")
    return Check("torch", ok=True, value=f"{version}{'' if version != MISSING else ': only training needs it'}")


def cores() -> Check:
    """What there is to compute with."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return Check("cores", ok=True, value=f"{usable}; OMP_NUM_THREADS {threads} here, 1 in every service of `qig up`")


def directory(home: Path) -> Check:
    """Whether the home can be written."""
    nearest = next(path for path in (home, *home.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return Check("home", ok=True, value=str(home) + ("" if nearest == home else ", made at first use"))
    except OSError as error:
        return Check("home", ok=False, value=f"{home}: {error.strerror}", fix="choose another with --home or QIG_HOME")


def disk(home: Path) -> Check:
    """Room on the home's file system."""
    nearest = next(path for path in (home, *home.parents) if path.exists())
    free, least = shutil.disk_usage(nearest).free, embedded.MIN_FREE_BYTES
    value = f"{free / 1e9:.1f} GB free, {least / 1e9:.2f} GB needed to start"
    return Check("disk", free >= least, value, "make room, or choose another disk with --home")


def key_files(home: Path) -> Check:
    """Whether keys are there, readable, and private keys private."""
    private = sorted((home / "private").glob("*.key"))
    if not private:
        return Check("keys", ok=True, value="none yet: `qig up` makes them, or `qig keys init`")
    try:
        for path in private:
            keys.load_private(home, path.stem)
        enrolled = keys.load_enrolled(home)
        keys.load_root(home)
    except QigError as error:
        return Check(
            "keys", ok=False, value=error.message, fix="restore it; a new one makes a new node (qig keys init)"
        )
    loose = [str(path) for path in private if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if loose:
        return Check("keys", ok=False, value=f"others can read {loose[0]}", fix=f"chmod 600 {' '.join(loose)}")
    return Check("keys", ok=True, value=f"{len(private)} private, {len(enrolled)} edges enrolled")


def constellation(home: Path) -> Check:
    """Whether there is something to start from."""
    where = genesis.default(home)
    if where.is_dir():
        return Check("constellation", ok=True, value=str(where))
    if why := genesis.why_no_text():
        value, _, fix = why.partition(": ")
        return Check("constellation", ok=False, value=f"none, and {value}", fix=fix)
    can_train = _version("torch") != MISSING
    value = "none yet: trained at the first `qig up`, a minute" if can_train else "none, and no torch to train one"
    return Check("constellation", can_train, value, "pip install torch==2.13.0, or copy a genesis folder there")


def readable_settings(environ: Mapping[str, str]) -> Check:
    """Whether every service would start with these settings."""
    try:
        found = {**environ, variable("broker_url"): given_broker(environ) or "redis://127.0.0.1"}
        for model in settings.MODELS:
            settings.load(model, found)
    except QigError as error:
        return Check("settings", ok=False, value=error.message, fix="correct it, or unset it")
    given = sum(name.startswith(settings.PREFIX) for name in environ)
    return Check("settings", ok=True, value=f"{given} from the environment, the others as they come")


def ports(home: Path, port: int) -> Check:
    """Whether `qig up` could listen."""
    if places.is_locked(home):
        return Check("ports", ok=True, value="a constellation runs on this home: it has its ports")
    wanted = {node: number for node, (_, number) in plan(EDGES, port).items()}
    for node, number in wanted.items():
        try:
            probe.check_port(HOST, number, "")
        except QigError:
            value, others = f"{number} is taken, {node} would need it", max(wanted.values()) + 1
            fix = f"stop what uses it, or: {command(f'up --port {others}', home)}"
            return Check("ports", ok=False, value=value, fix=fix)
    return Check("ports", ok=True, value=f"{min(wanted.values())} to {max(wanted.values())} are free")


def embedded_broker() -> Check:
    """Whether the broker that comes with the package runs here, and keeps what it is told."""
    try:
        with tempfile.TemporaryDirectory(prefix="qig-doctor-") as folder:
            running = embedded.start(Path(folder))
            try:
                with Redis.from_url(running.url) as redis:
                    version, durable = _about(cast("dict[str, Any]", redis.info()))
            finally:
                running.stop()
    except (QigError, RedisError, OSError) as error:
        reason = error.message if isinstance(error, QigError) else str(error)
        fix = "run Redis 7 or Valkey yourself, and set QIG_BROKER_URL"
        return Check("embedded broker", ok=False, value=reason, fix=fix)
    return Check("embedded broker", durable, f"{version}, {'durable' if durable else 'not durable'}", "report this")


def broker(home: Path, environ: Mapping[str, str]) -> Check:
    """The broker that commands would talk to."""
    try:
        url = given_broker(environ)
        if url is None and not places.is_locked(home):
            return Check("broker", ok=True, value="none named and none running: `qig up` starts one")
        url = url or own_url(home)
        if url is None:
            return Check("broker", ok=True, value="just starting")
        version, durable = asyncio.run(_ask(url))
    except QigError as error:
        return Check("broker", ok=False, value=error.message, fix="start it, or correct QIG_BROKER_URL")
    except RedisError as error:
        return Check("broker", ok=False, value=f"it refuses INFO: {error}", fix="grant its user +info and +ping")
    value = f"{redacted(url)}, {version}, append-only file {'on' if durable else 'OFF'}"
    number = re.search(r"\d+", version)
    if number is None or int(number[0]) < SERVER_MIN:
        return Check("broker", ok=False, value=value, fix=f"upgrade to Redis {SERVER_MIN} or Valkey")
    return Check("broker", durable, value, "start it with appendonly yes and maxmemory-policy noeviction")


async def _ask(url: str) -> tuple[str, bool]:
    async with client(url) as redis:
        await check_there(redis, url)
        return _about(await redis.info())


def _about(info: Mapping[str, Any]) -> tuple[str, bool]:
    """Name and version; durable: it writes an append-only file, and forgets nothing when memory is short."""
    valkey = info.get("valkey_version")
    version = f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', '?')}"
    return version, bool(info.get("aof_enabled")) and info.get("maxmemory_policy", "noeviction") == "noeviction"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return MISSING
