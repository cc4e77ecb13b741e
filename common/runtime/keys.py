"""Key files: who signs, and whom we believe (ed25519); and the secret that edges share.

    HOME/offline/root-1.key  -2  -3     hex seeds, mode 0600; two of them say which keys count (common/trust/roles.py)
    HOME/offline/targets.key            the same; says which key is the publisher's
    HOME/private/publisher.key          the same; signs bundles, and the list of them
    HOME/private/NODE.key               the same for an edge; signs its packets
    HOME/private/fleet.secret           32 bytes in hex, the same for all edges: what they mention is hashed with it
    HOME/trust/root.json                the first root: where everybody's belief in bundles begins
    HOME/trust/metadata/                every N.root.json with its N.targets.json: the publisher hands them out
    HOME/trust/edges/NODE.pub           hex public key of an enrolled edge; the aggregator believes its packets
    HOME/trust/edges/NODE@ANY.pub       one more key of the same node: of a machine that runs several edges
    HOME/trust/disowned/                the same of nodes that are enrolled no more

A centre needs no private key of an edge and an edge none of the publisher: copy only what each needs. The offline keys
are needed by nobody who runs: keep HOME/offline elsewhere. A new key is written beside its place as NAME.key.next, then
the metadata that names it, then it is renamed: a run that was cut short is completed by the next. Who runs the centre
must not have the secret: with it, what an edge only mentions can be guessed.
"""

import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from nacl.signing import SigningKey, VerifyKey
from tuf.api.metadata import Root, Targets

from common.errors import Rejected, Unavailable
from common.trust import roles
from common.trust.roles import NAMES, OFFLINE, Offline
from common.wire.packet import key_id

PUBLISHER: Final = roles.PUBLISHER
_KEY_BYTES: Final = 32
_NEXT: Final = ".next"
_RENEW_S: Final = roles.OFFLINE_EXPIRES.total_seconds() / 2


def private_path(home: Path, name: str) -> Path:
    """Where the private key of the publisher or a node lies."""
    return home / "private" / f"{name}.key"


def offline_dir(home: Path) -> Path:
    """Where the keys lie that no service needs, unless they are kept elsewhere."""
    return home / "offline"


def root_path(home: Path) -> Path:
    """The first root: what a reader of bundles is given."""
    return home / "trust" / "root.json"


def metadata_dir(home: Path) -> Path:
    """What the offline keys have signed."""
    return home / "trust" / "metadata"


def edges_dir(home: Path) -> Path:
    """Where the enrolled edges' public keys lie."""
    return home / "trust" / "edges"


def disowned_dir(home: Path) -> Path:
    """Where the public keys of nodes lie that are enrolled no more, because of what they sent."""
    return home / "trust" / "disowned"


def secret_path(home: Path) -> Path:
    """Where the secret that edges share lies."""
    return home / "private" / "fleet.secret"


def init(home: Path, nodes: Sequence[str]) -> list[Path]:
    """Make the keys that are not there yet, for bundles and for `nodes`; returns the files written.

    A key that exists is never replaced: what it signed must stay verifiable. So a public half alone (a root, or of a
    node) gets no private one beside it: whoever signs with that name is elsewhere, or has lost it. A node that was
    disowned is not enrolled again. Metadata past half its time is signed again where the offline keys are at hand.
    Raises Unavailable("home_unwritable").
    """
    try:
        written = _init_trust(home)
        for node in nodes:
            public, private = edges_dir(home) / f"{node}.pub", private_path(home, node)
            if public.exists() or (disowned_dir(home) / public.name).exists():
                continue
            if not private.exists():
                _write(private, SigningKey.generate().encode().hex(), 0o600)
                written.append(private)
            _write(public, load_private(home, node).verify_key.encode().hex(), 0o644)
            written.append(public)
    except OSError as error:
        raise _unwritable(home, error) from None
    return written


def replace(
    home: Path, names: Sequence[str], *, offline: Path, stolen: bool = False, believed: str | None = None
) -> list[Path]:
    """Give each of `names` (roles.NAMES) a new key, signed for by the others; returns the files written.

    offline: where the offline keys lie. stolen: the old ones sign nothing any more, not even their own replacement.
    believed: with a stolen key of the publisher, the digest of the last release that is believed.

    Raises Rejected("not_enough_keys", "bad_key"), Unavailable("missing_root", "home_unwritable"), Corrupt.
    """
    try:
        _settle(home, offline)
        held = load_offline(home)
        new = {name: SigningKey.generate() for name in names}
        hostile = set(_ids(held, names).values()) if stolen else set()
        old = [key for key in _at_hand(offline) if key_id(key.verify_key).hex() not in hostile]
        made = roles.replaced(
            held,
            {name: key.verify_key for name, key in new.items()},
            [*old, *new.values()],
            now_s=time.time(),
            stolen=stolen,
            believed=believed,
        )
        for name, key in new.items():
            staged = _next(_place(home, offline, name))
            staged.unlink(missing_ok=True)
            _write(staged, key.encode().hex(), 0o600)
        written = _keep(home, made)
        _settle(home, offline)
    except OSError as error:
        raise _unwritable(home, error) from None
    return written + [_place(home, offline, name) for name in names]


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


def load_root(home: Path) -> bytes:
    """The root that belief in bundles begins with. Raises Unavailable("missing_root"), Corrupt("bad_metadata")."""
    path = root_path(home)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        old = home / "trust" / f"{PUBLISHER}.pub"
        why = f"{old} is of an older version, and counts no more: " if old.exists() else ""
        message = (
            f"no root at {path}: {why}run `qig keys init` (or `qig up`) where the publisher's private key lies, "
            "and copy trust/root.json from there"
        )
        raise Unavailable("missing_root", message) from None
    except OSError as error:
        raise Rejected("bad_key", f"cannot read {path}: {error.strerror}") from None
    roles.parsed(data, Root)
    return data


