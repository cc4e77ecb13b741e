"""One service as a child process: started, watched, started again.

    starting ─▶ running ─┬─ ended ─▶ waiting ─(0.5 s, doubled each time to 30 s; anew after a minute of life)─▶ running
                         ├─ ended with 2 or 70 before it was ever ready ─▶ refused: somebody must change something
                         └─ stop ─▶ SIGTERM ─(30 s)─▶ SIGKILL ─▶ stopped

Where no process can be made, for want of memory perhaps, that is the end of a life too, and it is tried again.
It is in a session of its own: Ctrl-C reaches the command line alone, which stops everything in order. On Linux the
kernel ends it (SIGTERM) when its parent dies without a word.
"""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from common.errors import Unavailable, said

State = Literal["starting", "running", "waiting", "refused", "stopped"]

BACKOFF_FIRST_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0
STEADY_S: Final = 60.0  # a life this long forgets the failures before it
STOP_DEADLINE_S: Final = 30.0  # a service finishes what is in flight within 25 s
FINAL_CODES: Final = (2, 70)  # service.py's: refused, corrupt
_TAIL_BYTES: Final = 4096
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """A supervised process. `command` and `env` are those of every life; `open_log` gives a handle for each."""

    def __init__(
        self,
        command: list[str],
        env: Mapping[str, str],
        log: Path,
        open_log: Callable[[], int],
        inherited: Collection[int] = (),
    ) -> None:
        """inherited: handles that every life has too."""
        self.state: State = "starting"
        self.reason = ""
        self.starts = 0
        self.ready_in = 0  # the life in which it was ready last; of those that `starts` counts
        self.log = log
        self._command = command
        self._env = dict(env)
        self._open_log = open_log
        self._inherited = inherited
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._held = False
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()

    @property
    def pid(self) -> int | None:
        """Of the life that runs now."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def is_starting(self) -> bool:
        """Whether it was not ready yet in this life."""
        return self.ready_in < self.starts

    async def run(self) -> None:
        """Supervise until `stop`. Never raises but when it is cancelled."""
        pause_s = BACKOFF_FIRST_S
        clock = asyncio.get_running_loop().time
        try:
            while not self._stopping:
                began_s = clock()
                code, why = await self._live()
                if self._stopping:
                    break
                if code in FINAL_CODES and not self.ready_in:
                    await self._rest("refused", self.last_line(), None)
                    pause_s = BACKOFF_FIRST_S
                    continue
                pause_s = BACKOFF_FIRST_S if clock() - began_s > STEADY_S else pause_s
                after = f"{why}; starts again in {pause_s:g} s"
                hurried = await self._rest("waiting", after, None if self._held else pause_s)
                pause_s = BACKOFF_FIRST_S if hurried else min(2 * pause_s, BACKOFF_MAX_S)
        finally:
            await self._end()
            self.state, self.reason = "stopped", ""

    async def begun(self, lives: int = 1) -> None:
        """Return when its process was made for the `lives`-th time."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.starts >= lives or self._stopping)

    async def kill(self, *, hold: bool = False) -> None:
        """SIGKILL, as an outage does, and wait until it is gone. hold: stay down until `restart`."""
        self._held = hold
        await self._signal_and_wait(signal.SIGKILL)

    async def restart(self) -> None:
        """End it in good order if it runs, and start it at once."""
        self._held = False
        await self._signal_and_wait(signal.SIGTERM)
        lives = self.starts
        self._wake.set()
        await self.begun(lives + 1)

    async def stop(self) -> None:
        """End it in good order, and keep it down."""
        self._stopping = True
        self._wake.set()
        await self._tell()
        await self._end()

    def last_line(self) -> str:
        """The last thing it wrote: a service that gives up says why in one line."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
                lines = [line for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        except OSError:
            return "it wrote nothing"
        return lines[-1].strip() if lines else "it wrote nothing"

    async def _live(self) -> tuple[int | None, str]:
        """One life: its code, and how it ended; no code where no process could be made."""
        try:
            process = self._process = await self._begin()
        except (OSError, Unavailable) as error:
            self.starts += 1
            await self._tell()
            return None, f"cannot be started ({said(error)})"
        self.starts += 1
        self.state, self.reason = "running", ""
        await self._tell()
        if self._stopping:  # asked while the process was being made
            await self._end()
        code = await process.wait()
        await self._tell()
        return code, ended(code)

    async def _begin(self) -> asyncio.subprocess.Process:
        """Raises OSError, and what `open_log` raises."""
        handle = self._open_log()
        try:
            return await asyncio.create_subprocess_exec(
                *self._command, env=self._env, stdin=asyncio.subprocess.DEVNULL, stdout=handle, stderr=handle,
                start_new_session=True, preexec_fn=die_with_parent(os.getpid()), pass_fds=self._inherited,
            )  # fmt: skip
        finally:
            os.close(handle)

    async def _rest(self, state: State, reason: str, pause_s: float | None) -> bool:
        """Wait until woken (True) or for `pause_s` (False); None: until woken."""
        self.state, self.reason = state, reason
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _signal_and_wait(self, number: signal.Signals) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _end(self) -> None:
        await self._signal_and_wait(signal.SIGTERM)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def service_command(service: str) -> list[str]:
    """How a service of ours is started. Raises Unavailable("no_service") when it is not installed."""
    module = f"services.{service}.app"
    home = Path(__file__).resolve().parent.parent / service
    if not any((home / name).is_file() for name in ("app.py", "app/__main__.py")):
        raise Unavailable("no_service", f"there is no service {service!r} ({module}): reinstall the package")
    return [sys.executable, "-m", module]


def ended(code: int) -> str:
    """How a process ended, by its code or, where it is negative, its signal."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


def die_with_parent(parent: int) -> Callable[[], None] | None:
    """What a Linux child does first: ask for a SIGTERM when its parent is gone."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # found before the fork: the child only calls it

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask
