"""Who ends the broker that a killed `qig up` has left: a process of its own, for nothing else runs after a kill -9.

    its standard input closes (the fleet's process is gone) ─▶ the services have ended ─▶ SIGTERM to the broker

On Linux the services end by themselves then (child.py), and finish what is in flight while the broker is still there.
"""

import os
import subprocess
import sys
from pathlib import Path


def start(home: Path) -> "subprocess.Popen[bytes]":
    """Have the broker of `home` ended when this process is gone, unless `dismiss` comes first."""
    return subprocess.Popen(  # noqa: S603 -- our own module
        [sys.executable, "-m", "services.cli.keeper", str(home), str(os.getpid())],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def dismiss(keeper: "subprocess.Popen[bytes]") -> None:
    """Nothing is left to be ended."""
    keeper.kill()  # before its input closes
    keeper.communicate()


def main(home: Path, fleet: int) -> None:
    """Wait for the end of the process `fleet`, which started this, then for its services', and end what it has left;
    unless its next fleet, or `qig stop`, has come first.
    """
    sys.stdin.buffer.read()
    # imported now: for as long as all is well it waits in ten megabytes
    from services.cli import broker  # noqa: PLC0415
    from services.cli import home as places  # noqa: PLC0415

    with places.members_of(home, fleet) as are_ours:
        if are_ours:
            broker.end_left(home)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
