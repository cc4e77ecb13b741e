"""Make the keys of a fleet whose services share no disk: each key goes to the volume of whoever may see it.

    TO/publisher/publisher.key     the publisher's volume
    TO/edges/edge-N.key            the edges' volume
    TO/edges/fleet.secret          the same: what private edges hash with
    TO/trust/publisher.pub         everybody's volume, public
    TO/trust/edges/edge-N.pub      enrolled edges, public

Run it as often as you like, also with more edges than before: a key that exists is never replaced. A private key is in
place before the public one says that it exists, so a run that is cut short is completed by the next.
"""
# ruff: noqa: INP001 -- scripts of an image, not a package

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import QigError, Unavailable
from common.runtime import keys


def make(to: Path, nodes: Sequence[str]) -> list[Path]:
    """Make what is missing; returns the files written. Raises Unavailable("home_unwritable") and keys.init's errors."""
    private = {keys.PUBLISHER: to / "publisher" / "publisher.key"}
    private |= {node: to / "edges" / f"{node}.key" for node in nodes}
    public = {keys.PUBLISHER: to / "trust" / "publisher.pub"}
    public |= {node: to / "trust" / "edges" / f"{node}.pub" for node in nodes}
    for name, path in private.items():
        if public[name].exists() and not path.exists():
            message = (
                f"{path} is lost, and {public[name]} still names it: restore it, or remove the public key to begin anew"
            )
            raise Unavailable("missing_key", message)
    with tempfile.TemporaryDirectory() as scratch:  # memory, in a container: no volume ever holds another one's key
        home = Path(scratch)
        for name, path in private.items():
            if path.exists():
                link = keys.private_path(home, name)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path)
        keys.init(home, nodes)
        keys.make_secret(home)
        written = [path for name, path in private.items() if _place(keys.private_path(home, name), path, 0o600)]
        secret = to / "edges" / keys.secret_path(home).name
        written += [secret] if _place(keys.secret_path(home), secret, 0o600) else []
        made = {node: keys.edges_dir(home) / f"{node}.pub" for node in nodes}
        made[keys.PUBLISHER] = keys.publisher_path(home)
        return written + [path for name, path in public.items() if _place(made[name], path, 0o644)]


def _place(source: Path, path: Path, mode: int) -> bool:
    """Copy a key to where it belongs, whole or not at all; False when one is there."""
    if path.exists():
        return False
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.unlink(missing_ok=True)
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(source.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        staged.rename(path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; the volume must belong to user {os.getuid()}"
        raise Unavailable("home_unwritable", message) from None
    return True


def main() -> None:
    """`python deploy/make_keys.py --edges 16`."""
    parser = argparse.ArgumentParser(description="Make the keys that are missing, each in the volume where it belongs.")
    parser.add_argument("--edges", type=int, required=True, help="names to enrol: edge-1 to edge-N")
    parser.add_argument("--to", type=Path, default=Path("/keys"), help="where the volumes are mounted")
    given = parser.parse_args()
    try:
        written = make(given.to, [f"edge-{number}" for number in range(1, given.edges + 1)])
    except QigError as error:
        sys.exit(f"make_keys: {error}")
    sys.stdout.write(f"{len(written)} keys made, {given.edges} edges enrolled\n")


if __name__ == "__main__":
    main()
