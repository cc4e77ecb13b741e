"""Keys of an edge's HTTP API: a file of names and hashes. `qig keys api` writes it, an edge reads it.

    {"v": 1, "keys": [{"name": "kiosk", "sha256": "9f86...", "added_at_s": 1790000000.0}]}

A key is 256 random bits and is shown once. So one round of SHA-256 is enough to keep it secret in the file: a slow hash
is for what people can think of.

>>> held = add((), "kiosk", "qig-secret", now_s=1.0)
>>> holder(held, "qig-secret"), holder(held, "qig-guess")
('kiosk', None)
"""

import base64
import hashlib
import hmac
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from common.errors import Rejected
from common.runtime.settings import NodeName

log = logging.getLogger(__name__)

KEYS_MAX: Final = 1000
SECRET_BYTES: Final = 32
_PREFIX: Final = "qig-"  # so that a scanner of leaked secrets, and a person, know what it is


class ApiKey(BaseModel):
    """A key by its hash. name: its client's, also in what an edge keeps of its queries."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: NodeName
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    added_at_s: float


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    v: Literal[1] = 1
    keys: Annotated[tuple[ApiKey, ...], Field(max_length=KEYS_MAX)]


def default_path(home: Path) -> Path:
    """Where the file lies unless QIG_API_KEYS says otherwise."""
    return home / "trust" / "api-keys.json"


def new_key(secret: bytes) -> str:
    """A key of SECRET_BYTES random bytes."""
    assert len(secret) == SECRET_BYTES
    return _PREFIX + base64.urlsafe_b64encode(secret).decode().rstrip("=")


def add(keys: Sequence[ApiKey], name: str, key: str, *, now_s: float) -> tuple[ApiKey, ...]:
    """The keys with one more. Raises Rejected: "key_exists", "too_many_keys", "bad_name"."""
    if any(one.name == name for one in keys):
        raise Rejected("key_exists", f"there is a key named {name!r} already: revoke it first, or choose another name")
    if len(keys) >= KEYS_MAX:
        raise Rejected("too_many_keys", f"{KEYS_MAX} keys are the most: revoke some")
    try:
        return (*keys, ApiKey(name=name, sha256=_hash(key), added_at_s=now_s))
    except ValidationError:
        message = f"{name[:80]!r} cannot name a key: letters, digits and . _ - are allowed, 64 at most"
        raise Rejected("bad_name", message) from None


def revoke(keys: Sequence[ApiKey], name: str) -> tuple[ApiKey, ...]:
    """The keys without one. Raises Rejected("no_such_key")."""
    left = tuple(one for one in keys if one.name != name)
    if len(left) == len(keys):
        raise Rejected("no_such_key", f"no key is named {name!r}: `qig keys api list` shows those there are")
    return left


def holder(keys: Sequence[ApiKey], given: str) -> str | None:
    """The name of the key that was given; None when it is none of these. Takes as long whichever it is."""
    found, hashed = None, _hash(given)
    for one in keys:
        if hmac.compare_digest(one.sha256, hashed):
            found = one.name
    return found


def read(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file; none when there is no file. Raises Rejected("bad_api_keys")."""
    try:
        return _File.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        message = f"{path} is no file of API keys ({reason}): `qig keys api` writes it, QIG_API_KEYS names another"
        raise Rejected("bad_api_keys", message) from None


def pack(keys: Sequence[ApiKey]) -> bytes:
    """What `read` reads."""
    return _File(keys=tuple(keys)).model_dump_json(indent=1).encode() + b"\n"


class KeyFile:
    """The keys of a file that may change at any time, so that a revoked key ends at once, everywhere."""

    def __init__(self, path: Path) -> None:
        """Raises Rejected("bad_api_keys")."""
        self.path = path
        self._seen = self._stamp()
        self._keys = read(path)

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """As the file is now; as it last was while it is gone or cannot be read, so that no accident opens an API."""
        stamp = self._stamp()
        if stamp is not None and stamp != self._seen:
            self._seen = stamp
            try:
                self._keys = read(self.path)
            except Rejected as error:
                log.error("the keys known before still hold: %s", error)  # noqa: TRY400 -- somebody's file is at fault
        return self._keys

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
