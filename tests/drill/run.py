"""Breaks fleets of real processes, one fault after the other, and asks a real Prometheus: does each alert fire, and
clear once the fault has ended? The shipped rules, with their durations divided by 60. Ends with 1 if one does not.

    python tests/drill/run.py                      every theme, side by side
    python tests/drill/run.py state learning       some, by the names of the files beside this one
"""

import asyncio
import importlib
import logging
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "live"), str(TESTS / "chaos")]

from drill_rules import DRILLED, FACTOR  # noqa: E402
from stage import say  # noqa: E402
from test_prometheus import PROMETHEUS  # noqa: E402


async def main(themes):
    logging.disable()  # what services say of faults is in their logs
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qig-drill-") as scratch:
        wrong = await asyncio.gather(*(played(theme, Path(scratch) / theme) for theme in themes))
    say(f"{time.monotonic() - began:.0f} s; durations are those of the shipped rules divided by {FACTOR}")
    for line in (line for lines in wrong for line in lines):
        say(f"failed: {line}")
    return 1 if any(wrong) else 0


async def played(theme, scratch):
    """What went wrong in a theme, a line each."""
    scratch.mkdir()
    try:
        left = await importlib.import_module(theme).play(scratch)
    except Exception:  # noqa: BLE001 -- the other themes go on
        return [f"{theme}: {traceback.format_exc()}"]
    return [f"{alert} {what}" for alert, what in left.items()]


if __name__ == "__main__":
    if PROMETHEUS is None:
        sys.exit("no prometheus on the path; Debian's package prometheus brings it")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its processes end with it
    sys.exit(asyncio.run(main(sys.argv[1:] or DRILLED)))
