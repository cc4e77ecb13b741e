"""`qig health`: whether a service is ready, in one line. A container's health check runs it every few seconds."""

import asyncio
import sys

from services.cli import probe
from services.cli.app.ending import EXIT_FAILED


def run(*, port: int) -> int:
    """Returns 1 when the service is not ready. Raises Unavailable("no_answer")."""
    why = asyncio.run(probe.why_not_ready(f"http://127.0.0.1:{port}"))
    sys.stdout.write("ready\n" if why is None else f"not ready: {why}\n")
    return 0 if why is None else EXIT_FAILED
