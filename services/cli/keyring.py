"""`qig keys init | secret | rotate | revoke`."""

import re
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from common.errors import Rejected
from common.runtime import keys
from common.runtime.settings import NodeName
from common.trust import roles
from services.cli.show import console, plain

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: TypeAdapter[str] = TypeAdapter(NodeName)


def run(names: list[str], home: Path) -> int:
    """Make what is missing, and say what was made and where."""
    for name in names:
        check_name(name)
    made = keys.init(home, names)
    out = console()
    for path in made:
        out.print(f"made {plain(str(path))}{_advice(path, home)}")
    if not made:
        out.print(f"every key is there already, below {plain(str(home))}: nothing was changed")
    return 0


def secret(home: Path) -> int:
    """Make the secret that edges share, unless there is one, and say where."""
    made = keys.make_secret(home)
    path, out = plain(str(keys.secret_path(home))), console()
    if made is None:
        out.print(f"{path} is there already: nothing was changed")
    else:
        out.print(f"made {path}: copy it to every edge of this fleet, and never to where the aggregator runs")
    return 0


def rotate(names: list[str], home: Path, offline: Path | None) -> int:
    """New keys in the place of old ones that were never stolen."""
    return _replace(names, home, offline, stolen=False, believed=None)


def revoke(names: list[str], home: Path, offline: Path | None, last_good: str | None) -> int:
    """New keys in the place of stolen or lost ones."""
    if keys.PUBLISHER in names and last_good is None:
        message = (
            "whoever has the publisher's key can have released bundles: name the last one that you believe, as an edge"
            " that you trust shows it (`bundle N (DIGEST) serves` in its log), with --last-good DIGEST"
        )
        raise Rejected("no_last_good", message)
    if last_good is not None and not _DIGEST.fullmatch(last_good):
        raise Rejected("bad_digest", f"{last_good[:80]!r} is no digest of a bundle: 64 hexadecimal characters are")
    return _replace(names, home, offline, stolen=True, believed=last_good)


def _replace(names: list[str], home: Path, offline: Path | None, *, stolen: bool, believed: str | None) -> int:
    unknown = [name for name in names if name not in roles.NAMES]
    if unknown:
        message = f"{unknown[0][:80]!r} is no key that bundles hang on: they are {', '.join(roles.NAMES)}"
        raise Rejected("bad_name", message)
    where = keys.offline_dir(home) if offline is None else offline
    out = console()
    for path in keys.replace(home, names, offline=where, stolen=stolen, believed=believed):
        out.print(f"made {plain(str(path))}{_advice(path, home)}")
    out.print("the publisher hands it out in seconds, once it has trust/metadata; edges need nothing")
    return 0


def _advice(path: Path, home: Path) -> str:
    if path.suffix != ".key":
        return ""
    if path == keys.private_path(home, path.stem):
        return " (private: keep it on this machine)"
    return " (private, and needed by nothing that runs: take it away from this machine)"


def check_name(name: str) -> None:
    """Raises Rejected("bad_name") for what cannot be a node: its name becomes a file's."""
    try:
        _NAME.validate_python(name)
    except ValidationError:
        message = f"{name[:80]!r} cannot name a node: letters, digits and . _ - are allowed, 64 at most"
        raise Rejected("bad_name", message) from None
    if name == keys.PUBLISHER:
        raise Rejected("bad_name", f"{name!r} is the publisher's own name: call the edge something else")
