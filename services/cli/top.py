"""`qig top`: the fleet at a glance in a terminal: kernels over the last quarter of an hour, services, streams, bundles.

Reads the broker alone, so it works wherever `qig watch` does. Needs Textual.
"""

import asyncio
import importlib.util
import sys
from pathlib import Path

from common.errors import Unavailable
from services.cli.broker import check_there, client, find_url
from services.cli.glance import Reader


def run(*, every_s: float, home: Path) -> int:
    """Until q. Raises Unavailable: "no_textual" with what to install, "no_terminal", "no_broker", "broker_away"."""
    check_textual()
    check_terminal()
    from services.cli.board import Board  # noqa: PLC0415 -- Textual, which may be missing: the line above says so

    url = find_url(home)

    async def show() -> None:
        async with client(url) as redis:
            await check_there(redis, url)
            await Board(Reader(redis).look, every_s).run_async()

    asyncio.run(show())
    return 0


def check_textual() -> None:
    """Raises Unavailable("no_textual")."""
    if importlib.util.find_spec("textual") is None:
        message = "this needs Textual, which is not installed: pip install textual==8.2.8 (`qig watch` needs nothing)"
        raise Unavailable("no_textual", message)


def check_terminal() -> None:
    """Raises Unavailable("no_terminal"): the board would draw into a pipe for ever, with no key to end it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Unavailable("no_terminal", "this needs a terminal: `qig watch --once` shows the same as plain lines")
