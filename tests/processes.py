"""Processes that tests start and kill."""

import os
from pathlib import Path


def is_alive(pid):
    """Whether it runs: one that has ended and was not waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # in a container nobody may collect an orphan: a zombie is dead
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
