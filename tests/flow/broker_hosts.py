"""Two hosts on one machine: network namespaces, and between them a link that can be slow, lossy or cut.

A packet goes into a TUN device in one namespace, waits in a thread here, and comes out of the other's, or is lost: many
kernels lack netem. A cut link is silent, as a dead router is. Linux, root and `ip` are needed.
"""

import asyncio
import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")
PACKET_MAX_BYTES = 65_536
_CLONE_NEWNET = 0x4000_0000
_TUNSETIFF = 0x4004_54CA
_TUN_NO_PI = 0x1001
_LOOK_S = 0.05


class Link(threading.Thread):
    """Carries packets between two TUN devices. delay_s, loss and bytes_per_s are of one way; a loss of 1 is a cut."""

    def __init__(self, ends: tuple[int, int]) -> None:
        super().__init__(name="link", daemon=True)
        self.delay_s, self.loss = 0.0, 0.0
        self.bytes_per_s: float | None = None
        self._ends = ends
        self._over = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        chance, number = random.Random(7), itertools.count()
        way: list[tuple[float, int, int, bytes]] = []  # due, in order, where to, what
        free_s = dict.fromkeys(self._ends, 0.0)  # when the way from there has carried what it was given
        other = dict(zip(self._ends, reversed(self._ends), strict=True))
        while not self._over.is_set():
            wait_s = max(0.0, way[0][0] - time.monotonic()) if way else _LOOK_S
            for end in select.select(self._ends, (), (), min(wait_s, _LOOK_S))[0]:
                packet = os.read(end, PACKET_MAX_BYTES)
                if chance.random() < self.loss:
                    continue
                takes_s = len(packet) / self.bytes_per_s if self.bytes_per_s else 0.0
                free_s[end] = max(free_s[end], time.monotonic()) + takes_s
                heapq.heappush(way, (free_s[end] + self.delay_s, next(number), other[end], packet))
            while way and way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(way)
                os.write(end, packet)

    def stop(self) -> None:
        """Carry nothing any more."""
        self._over.set()
        self.join()


@dataclass(frozen=True)
class Host:
    """A namespace, and its address on the link."""

    name: str
    address: str

    def start(self, command: list[str], **options: object) -> "subprocess.Popen[bytes]":
        """A process on it."""
        return subprocess.Popen(["ip", "netns", "exec", self.name, *command], **options)

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, whose sockets are this host's."""
        with ThreadPoolExecutor(1, initializer=_enter, initargs=(self._path,)) as threads:
            return await asyncio.get_running_loop().run_in_executor(threads, work)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Let this thread be on it for a while, and what it starts."""
        before = Path(f"/proc/self/task/{threading.get_native_id()}/ns/net")
        handle = os.open(before, os.O_RDONLY)
        try:
            _enter(self._path)
            yield
        finally:
            _setns(handle)
            os.close(handle)

    def make(self) -> int:
        """The namespace with its end of the link; a handle of that."""
        _ip("netns", "add", self.name)
        with self.here():
            handle = os.open("/dev/net/tun", os.O_RDWR)
            fcntl.ioctl(handle, _TUNSETIFF, struct.pack("16sH22x", self.name.encode(), _TUN_NO_PI))
            _ip("address", "add", f"{self.address}/30", "dev", self.name)
            for device in ("lo", self.name):
                _ip("link", "set", device, "up")
        return handle

    def remove(self) -> None:
        """With whatever still runs on it cut off."""
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, check=False)

    @property
    def _path(self) -> str:
        return f"/run/netns/{self.name}"


@contextmanager
def hosts() -> Iterator[tuple[Host, Host, Link]]:
    """This thread is on the first while they stand. Skips the test where the machine does not allow it."""
    if shutil.which("ip") is None:
        pytest.skip("two hosts on one machine need ip (iproute2)")
    names = [f"qig{os.getpid()}{end}" for end in "ab"]
    here, far = (Host(name, f"10.211.77.{number}") for number, name in enumerate(names, start=1))
    with ExitStack() as stack:
        ends = []
        for host in (here, far):
            stack.callback(host.remove)
            try:
                ends.append(host.make())
            except (subprocess.CalledProcessError, OSError) as error:
                pytest.skip(
                    f"this machine gives a test no network of its own: {getattr(error, 'stderr', None) or error}"
                )
            stack.callback(os.close, ends[-1])
        link = Link((ends[0], ends[1]))
        link.start()
        stack.callback(link.stop)
        stack.enter_context(here.here())
        yield here, far, link


def _enter(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        _setns(handle)
    finally:
        os.close(handle)


def _setns(handle: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot change the network namespace")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)
