"""`qig keys api add|list|revoke`: who may use the edges' HTTP API."""

import fcntl
import json as json_text
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from common.runtime import api_keys
from common.runtime.api_keys import ApiKey
from services.cli import home as places
from services.cli.show import Listing, console, plain


def add(name: str, file: Path | None, home: Path) -> int:
    """Make a key and show it, this once: on standard output alone, so that a script can take it."""
    path = file or api_keys.default_path(home)
    key = api_keys.new_key(secrets.token_bytes(api_keys.SECRET_BYTES))
    _change(path, lambda keys: api_keys.add(keys, name, key, now_s=time.time()))
    sys.stderr.write(f"{name} may use the API with this key; it is shown this once, {path} keeps only its hash\n")
    sys.stdout.write(f"{key}\n")
    return 0


def show(file: Path | None, home: Path, *, json: bool) -> int:
    """Names and ages; there is nothing else to show."""
    path = file or api_keys.default_path(home)
    keys = api_keys.read(path)
    if json:
        for key in keys:
            sys.stdout.write(json_text.dumps({"name": key.name, "added_at_s": key.added_at_s}) + "\n")
        return 0
    table = Listing()
    for column in ("name", "added"):
        table.add_column(column)
    for key in keys:
        table.add_row(key.name, f"{datetime.fromtimestamp(key.added_at_s, UTC):%Y-%m-%d %H:%M} UTC")
    console().print(table if keys else f"no keys in {plain(str(path))}")
    return 0


def revoke(name: str, file: Path | None, home: Path) -> int:
    """End a key: edges that read this file refuse it from the next request on."""
    _change(file or api_keys.default_path(home), lambda keys: api_keys.revoke(keys, name))
    console().print(f"{plain(name)} is revoked")
    return 0


def _change(path: Path, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
    with _locked(path):
        places.write_atomically(path, api_keys.pack(change(api_keys.read(path))), 0o600)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two commands at once: the second waits, so that neither's key is lost."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise places.unwritable(path.parent, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
