"""`qig stop`: what Ctrl-C does where `qig up` runs, from another terminal."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from common.errors import Unavailable
from services.cli import home as places
from services.cli.show import command, console, doing, plain

STOP_S: Final = 60.0  # services take 30 s at most, the broker 10
_POLL_S: Final = 0.05


def run(home: Path) -> int:
    """Also where nothing runs it is done. Raises Unavailable("still_running")."""
    out, home = console(), home.resolve()
    pid = places.holder(home)
    if pid is None:
        near = places.running_near(home)
        there = "" if near is None else f"; on {near} one does: {command('stop', near)}"
        out.print(plain(f"no constellation runs on {home}{there}"), soft_wrap=True)
        return 0
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    with doing(out, f"pid {pid} on {home} stops: every process finishes what is in flight"):
        deadline_s = time.monotonic() + STOP_S
        while places.holder(home) == pid or places.is_ending(home):
            if time.monotonic() > deadline_s:
                message = f"pid {pid} still runs on {home} after {STOP_S:g} s"
                raise Unavailable("still_running", f"{message}: `kill -9 {pid}` loses nothing that was acknowledged")
            time.sleep(_POLL_S)
    out.print(plain(f"stopped; the state is kept, and {command('up', home)} goes on from it"), soft_wrap=True)
    return 0
