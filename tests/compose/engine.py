"""A container engine and compose, whichever of them is here."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = "qig-compose-test"  # nothing of a constellation that runs here under its own name is touched
HEALTH_EVERY_S = 1.0
SYSTEMD = Path("/run/systemd/system")


class Missing(Exception):
    """Containers cannot be run here, and why."""


class Failed(AssertionError):
    """A command of the engine failed; the last of what it said."""


@dataclass(frozen=True, slots=True)
class Engine:
    """program: docker or podman. compose: the command that begins a command of compose. env: of both."""

    program: str
    compose: tuple[str, ...]
    env: dict[str, str]

    async def run(self, *arguments: str, timeout_s: float = 300) -> str:
        """Standard output of a command of the engine. Raises Failed."""
        return await _output((self.program, *arguments), self.env, timeout_s)

    async def up(self, *arguments: str, files: Sequence[str] = ("compose.yaml",), timeout_s: float = 300) -> str:
        """Standard output of `compose ARGUMENTS`. Raises Failed."""
        named = [part for file in files for part in ("--file", file)]
        return await _output((*self.compose, "--project-name", PROJECT, *named, *arguments), self.env, timeout_s)

    async def containers(self) -> list[str]:
        """Ids of the project's running containers."""
        return (await self.run("ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")).split()


@contextmanager
def found(base: str) -> Iterator[Engine]:
    """The engine that can run containers here. base: an image to try it with. Raises Missing."""
    if _works("docker", "info") and _works("docker", "compose", "version"):
        engine = Engine("docker", ("docker", "compose"), dict(os.environ))
        _try(engine, base)
        yield engine
        return
    compose = os.environ.get("COMPOSE") or shutil.which("docker-compose")
    if not _works("podman", "info"):
        raise Missing("neither docker with its daemon and compose nor podman is here")
    if compose is None:
        raise Missing("podman is here and compose is not: name its binary, COMPOSE=/path/to/docker-compose")
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix://{folder}/podman.sock"
        with subprocess.Popen(["podman", "system", "service", "--time=0", address]) as service:
            try:
                engine = Engine("podman", (compose,), os.environ | {"DOCKER_HOST": address})
                _try(engine, base)
                yield engine
            finally:
                service.terminate()


@asynccontextmanager
async def checked(engine: Engine) -> AsyncIterator[None]:
    """While this is open, containers' health is looked at also where podman has no systemd to do it by timers."""
    if engine.program != "podman" or SYSTEMD.is_dir():  # noqa: ASYNC240 -- nothing else runs yet
        yield
        return
    looking = asyncio.create_task(_look(engine))
    try:
        yield
    finally:
        looking.cancel()


async def _look(engine: Engine) -> None:
    while True:
        for container in await engine.containers():
            command = (engine.program, "healthcheck", "run", container)
            quiet = asyncio.subprocess.DEVNULL
            await (await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)).wait()
        await asyncio.sleep(HEALTH_EVERY_S)


def _works(*command: str) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def _try(engine: Engine, base: str) -> None:
    command = [engine.program, "run", "--rm", base, "true"]
    tried = subprocess.run(command, capture_output=True, text=True, env=engine.env, check=False)
    if tried.returncode:
        raise Missing(f"{' '.join(command)}: {tried.stderr.strip()[-500:]}")


async def _output(command: Sequence[str], env: dict[str, str], timeout_s: float) -> str:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(timeout_s):
            said, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        said, complaint = await process.communicate()
        complaint += f"\nnot done after {timeout_s:.0f} s".encode()
    if process.returncode:
        tail = (said[-1500:] + complaint[-2500:]).decode("utf-8", "replace")
        raise Failed(f"{' '.join(command)} ended with {process.returncode}:\n{tail}")
    sys.stderr.write(complaint.decode("utf-8", "replace") if os.environ.get("VERBOSE") else "")
    return said.decode("utf-8", "replace")
