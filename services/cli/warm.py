"""`qig warm`: compile now what an edge runs, so that its first answers do not wait for it."""

import time
from pathlib import Path

from services.cli.genesis import load
from services.cli.show import console
from services.edge.warm import warm


def run(*, genesis: Path) -> int:
    """Raises as `genesis.load`."""
    began_s = time.monotonic()
    out = console()
    with out.status("compiling"):
        warm(load(genesis))
    out.print(f"[green]✓[/] compiled code is ready: {time.monotonic() - began_s:.1f} s")
    return 0