def load_offline(home: Path) -> Offline:
    """What the offline keys have signed until now. Raises as `load_root`."""
    chain = _roots(home)
    path = metadata_dir(home) / f"{roles.parsed(chain[-1], Root).version}.targets.json"
    try:
        targets = path.read_bytes()
    except OSError as error:
        message = f"cannot read {path}: {error.strerror}; bring trust/metadata back from where `qig keys` was run"
        raise Unavailable("missing_root", message) from None
    roles.parsed(targets, Targets)
    return Offline(tuple(chain), targets)


def load_enrolled(home: Path) -> dict[bytes, tuple[str, VerifyKey]]:
    """Enrolled edges by key id, as an envelope names them: their node and key. Empty when nobody is enrolled; read
    again to see new ones.
    """
    enrolled: dict[bytes, tuple[str, VerifyKey]] = {}
    for path in sorted(edges_dir(home).glob("*.pub")):
        public = load_public(path)
        enrolled[key_id(public)] = (path.stem.partition("@")[0], public)
    return enrolled


def disown(home: Path, node: str) -> list[Path]:
    """Enrol a node no more: its public keys move aside, where a person may look at them; where they are now.

    Raises Unavailable("home_unwritable").
    """
    moved = []
    try:
        for path in sorted(edges_dir(home).glob("*.pub")):
            if path.stem.partition("@")[0] == node:
                there = disowned_dir(home) / path.name
                there.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                moved.append(path.replace(there))
    except OSError as error:
        raise _unwritable(home, error) from None
    return moved


def _roots(home: Path) -> list[bytes]:
    """Every root, the oldest first: a reader follows them one by one."""
    chain = [load_root(home)]
    version = roles.parsed(chain[0], Root).version
    while (path := metadata_dir(home) / f"{version + len(chain)}.root.json").exists():
        chain.append(path.read_bytes())
        roles.parsed(chain[-1], Root)
    return chain


def _init_trust(home: Path) -> list[Path]:
    """The offline keys, the publisher's, and the metadata that names them; root.json last, for it says all is there."""
    offline = offline_dir(home)
    if root_path(home).exists():
        _settle(home, offline)
        return _renewed(home, offline)
    private, before = private_path(home, PUBLISHER), home / "trust" / f"{PUBLISHER}.pub"
    if before.exists() and not private.exists():
        return []
    written: list[Path] = []
    for name in NAMES:
        place = _place(home, offline, name)
        if not place.exists():
            _write(place, SigningKey.generate().encode().hex(), 0o600)
            written.append(place)
    held = {name: SigningKey(_read(_place(home, offline, name))) for name in NAMES}
    made = roles.first({name: key.verify_key for name, key in held.items()}, held, now_s=time.time())
    written += _keep(home, made)
    _replace(root_path(home), made.root)
    before.unlink(missing_ok=True)  # of a version whose bundles one key vouched for: that key is the publisher's still
    return [*written, root_path(home)]


def _renewed(home: Path, offline: Path) -> list[Path]:
    """Sign again what is past half its time, if the keys are here."""
    at_hand = _at_hand(offline)
    if not metadata_dir(home).is_dir() or not at_hand:
        return []
    held = load_offline(home)
    ends = min(roles.parsed(held.root, Root).expires, roles.parsed(held.targets, Targets).expires)
    if ends.timestamp() - time.time() > _RENEW_S:
        return []
    return _keep(home, roles.replaced(held, {}, at_hand, now_s=time.time()))


def _settle(home: Path, offline: Path) -> None:
    """Complete what a run before this one began: a new key that the metadata names takes its place, another goes."""
    named = _ids(load_offline(home), NAMES) if metadata_dir(home).is_dir() else {}
    for name in NAMES:
        place = _place(home, offline, name)
        staged = _next(place)
        if not staged.exists():
            continue
        if key_id(SigningKey(_read(staged)).verify_key).hex() == named.get(name):
            staged.replace(place)
        else:
            staged.unlink()


def _ids(held: Offline, names: Iterable[str]) -> dict[str, str]:
    keys = roles.named_keys(roles.parsed(held.root, Root))
    return {name: keys[name].keyid for name in names}


def _at_hand(offline: Path) -> list[SigningKey]:
    places = [offline / f"{name}.key" for name in OFFLINE]
    return [SigningKey(_read(place)) for place in places if place.exists()]


def _keep(home: Path, made: Offline) -> list[Path]:
    """The root last: it says that its targets metadata is there."""
    version = roles.parsed(made.root, Root).version
    root, targets = (metadata_dir(home) / f"{version}.{role}.json" for role in ("root", "targets"))
    _replace(targets, made.targets)
    _replace(root, made.root)
    return [root, targets]


def _place(home: Path, offline: Path, name: str) -> Path:
    return private_path(home, name) if name == PUBLISHER else offline / f"{name}.key"


def _next(place: Path) -> Path:
    return place.with_name(place.name + _NEXT)


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


def _replace(path: Path, data: bytes) -> None:
    """Public metadata: the old bytes or all the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(f".{path.name}.part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _unwritable(home: Path, error: OSError) -> Unavailable:
    message = f"cannot write keys below {home}: {error.strerror}; choose another directory with QIG_HOME"
    return Unavailable("home_unwritable", message)
