"""Give one of several equal edge containers a name that no other has, then become the edge.

Replicas of a container differ in nothing, but an edge is a somebody: its name, its key and what it remembers belong
together. So the names are those that have a key and were not disowned (docs/trust.md: nothing of such a name counts),
and a replica takes the first that is free by locking

    HOME/edges/NODE.lock           beside HOME/edges/NODE/, the state of that name

The lock is the process's, so the kernel gives the name back whatever the container dies of, and the next replica goes
on with that name's key, packets and memory. It holds among containers of one machine that share the volume.
"""
# ruff: noqa: INP001 -- scripts of an image, not a package

import fcntl
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import QigError, Unavailable
from common.runtime import keys
from common.runtime.settings import variable

EDGE = ("-m", "services.edge.app")


def names(home: Path) -> list[str]:
    """Every name that this container holds a key for and that was not disowned, edge-2 before edge-10.

    Raises Unavailable("missing_key").
    """
    disowned = {path.stem for path in keys.disowned_dir(home).glob("*.pub")}
    held = {path.stem for path in (home / "private").glob("*.key")}
    found = sorted(held - disowned, key=lambda name: (len(name), name))
    if held and not found:
        message = f"each of the {len(held)} names with a key in {home / 'private'} was disowned"
        raise Unavailable("missing_key", f"{message}: raise --edges at the service keys in compose.yaml, and run it")
    if not found:
        message = f"no key in {home / 'private'}: deploy/make_keys.py makes them (`keys` in compose.yaml)"
        raise Unavailable("missing_key", message)
    return found


def claim(home: Path, candidates: Sequence[str]) -> tuple[str, int]:
    """The first free name, and the handle that holds it for as long as it is open.

    Raises Unavailable: "no_free_name", "home_unwritable".
    """
    for name in candidates:
        path = home / "edges" / f"{name}.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable("home_unwritable", f"cannot write {path}: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        return name, handle
    message = f"all {len(candidates)} names are taken ({', '.join(candidates)}): enrol more edges in compose.yaml, keys"
    raise Unavailable("no_free_name", message)


def main() -> None:
    """QIG_HOME says where; QIG_NODE, when it is set, is the one name that will do."""
    home = Path(os.environ.get(variable("home"), ".qig"))
    given = os.environ.get(variable("node"))
    try:
        name, handle = claim(home, [given] if given else names(home))
    except QigError as error:
        sys.stderr.write(f"claim_node: {error}\n")
        sys.exit(2)
    os.set_inheritable(handle, True)  # the lock lives on in what this process becomes
    os.environ[variable("node")] = name
    os.execv(sys.executable, [sys.executable, *EDGE])  # noqa: S606 -- our own program, without a shell


if __name__ == "__main__":
    main()
