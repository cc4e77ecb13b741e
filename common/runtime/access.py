"""The broker's users as files: their passwords, and the server's list of users (rights.py).

    HOME/private/broker/users.acl    the server's `aclfile`: each user's rules, and the sha256 of its passwords
    HOME/private/broker/USER.url     the broker's address with USER's name and password, mode 0600: QIG_BROKER_URL_FILE

A password is 256 random bits, so its hash tells nothing. During a rotation two of them count, the one in the file and
the one before it, so that nobody who still has that one is stopped. A USER.url may be taken to where it is needed and
away from here: the user stays, and so does one that a person adds to the list by hand. Each file is replaced whole, and
a run that was cut short is completed by the next.
"""

import hashlib
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit, urlunsplit

from common.errors import Rejected, Unavailable
from common.runtime import embedded, rights
from common.runtime.address import SCHEMES
from common.runtime.rights import UserList

DEFAULT_ADDRESS: Final = "redis://127.0.0.1:6379"
_BYTES: Final = 32


def folder(home: Path) -> Path:
    """Where the files lie."""
    return home / "private" / "broker"


def acl_path(home: Path) -> Path:
    """The server's list of users; a broker of this home has users where this file is."""
    return folder(home) / "users.acl"


def url_path(home: Path, user: str) -> Path:
    """What a user connects with."""
    return folder(home) / f"{user}.url"


def make(home: Path, clients: Sequence[str] = (), *, address: str | None = None) -> list[Path]:
    """Users that are not there yet, one a role and one a client; the files written.

    address: the broker's, without a user: of new files, and of those that are here already; None: theirs stays, and
    new ones take the operator's. Raises Rejected("bad_name", "bad_address"), Unavailable("home_unwritable"),
    Corrupt("bad_acl_file").
    """
    known = _known(home)
    passwords = dict(known.passwords)
    given = None if address is None else _checked(address)
    there = given or _address(home)
    written: list[Path] = []
    for name in clients:
        rights.client(name)
    for user in dict.fromkeys([*rights.ROLES, *passwords, *clients]):
        path, password = url_path(home, user), _password(home, user)
        if password is None and user in passwords:
            continue  # it was taken to where it is needed
        if password is None or (given is not None and _read(path) != _with(given, user, password)):
            password = password or secrets.token_hex(_BYTES)
            _write(path, f"{_with(there, user, password)}\n")
            written.append(path)
        if _hash(password) not in passwords.get(user, ()):
            passwords[user] = [_hash(password), *passwords.get(user, ())[:1]]
    return written + _save(home, replace(known, passwords=passwords))


def rotate(home: Path, user: str) -> list[Path]:
    """A new password for a user, beside the one it has; any before that counts no more. Raises as `make`, and
    Unavailable("unknown_user").
    """
    known, held = _known_of(home, user), _password(home, user)
    fresh = secrets.token_hex(_BYTES)
    hashes = [_hash(fresh), *([_hash(held)] if held else known.passwords[user][:1])]
    there = urlsplit(_read(url_path(home, user))) if held else _address(home)
    saved = _save(
        home, replace(known, passwords={**known.passwords, user: hashes})
    )  # first: a run cut short here has only added a password that nobody has
    _write(url_path(home, user), f"{_with(there, user, fresh)}\n")
    return [*saved, url_path(home, user)]


def retire(home: Path, user: str) -> list[Path]:
    """Of a user that was rotated the old password counts no more. Raises as `rotate`."""
    known, held = _known_of(home, user), _password(home, user)
    hashes = [_hash(held)] if held else known.passwords[user][:1]
    return _save(home, replace(known, passwords={**known.passwords, user: hashes}))


def login(home: Path, user: str, url: str) -> str:
    """The broker at `url` for `user` of this home: with its password; `url` itself where this home has none of it."""
    password = _password(home, user)
    return url if password is None else _with(urlsplit(url), user, password)


def users(home: Path) -> embedded.Users | None:
    """What an embedded broker of this home is started with; None where it has no users. Raises Unavailable."""
    if not _is_there(acl_path(home)):
        return None
    password = _password(home, rights.OPERATOR)
    if password is None:
        message = (
            f"{url_path(home, rights.OPERATOR)} is not there: bring it back, or `qig keys broker --rotate operator`"
        )
        raise Unavailable("missing_key", message)
    return embedded.Users(acl_path(home), rights.OPERATOR, password)


def named(url: str, user: str) -> str:
    """An address with a user's name alone."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}"))


def _known(home: Path) -> UserList:
    path = acl_path(home)
    return rights.user_list(_read(path)) if _is_there(path) else UserList({})


def _known_of(home: Path, user: str) -> UserList:
    known = _known(home)
    if user not in known.passwords:
        message = f"{user[:80]!r} is no user in {acl_path(home)}; there are {', '.join(known.passwords) or 'none'}"
        raise Unavailable("unknown_user", f"{message}: `qig keys broker` makes them")
    return known


def _password(home: Path, user: str) -> str | None:
    path = url_path(home, user)
    return urlsplit(_read(path)).password if _is_there(path) else None


def _address(home: Path) -> SplitResult:
    path = url_path(home, rights.OPERATOR)
    return urlsplit(_read(path) if _is_there(path) else DEFAULT_ADDRESS)


def _checked(address: str) -> SplitResult:
    parts = urlsplit(address)
    if f"{parts.scheme}://" not in SCHEMES or not parts.netloc or "@" in parts.netloc:
        message = f"{address[:200]!r} is no address for users: redis://HOST:PORT, say, without a name (docs/broker.md)"
        raise Rejected("bad_address", message)
    return parts


def _with(address: SplitResult, user: str, password: str) -> str:
    return urlunsplit(address._replace(netloc=f"{user}:{password}@{address.netloc.rpartition('@')[2]}"))


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _save(home: Path, users: UserList) -> list[Path]:
    path = acl_path(home)
    if _is_there(path) and _read(path) == users.text.strip():
        return []
    _write(path, users.text)
    return [path]


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:  # a folder of another user, say
        raise _unreadable(path, error) from None
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> Unavailable:
    return Unavailable("missing_key", f"cannot read {path}: {error.strerror}; give it back to this user")


def _write(path: Path, text: str) -> None:
    """The whole file or none of it, for its owner alone."""
    try:
        for place in (path.parent.parent, path.parent):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; choose another directory with QIG_HOME"
        raise Unavailable("home_unwritable", message) from None
