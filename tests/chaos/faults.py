"""Faults, done to a world: its processes, their wires, its broker. Each is mended by itself after a while."""

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from proxy import Proxy
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from scenario import Fault, Scenario

from common.errors import Unavailable
from common.runtime import embedded, streams

FAKETIME = ("/usr/lib/{}/faketime/libfaketime.so.1", ("x86_64-linux-gnu", "aarch64-linux-gnu"))
MEMORY = "/dev/shm"
MOUNT_BYTES = embedded.MIN_FREE_BYTES + (16 << 20)
RISE_AGAIN_S = 0.02


Played = tuple[Scenario, list[str], list[str]]
"""A scenario, the complaints about it, and the faults that could not be made here."""


class Victim(Protocol):
    """A process to be killed or stopped. pid: None while it is down."""

    pid: int | None

    async def kill(self, down_s: float) -> None:
        """SIGKILL; whoever supervises it starts it again after `down_s` at the soonest."""


class Missing(Exception):
    """A fault that this machine cannot make, and why."""


class Machine:
    """What of this machine faults need: a small disk, and a clock that can be set for one process."""

    def __init__(self) -> None:
        self.disk: Path | None = None
        template, archs = FAKETIME
        found = [Path(template.format(arch)) for arch in archs]
        self.faketime = next((path for path in found if path.exists()), None)

    def folder(self, name: str) -> Path:
        """A new folder, in memory where there is some: a scenario waits for no disk."""
        return Path(tempfile.mkdtemp(prefix=f"chaos-{name}-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))

    def __enter__(self) -> Self:
        where = Path(tempfile.mkdtemp(prefix="chaos-disk-"))
        line = ["mount", "-t", "tmpfs", "-o", f"size={MOUNT_BYTES}", "chaos", str(where)]
        with suppress(OSError):
            if subprocess.run(line, capture_output=True, check=False).returncode == 0:
                self.disk = where
                return self
        where.rmdir()
        return self

    def __exit__(self, *_: object) -> None:
        if self.disk is not None:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)
            self.disk.rmdir()


@dataclass(slots=True)
class World:
    """What faults are done to. victims: processes that somebody starts again when they end; wires: between them and
    the broker; consumed: streams whose groups may be destroyed; again: lets one of the things that were sent come
    twice.
    """

    broker: "MortalBroker"
    redis: Redis
    victims: Sequence[Victim]
    wires: Sequence[Proxy]
    consumed: Sequence[str]
    again: Callable[[int], Awaitable[None]]


class MortalBroker:
    """A broker that dies, forgets, runs out of disk, and has a clock of its own."""

    def __init__(self, home: Path, machine: Machine, kinds: set[str]) -> None:
        """kinds: of faults that will come to it, which decide on what disk it lives and by what clock."""
        disk = machine.disk if "disk" in kinds else None
        self._own = None if disk is None else disk / home.name
        self._data = (self._own or home) / "broker"
        self._clock = home / "clock" if "clock" in kinds and machine.faketime else None
        self._preload = machine.faketime
        self.running: embedded.Embedded | None = None
        self._turn = asyncio.Lock()
        self._pids: list[int] = []

    @property
    def port(self) -> int:
        assert self.running is not None
        return int(self.running.url.rpartition(":")[2])

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.process.poll() is None

    async def rise(self) -> None:
        """Start it, on the port that it had; while there is no room for it or another has its port, again and again."""
        while not self.alive:
            try:
                async with self._turn:
                    if not self.alive:
                        self.running = await asyncio.to_thread(self._start)
            except Unavailable as error:
                if error.code not in {"disk_full", "port_taken"} or self.running is None:
                    raise
                await asyncio.sleep(RISE_AGAIN_S)

    def _start(self) -> embedded.Embedded:
        with self._timed():
            started = embedded.start(self._data, self.port if self.running else 0)
        self._pids.append(started.pid)
        return started

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """What is started meanwhile looks at a clock that can be set."""
        if self._clock is None:
            yield
            return
        if not self._clock.exists():
            self._clock.write_text("+0")
        given = {
            "LD_PRELOAD": str(self._preload),
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        os.environ |= given
        try:
            yield
        finally:
            for name in given:
                del os.environ[name]

    async def die(self, *, forget: bool = False) -> None:
        """SIGKILL. forget: what it wrote is gone."""
        async with self._turn:
            assert self.running is not None
            self.running.process.kill()
            await asyncio.to_thread(self.running.process.wait)
            if forget and self._data.exists():  # it may have forgotten before, and not come back since
                shutil.rmtree(self._data)

    def jump(self, by_s: float) -> None:
        """Its clock is set. Raises Missing."""
        if self._clock is None:
            msg = "no libfaketime: apt install faketime"
            raise Missing(msg)
        new = self._clock.with_suffix(".new")
        new.write_text(f"{by_s:+.0f}")
        new.replace(self._clock)  # it is read at any time, and must not be empty

    @contextmanager
    def full(self) -> Iterator[None]:
        """Its disk is full. Raises Missing."""
        if self._own is None:
            msg = "no tmpfs could be mounted: be root"
            raise Missing(msg)
        with tempfile.NamedTemporaryFile(dir=self._own) as ballast:
            while free := shutil.disk_usage(self._own).free:
                with suppress(OSError):  # the broker wrote just now: less is free
                    os.posix_fallocate(ballast.fileno(), 0, free)
            yield

    def end(self) -> None:
        """For good."""
        if self.alive:
            self.running.process.send_signal(signal.SIGCONT)
            self.running.stop()
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
        for name in ("faketime_shm_{}", "sem.faketime_sem_{}"):  # a killed process leaves them
            for pid in self._pids:
                (Path(MEMORY) / name.format(pid)).unlink(missing_ok=True)


async def happen(world: World, fault: Fault) -> str | None:
    """Wait for its moment, do it, mend it. None, or why it cannot be done here."""
    await asyncio.sleep(fault.at_s)
    try:
        await _FAULTS[fault.what](world, fault)
    except Missing as missing:
        return str(missing)
    return None


async def _kill(world, fault):
    await world.victims[fault.whom % len(world.victims)].kill(fault.for_s)


async def _stop(world, fault):
    pid = world.victims[fault.whom % len(world.victims)].pid
    if pid is None:
        return
    await _asleep(pid, fault.for_s)


async def _broker_stop(world, fault):
    await _asleep(world.broker.running.pid, fault.for_s)


async def _asleep(pid: int, for_s: float) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(for_s)
        os.kill(pid, signal.SIGCONT)


async def _cut(world, fault):
    wire = world.wires[fault.whom % len(world.wires)]
    wire.cut(True)
    await asyncio.sleep(fault.for_s)
    wire.cut(False)


async def _silence(world, fault):
    wire = world.wires[fault.whom % len(world.wires)]
    wire.silence(True)
    await asyncio.sleep(fault.for_s)
    wire.silence(False)


async def _slow(world, fault):
    wire = world.wires[fault.whom % len(world.wires)]
    wire.slow = True
    await asyncio.sleep(fault.for_s)
    wire.slow = False


async def _broker_kill(world, fault):
    await world.broker.die()
    await asyncio.sleep(fault.for_s)
    await world.broker.rise()


async def _broker_forget(world, fault):
    await world.broker.die(forget=True)
    await asyncio.sleep(fault.for_s)
    await world.broker.rise()


async def _flush(world, fault):
    await _done(world, "FLUSHALL")


async def _destroy(world, fault):
    stream = world.consumed[fault.whom % len(world.consumed)]
    with suppress(ResponseError):  # nobody has made the stream yet
        await _done(world, "XGROUP", "DESTROY", stream, streams.GROUPS[stream])


async def _done(world, *command):
    """A command that an operator gives until it is done."""
    while True:
        try:
            await world.redis.execute_command(*command)
        except ResponseError as error:
            if "MISCONF" not in str(error):  # no room to write it down
                raise
            await asyncio.sleep(RISE_AGAIN_S)
        except RedisError:
            await asyncio.sleep(RISE_AGAIN_S)
        else:
            return


async def _again(world, fault):
    with suppress(RedisError, Unavailable):  # the broker is away: then it does not come twice
        await world.again(fault.whom)


async def _disk(world, fault):
    with world.broker.full():
        await asyncio.sleep(fault.for_s)


async def _clock(world, fault):
    world.broker.jump(fault.by_s)


_FAULTS = {
    "kill": _kill, "stop": _stop, "cut": _cut, "silence": _silence, "slow": _slow,
    "broker_kill": _broker_kill, "broker_stop": _broker_stop, "broker_forget": _broker_forget,
    "flush": _flush, "destroy": _destroy, "again": _again, "disk": _disk, "clock": _clock,
}  # fmt: skip
