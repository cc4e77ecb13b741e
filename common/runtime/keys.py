"""Key files: who signs, and whom we believe (ed25519); and the secret that edges share.

    HOME/private/publisher.key      hex seed, mode 0600; signs bundles
    HOME/private/NODE.key           the same for an edge; signs its packets
    HOME/private/fleet.secret       32 bytes in hex, the same for all edges: what they mention is hashed with it
    HOME/trust/publisher.pub        hex public key; edges believe bundles that it verifies
    HOME/trust/edges/NODE.pub       an enrolled edge; the aggregator believes its packets

A centre needs no private key of an edge and an edge none of the publisher: copy only what each needs. Who runs the
centre must not have the secret: with it, what an edge only mentions can be guessed.
"""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey, VerifyKey

from common.errors import Rejected, Unavailable
from common.wire.packet import key_id

PUBLISHER: Final = "publisher"
_KEY_BYTES: Final = 32


def private_path(home: Path, name: str) -> Path:
    """Where the private key of the publisher or a node lies."""
    return home / "private" / f"{name}.key"


def publisher_path(home: Path) -> Path:
    """Where the publisher's public key lies."""
    return home / "trust" / f"{PUBLISHER}.pub"


def edges_dir(home: Path) -> Path:
    """Where the enrolled edges' public keys lie."""
    return home / "trust" / "edges"


def secret_path(home: Path) -> Path:
    """Where the secret that edges share lies."""
    return home / "private" / "fleet.secret"


def init(home: Path, nodes: Sequence[str]) -> list[Path]:
    """Make the keys that are not there yet, for the publisher and for `nodes`; returns the files written.

    A key that exists is never replaced: what it signed must stay verifiable. So a public key alone gets no private one
    beside it: whoever signs with that name is elsewhere, or has lost it. Raises Unavailable("home_unwritable").
    """
    written: list[Path] = []
    targets = {PUBLISHER: publisher_path(home), **{node: edges_dir(home) / f"{node}.pub" for node in nodes}}
    try:
        for name, public in targets.items():
            private = private_path(home, name)
            if public.exists():
                continue
            if not private.exists():
                _write(private, SigningKey.generate().encode().hex(), 0o600)
                written.append(private)
            _write(public, load_private(home, name).verify_key.encode().hex(), 0o644)
            written.append(public)
    except OSError as error:
        message = f"cannot write keys below {home}: {error.strerror}; choose another directory with QIG_HOME"
        raise Unavailable("home_unwritable", message) from None
    return written


def make_secret(home: Path) -> Path | None:
    """Make the secret that edges share, once for a fleet; None where there is one: another would share nothing with it.

    Raises Unavailable("home_unwritable").
    """
    path = secret_path(home)
    try:
        if path.exists():
            return None
        _write(path, secrets.token_hex(_KEY_BYTES), 0o600)
    except OSError as error:
        message = f"cannot write {path}: {error.strerror}; choose another directory with QIG_HOME"
        raise Unavailable("home_unwritable", message) from None
    return path


def load_secret(path: Path) -> bytes:
    """The 32 bytes that edges share. Raises Unavailable("missing_secret"), Rejected("bad_key")."""
    try:
        return _read(path)
    except Unavailable:
        message = f"no secret at {path}: bring the fleet's, or make that of a new fleet with `qig keys secret`"
        raise Unavailable("missing_secret", message) from None


def load_private(home: Path, name: str) -> SigningKey:
    """The signing key of the publisher or a node. Raises Unavailable("missing_key"), Rejected("bad_key")."""
    return SigningKey(_read(private_path(home, name)))


def load_public(path: Path) -> VerifyKey:
    """A public key. Raises Unavailable("missing_key"), Rejected("bad_key")."""
    return VerifyKey(_read(path))


def load_enrolled(home: Path) -> dict[bytes, tuple[str, VerifyKey]]:
    """Enrolled edges by key id: what an envelope names. Empty when nobody is enrolled; read again to see new ones."""
    enrolled: dict[bytes, tuple[str, VerifyKey]] = {}
    for path in sorted(edges_dir(home).glob("*.pub")):
        public = load_public(path)
        enrolled[key_id(public)] = (path.stem, public)
    return enrolled


def _read(path: Path) -> bytes:
    try:
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        message = f"no key at {path}: bring it back, or make the keys of a new fleet with `qig keys init`"
        raise Unavailable("missing_key", message) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected("bad_key", f"cannot read the key at {path}: {error}") from None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise Rejected(
            "bad_key", f"{path} is no key: expected {2 * _KEY_BYTES} hexadecimal characters, found {len(text)}"
        )
    return key


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)  # never over a key that is there
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(text + "\n")
