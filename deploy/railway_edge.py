"""Lay out an edge's directory on Railway, where nothing can be copied into a volume, then become the edge.

    EDGE_KEY        ─▶ HOME/private/NODE.key        secret: what it signs packets with
    FLEET_ROOT      ─▶ HOME/trust/root.json         public: what it believes bundles by
    EDGE_API_KEYS   ─▶ HOME/trust/api-keys.json     hashes: who may ask it
    FLEET_SECRET    ─▶ HOME/private/fleet.secret    secret, and only in private mode

A key and a root that are in the volume stay what they are: another one in the variable is somebody's mistake, and ends
the start. Hashes of API keys and the secret follow the variable: where it is taken away, so is the file. No variable
reaches the edge's own environment.

Railway mounts a volume for root, and runs an image as root where RAILWAY_RUN_UID says 0: then the volume is given to
the image's user, and the edge runs as that.
"""
# ruff: noqa: INP001 -- scripts of an image, not a package

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.errors import QigError, Rejected, Unavailable
from common.runtime import keys
from common.runtime.api_keys import default_path
from common.runtime.settings import variable

EDGE: Final = ("-m", "services.edge.app")
USER: Final = 10001  # the image's, Dockerfile
KEY, ROOT, API_KEYS, SECRET = "EDGE_KEY", "FLEET_ROOT", "EDGE_API_KEYS", "FLEET_SECRET"
VARIABLES: Final = (KEY, ROOT, API_KEYS, SECRET)
FOLLOWING: Final = (API_KEYS, SECRET)


def lay_out(home: Path, node: str, given: Mapping[str, str]) -> list[Path]:
    """Write what the variables hold and the directory lacks, delete what follows a variable that is not there; the
    files that were written or deleted.

    Raises Rejected("other_key", "missing_variable"), Unavailable("home_unwritable").
    """
    places = {
        KEY: keys.private_path(home, node),
        ROOT: keys.root_path(home),
        API_KEYS: default_path(home),
        SECRET: keys.secret_path(home),
    }
    changed = []
    for name, path in places.items():
        text = given.get(name, "").strip()
        try:
            held = path.read_text(encoding="utf-8").strip() if path.exists() else ""
            if not text and not held and name not in FOLLOWING:
                message = f"{name} is not set, and there is no {path}: docs/railway.md says what it holds"
                raise Rejected("missing_variable", message)
            if text and held not in ("", text) and name not in FOLLOWING:
                message = f"{name} is not what {path} holds: take the variable back, or delete the file in the volume"
                raise Rejected("other_key", message)
            if text and text != held:
                _write(path, text)
                changed.append(path)
            if not text and name in FOLLOWING and path.exists():
                path.unlink()
                changed.append(path)
        except OSError as error:
            raise Unavailable("home_unwritable", f"cannot use {path}: {error.strerror}; is a volume there?") from None
    return changed


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.part")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    beside.replace(path)


def hand_over(home: Path, user: int) -> None:
    """Give everything below HOME to the user, and become that user."""
    for path in [home, *home.rglob("*")]:
        os.chown(path, user, user, follow_symlinks=False)
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)


def main() -> None:
    """QIG_HOME is the volume, QIG_NODE the edge's name."""
    home, node = Path(os.environ[variable("home")]), os.environ[variable("node")]
    given = {name: os.environ.pop(name, "") for name in VARIABLES}
    try:
        changed = lay_out(home, node, given)
    except QigError as error:
        sys.stderr.write(f"railway_edge: {error}\n")
        sys.exit(2)
    for path in changed:
        sys.stderr.write(f"railway_edge: {'wrote' if path.exists() else 'deleted'} {path}\n")
    if os.environ.get("RAILWAY_RUN_UID") == "0":
        hand_over(home, USER)
    os.execv(sys.executable, [sys.executable, *EDGE])  # noqa: S606 -- our own program, without a shell


if __name__ == "__main__":
    main()
