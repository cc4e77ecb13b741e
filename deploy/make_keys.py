"""Make the keys of a fleet whose services share no disk: each key goes to the volume of whoever may see it.

    TO/offline/                    nobody's volume: keep it elsewhere (docs/trust.md)
    TO/private/publisher.key       the publisher's volume
    TO/edges/edge-N.key            the edges' volume
    TO/edges/fleet.secret          the same: what private edges hash with
    TO/trust/root.json             everybody's volume, public
    TO/trust/metadata/             what the publisher hands out, public
    TO/trust/edges/edge-N.pub      enrolled edges, public
    TO/broker/                     nobody's volume: a home of its own, with the broker's users and all their passwords
    TO/users/users.acl             the broker's volume: its users, and hashes of their passwords
    TO/private/broker.url          the publisher's address of the broker, with its password; edges/, aggregator/,
                                   trainer/ and operator/ have theirs

Without the edges' keys TO is a home, so `qig keys rotate --home TO` works there; `qig keys broker --home
TO/broker` does in any case.

Run it as often as you like, also with more edges than before: a key that exists is never replaced. A private key is in
place before the public one says that it exists, so a run that is cut short is completed by the next. What is copied
from TO/broker is made equal to it, so a password that was rotated there is handed on by the next run; a USER.url that
was taken away from there (docs/broker.md) leaves what was handed on as it is.
"""
# ruff: noqa: INP001 -- scripts of an image, not a package

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.errors import QigError, Unavailable
from common.runtime import access, keys
from common.runtime.rights import OPERATOR

ADDRESSES = {
    "publisher": "private",
    "edge": "edges",
    "aggregator": "aggregator",
    "trainer": "trainer",
    OPERATOR: OPERATOR,
}


def make(to: Path, nodes: Sequence[str]) -> list[Path]:
    """Make what is missing; returns the files written. Raises Unavailable("home_unwritable") and keys.init's errors."""
    public = {keys.PUBLISHER: keys.root_path(to)} | {node: keys.edges_dir(to) / f"{node}.pub" for node in nodes}
    for name, path in public.items():
        private = to / _place_of(keys.private_path(Path(), name))
        if path.exists() and not private.exists():
            message = f"{private} is lost, and {path} still names it: restore it, or remove that one to begin anew"
            raise Unavailable("missing_key", message)
    with tempfile.TemporaryDirectory() as scratch:  # memory, in a container: no volume ever holds another one's key
        home = Path(scratch)
        for folder in ("offline", "private", "trust"):
            (home / folder).mkdir(mode=0o700)
            if (to / folder).is_dir():
                no_keys = shutil.ignore_patterns(".*", "*.url")
                shutil.copytree(to / folder, home / folder, dirs_exist_ok=True, ignore=no_keys)
        for path in (to / "edges").glob("[!.]*"):
            if path.suffix != ".url":
                shutil.copy(path, home / "private")
        keys.init(home, nodes)
        keys.make_secret(home)
        made = sorted((path for path in home.rglob("*") if path.is_file()), key=_order)
        return [path for source in made if _place(source, path := to / _place_of(source.relative_to(home)))]


def make_users(to: Path, address: str) -> list[Path]:
    """Make the broker's users that are missing, and give everybody what is its own; returns the files written.

    address: the broker's. Raises what access.make raises.
    """
    home = to / "broker"
    access.make(home, address=address)
    given = {to / folder / "broker.url": access.url_path(home, user) for user, folder in ADDRESSES.items()}
    written = [path for path, source in given.items() if _hand_on(source, path, 0o600)]
    # The server is of another user than we, and hashes of random passwords tell nobody anything. Last: it may start.
    listed = to / "users" / access.acl_path(home).name
    return [*written, *([listed] if _hand_on(access.acl_path(home), listed, 0o644) else [])]


def _place_of(path: Path) -> Path:
    """Where a home's file belongs: private keys of edges in a volume of their own."""
    return Path("edges", path.name) if path.parts[0] == "private" and path.stem != keys.PUBLISHER else path


def _order(path: Path) -> tuple[bool, bool, bool]:
    """Private before public; a root after the targets metadata it stands for, and the first root, which all follows."""
    return (
        path.parts[-2] not in ("offline", "private"),
        path.name.endswith(".root.json"),
        path.name == keys.root_path(Path()).name,
    )


def _place(source: Path, path: Path) -> bool:
    """Copy a key to where it belongs; False when one is there."""
    if path.exists():
        return False
    _copy(source, path, source.stat().st_mode & 0o777)
    return True


def _hand_on(source: Path, path: Path, mode: int) -> bool:
    """Make a copy equal to what it is a copy of; False when it is, or when that was taken away."""
    if not source.exists() or (path.exists() and path.read_bytes() == source.read_bytes()):
        return False
    _copy(source, path, mode)
    return True


def _copy(source: Path, path: Path, mode: int) -> None:
    """Whole or not at all."""
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged.unlink(missing_ok=True)
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(source.read_bytes())
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        staged.rename(path)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; the volume must belong to user {os.getuid()}"
        raise Unavailable("home_unwritable", message) from None


def main() -> None:
    """`python deploy/make_keys.py --edges 16 --broker redis://broker:6379`."""
    parser = argparse.ArgumentParser(description="Make the keys that are missing, each in the volume where it belongs.")
    parser.add_argument("--edges", type=int, required=True, help="names to enrol: edge-1 to edge-N")
    parser.add_argument("--broker", required=True, help="address of the broker, without a user")
    parser.add_argument("--to", type=Path, default=Path("/keys"), help="where the volumes are mounted")
    given = parser.parse_args()
    try:
        written = make(given.to, [f"edge-{number}" for number in range(1, given.edges + 1)])
        written += make_users(given.to, given.broker)
    except QigError as error:
        sys.exit(f"make_keys: {error}")
    sys.stdout.write(f"{len(written)} files made, {given.edges} edges enrolled\n")


if __name__ == "__main__":
    main()
