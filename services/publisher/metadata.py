"""What the publisher's key says in TUF: which releases there are, and that this was so lately. Values in, bytes out.

    offline (N.root.json, N.targets.json)  +  releases, oldest first
        ─▶ V.bundles.json    bundles/VERSION ─▶ sha256 and length of the packed Bundle, the newest LISTED
        ─▶ V.snapshot.json   versions and digests of V.bundles.json and N.targets.json
        ─▶ timestamp.json    version and digest of V.snapshot.json; ends after a day, so it is made anew every hour

All three are made together, under one version: the second it is, or one more than before. So versions grow even when
the broker has lost the last ones.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from nacl.signing import SigningKey, VerifyKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp

from common.errors import Corrupt, Rejected, Unavailable
from common.trust import roles
from common.trust.rings import EVERYBODY, RING
from common.trust.roles import BUNDLES, Offline, target_path, version_of
from common.trust.signing import PrivateKey, PublicKey
from common.wire.bundle import digest, is_signed
from common.wire.codec import unpack
from common.wire.messages import Bundle

LISTED: Final = 64  # chosen: 10 KB; an edge that missed more takes the newest all the same
EXPIRES: Final = timedelta(days=1)  # of the timestamp: how long a release can be withheld unnoticed
RENEW_AFTER: Final = timedelta(hours=1)
LIST_EXPIRES: Final = timedelta(days=7)  # of bundles and snapshot, which the timestamp vouches for
KEPT: Final = 4  # older versions that a reader may still be in the middle of
TIMESTAMP: Final = "timestamp.json"

Files = Mapping[str, bytes]  # by the name under which a reader asks for them


def believed(messages: Iterable[bytes], own: VerifyKey, targets: Targets) -> dict[int, bytes]:
    """The releases among `messages`, oldest first, by version: signed by our own key, or a former one that targets
    metadata names, or vouched for by `last_good` and the parents' digests from there on back.
    """
    signers = {**roles.former_keys(targets), PublicKey.of(own).keyid: own}
    found: dict[int, bytes] = {}
    others: dict[str, tuple[Bundle, bytes]] = {}
    for bundle, message in _bundles(messages):
        if is_signed(bundle, signers):
            found.setdefault(bundle.version, message)
        else:
            others[digest(bundle)] = (bundle, message)
    wanted = roles.last_good(targets)
    while wanted is not None and wanted in others:
        bundle, message = others.pop(wanted)
        found.setdefault(bundle.version, message)
        wanted = bundle.parent_digest
    return found


def claimed(messages: Iterable[bytes], offline: Offline) -> set[int]:
    """The versions among `messages` that any key signed which ever was the publisher's, stolen or not."""
    keys = [roles.named_keys(roles.parsed(root, Root))[roles.PUBLISHER] for root in offline.roots]
    signers = {key.keyid: key.verify_key() for key in keys}
    return {bundle.version for bundle, _ in _bundles(messages) if is_signed(bundle, signers)}


def _bundles(messages: Iterable[bytes]) -> Iterator[tuple[Bundle, bytes]]:
    for message in messages:
        with suppress(Rejected):
            yield unpack(Bundle, message), message


def newest(releases: Mapping[int, bytes]) -> dict[int, bytes]:
    """Those that are listed."""
    return {version: releases[version] for version in sorted(releases)[-LISTED:]}


def signed(
    offline: Offline,
    releases: Mapping[int, bytes],
    held: Files,
    key: SigningKey,
    *,
    now_s: float,
    rings: Mapping[int, int] | None = None,
) -> Files:
    """The three files, and the offline ones under the names that readers ask for.

    held: what is in the broker now. rings: of the versions that are not for everybody (common/trust/rings.py).

    Raises Unavailable("key_not_trusted") while `key` is not the one that root and targets metadata name.
    """
    root, targets = roles.parsed(offline.root, Root), roles.parsed(offline.targets, Targets)
    check_key(root, targets, key.verify_key)
    version = max(int(now_s), _version(held.get(TIMESTAMP), root) + 1)
    listing = {
        target_path(number): _target(target_path(number), message, (rings or {}).get(number, EVERYBODY))
        for number, message in releases.items()
    }
    bundles = _signed(Targets(version, expires=_end(now_s, LIST_EXPIRES), targets=listing), key)
    meta = {
        f"{BUNDLES}.json": MetaFile.from_data(version, bundles, ["sha256"]),
        "targets.json": MetaFile.from_data(targets.version, offline.targets, ["sha256"]),
    }
    snapshot = _signed(Snapshot(version, expires=_end(now_s, LIST_EXPIRES), meta=meta), key)
    ahead = MetaFile.from_data(version, snapshot, ["sha256"])
    timestamp = _signed(Timestamp(version, expires=_end(now_s, EXPIRES), snapshot_meta=ahead), key)
    chain = {f"{roles.parsed(each, Root).version}.root.json": each for each in offline.roots}
    return chain | {
        f"{targets.version}.targets.json": offline.targets,
        f"{version}.{BUNDLES}.json": bundles,
        f"{version}.snapshot.json": snapshot,
        TIMESTAMP: timestamp,
    }


