"""Plays scenarios one after the other, says what was wrong with those that failed, and sums up.

    python tests/chaos/run.py --scenarios 500 --seed 0
    python tests/chaos/run.py --scenarios 1 --seed 17 --world whole

Ends with 1 when a scenario failed.
"""

import argparse
import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import light
import small
from faults import Machine
from scenario import light as light_scenario

MEMORY = "/dev/shm"
SCRATCH = MEMORY if os.access(MEMORY, os.W_OK) else None  # a scenario waits for no disk


async def main(given: argparse.Namespace) -> int:
    logging.disable()  # what services say of outages is in their logs
    small.hurry()
    context = light.processes()
    done, failed, missed, took = Counter(), [], Counter(), []
    with Machine() as machine:
        for seed in range(given.seed, given.seed + given.scenarios):
            scenario = light_scenario(seed)
            began = time.monotonic()
            home = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-", dir=SCRATCH))
            found, missing = await light.play(scenario, machine, context, home)
            took.append(time.monotonic() - began)
            done.update(fault.what for fault in scenario.faults)
            missed.update(missing)
            if found:
                failed.append(seed)
                say(f"seed {seed} failed ({'; '.join(map(str, scenario.faults))}): {'; '.join(found)}; logs: {home}")
            else:
                shutil.rmtree(home)
    for reason, number in missed.items():
        say(f"{number} faults could not be made here: {reason}")
    faults = ", ".join(f"{number} {what}" for what, number in done.most_common())
    seeds = f": seeds {', '.join(map(str, failed))}" if failed else ""
    say(f"{given.scenarios} scenarios, {len(failed)} failed{seeds}; faults: {faults}")
    say(f"{median(took):.1f} s a scenario in the median, {max(took):.1f} s at most, {sum(took):.0f} s in all")
    return 1 if failed else 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 -- what this program is for


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenarios", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(asyncio.run(main(parser.parse_args())))
