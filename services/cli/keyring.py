"""`qig keys init`, `qig keys secret`."""

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.errors import Rejected
from common.runtime import keys
from common.runtime.settings import NodeName
from services.cli.show import console, plain

_NAME: TypeAdapter[str] = TypeAdapter(NodeName)


def run(names: list[str], home: Path) -> int:
    """Make what is missing, and say what was made and where."""
    for name in names:
        check_name(name)
    made = keys.init(home, names)
    out = console()
    for path in made:
        secret = " (private: keep it on this machine)" if path.suffix == ".key" else ""
        out.print(f"made {plain(str(path))}{secret}")
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


def check_name(name: str) -> None:
    """Raises Rejected("bad_name") for what cannot be a node: its name becomes a file's."""
    try:
        _NAME.validate_python(name)
    except ValidationError:
        message = f"{name[:80]!r} cannot name a node: letters, digits and . _ - are allowed, 64 at most"
        raise Rejected("bad_name", message) from None
    if name == keys.PUBLISHER:
        raise Rejected("bad_name", f"{name!r} is the publisher's own name: call the edge something else")
