"""`qig stop`: what Ctrl-C does where `qig up` runs, from another terminal; or the end of what a killed one left."""

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from common.errors import Unavailable
from services.cli import home as places
from services.cli.broker import clear_left
from services.cli.show import command, console, doing, plain

_POLL_S: Final = 0.05


def run(home: Path) -> int:
    """Also where nothing runs it is done. Raises Unavailable: "still_running", "still_ending"."""
    out, home = console(), home.resolve()
    pid = places.holder(home)
    if pid is None and not _is_left(home):
        near = places.running_near(home)
        there = "" if near is None else f"; on {near} one does: {command('stop', near)}"
        out.print(plain(f"no constellation runs on {home}{there}"), soft_wrap=True)
        return 0
    who = f"what a killed `qig up` left on {home}" if pid is None else f"pid {pid} on {home}"
    with doing(out, f"{who} stops: every process finishes what is in flight"):
        if pid is not None:
            _end(pid, home)
        if _is_left(home):  # it was killed, then or now
            asyncio.run(clear_left(home))
    out.print(plain(f"stopped; the state is kept, and {command('up', home)} goes on from it"), soft_wrap=True)
    return 0


def _end(pid: int, home: Path) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline_s = time.monotonic() + places.REST_S
    while places.holder(home) == pid:
        if time.monotonic() > deadline_s:
            message = f"pid {pid} still runs on {home} after {places.REST_S:g} s"
            raise Unavailable("still_running", f"{message}: `kill -9 {pid}` loses nothing that was acknowledged")
        time.sleep(_POLL_S)


def _is_left(home: Path) -> bool:
    """Whether a killed fleet has left something here, a broker perhaps whose services have ended."""
    return places.is_ending(home) or (not places.is_locked(home) and places.read_broker(home) is not None)
