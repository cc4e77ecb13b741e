"""Plays scenarios one after the other, says what was wrong with those that failed, and sums up.

    python tests/chaos/run.py --scenarios 500 --seed 0                   small processes, two seconds each
    python tests/chaos/run.py --scenarios 24 --seed 0 --world whole      the services themselves, half a minute each

Ends with 1 when a scenario failed.
"""

import argparse
import asyncio
import importlib
import logging
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

from faults import Machine

TESTS = Path(__file__).resolve().parents[1]
WORLDS = ("light", "whole")  # each a room with `playing`; one program plays in one of them, for one is impatient


async def main(given: argparse.Namespace) -> int:
    logging.disable()  # what services say of outages is in their logs
    failed, took, faults, missed = [], [], Counter(), Counter()
    with Machine() as machine:
        async with importlib.import_module(given.world).playing(machine) as play:
            for seed in range(given.seed, given.seed + given.scenarios):
                began = time.monotonic()
                played, found, missing = await play(seed)
                took.append(time.monotonic() - began)
                faults.update(fault.what for fault in played.faults)
                missed.update(missing)
                if found:
                    failed.append(seed)
                    say(f"seed {seed} failed ({'; '.join(map(str, played.faults))}): {'; '.join(found)}")
    for reason, number in missed.items():
        say(f"{number} faults could not be made here: {reason}")
    drawn = ", ".join(f"{number} {what}" for what, number in faults.most_common())
    seeds = f": seeds {', '.join(map(str, failed))}" if failed else ""
    say(f"{given.scenarios} scenarios, {len(failed)} failed{seeds}; faults: {drawn}")
    say(f"{median(took):.1f} s a scenario in the median, {max(took):.1f} s at most, {sum(took):.0f} s in all")
    return 1 if failed else 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 -- what this program is for


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=WORLDS, default="light")
    sys.path[:0] = [str(TESTS), str(TESTS / "live")]
    sys.exit(asyncio.run(main(parser.parse_args())))