def rings_of(offline: Offline, held: Files) -> dict[int, int] | None:
    """The ring of each listed version that has one; None where the list in the broker is not our key's."""
    root, targets = roles.parsed(offline.root, Root), roles.parsed(offline.targets, Targets)
    try:
        timestamp = _own(held[TIMESTAMP], root, Timestamp)
        listed = _own(held[f"{timestamp.snapshot_meta.version}.{BUNDLES}.json"], targets, Targets).targets
    except (KeyError, Corrupt):
        return None
    return {version_of(path): int(target.custom[RING]) for path, target in listed.items() if target.custom}


def outdated(held: Iterable[str], new: Files) -> list[str]:
    """The names in the broker that no reader can still need once `new` is there: of each role all but KEPT. What is new
    is needed whatever its number: a new key counts from the clock, and the one before may have been ahead of it.
    """
    gone: list[str] = []
    for role in (f"{BUNDLES}.json", "snapshot.json", "targets.json"):
        numbers = sorted(
            int(name.partition(".")[0])
            for name in {*held, *new}
            if name.partition(".")[2] == role and name.partition(".")[0].isdecimal()
        )
        gone += [name for number in numbers[:-KEPT] if (name := f"{number}.{role}") not in new]
    return gone


def is_due(offline: Offline, held: Files, *, now_s: float) -> bool:
    """Whether to sign anew: what is in the broker is incomplete, about other keys, or an hour old."""
    root, targets = roles.parsed(offline.root, Root), roles.parsed(offline.targets, Targets)
    own = {f"{root.version}.root.json": offline.root, f"{targets.version}.targets.json": offline.targets}
    try:
        timestamp = _own(held[TIMESTAMP], root, Timestamp)
        snapshot = _own(held[f"{timestamp.snapshot_meta.version}.snapshot.json"], root, Snapshot)
        _own(held[f"{snapshot.meta[f'{BUNDLES}.json'].version}.{BUNDLES}.json"], targets, Targets)
    except (KeyError, Corrupt):
        return True
    whole = all(held.get(name) == data for name, data in own.items())
    now = datetime.fromtimestamp(now_s, UTC)
    fresh = now + EXPIRES - RENEW_AFTER < timestamp.expires <= now + EXPIRES
    return not (whole and fresh and snapshot.meta["targets.json"].version == targets.version)


def ends_s(offline: Offline) -> float:
    """When what the offline keys signed ends, and nobody believes a list any more: seconds since 1970."""
    ends = min(roles.parsed(offline.root, Root).expires, roles.parsed(offline.targets, Targets).expires)
    return ends.timestamp()


def check_key(root: Root, targets: Targets, own: VerifyKey) -> None:
    """Raises Unavailable("key_not_trusted") unless the metadata names this key as the publisher's."""
    named = roles.named_keys(root)[roles.PUBLISHER]
    delegated = roles.delegated_keys(targets)
    mine = PublicKey.of(own).keyid
    if named.keyid != mine or delegated != [mine]:
        message = (
            f"the publisher's key is {mine}, root {root.version} names {named.keyid} and targets {targets.version} "
            f"{', '.join(delegated)}: bring trust/ and private/publisher.key of one `qig keys rotate` together"
        )
        raise Unavailable("key_not_trusted", message)


def _version(timestamp: bytes | None, root: Root) -> int:
    """The version of a timestamp that the present key signed; 0 for none: what a stolen key said binds nobody."""
    if timestamp is None:
        return 0
    try:
        return _own(timestamp, root, Timestamp).version
    except Corrupt:
        return 0


def _own(data: bytes, delegator: Root | Targets, kind: type[roles.T]) -> roles.T:
    """The signed part of what the key that `delegator` names for it signed. Raises Corrupt("bad_metadata")."""
    metadata = roles.opened(data)
    role = BUNDLES if isinstance(delegator, Targets) else kind.type
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise Corrupt("bad_metadata", f"{role} metadata: {error}") from None
    return roles.parsed(data, kind)


def _target(path: str, message: bytes, ring: int) -> TargetFile:
    target = TargetFile.from_data(path, message, ["sha256"])
    if ring != EVERYBODY:
        target.unrecognized_fields["custom"] = {RING: ring}
    return target


def _signed(signed_: Signed, key: SigningKey) -> bytes:
    metadata: Metadata[Any] = Metadata(signed_)
    metadata.sign(PrivateKey(key))
    return metadata.to_bytes()


def _end(now_s: float, after: timedelta) -> datetime:
    return datetime.fromtimestamp(now_s, UTC).replace(microsecond=0) + after
