"""Who may sign what: TUF's roles, and the metadata that names their keys. Values in, bytes out.

    root        2 of 3 keys, offline    names every key; the next one is signed by 2 of the old and 2 of the new
    targets     1 key, offline          hands bundles/* to the role `bundles`
    bundles     ┐
    snapshot    ├ the publisher's key, online (services/publisher/metadata.py): what is released, and that this is all
    timestamp   ┘ and that it was so lately

A target is a release, bundles/VERSION: the packed Bundle message. Its parts are named in it by digest, so whoever signs
its digest signs them. What a stolen key can do, and how each is replaced: docs/trust.md.

Beside TUF's own fields, targets.json says which releases a publisher whose key is new takes over from its predecessor:

    former      key id ─▶ public key, hex: keys that were the publisher's and were never stolen
    last_good   digest of the last release under a stolen key that is believed; it names its parent's digest, and so on
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from nacl.signing import SigningKey, VerifyKey
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)

from common.errors import Corrupt, Rejected
from common.trust.signing import PrivateKey, PublicKey

ROOT_KEYS: Final = ("root-1", "root-2", "root-3")
ROOT_THRESHOLD: Final = 2
TARGETS_KEY: Final = "targets"
PUBLISHER: Final = "publisher"
OFFLINE: Final = (*ROOT_KEYS, TARGETS_KEY)
NAMES: Final = (*OFFLINE, PUBLISHER)
BUNDLES: Final = "bundles"
FORMER: Final = "former"
LAST_GOOD: Final = "last_good"
T = TypeVar("T", Root, Targets, Snapshot, Timestamp)
OFFLINE_EXPIRES: Final = timedelta(days=730)  # chosen: a stolen key is answered by a new root, a withheld root by this


@dataclass(frozen=True, slots=True)
class Offline:
    """All that the offline keys sign, as bytes: every root, the oldest first, and the newest targets metadata."""

    roots: tuple[bytes, ...]
    targets: bytes

    @property
    def root(self) -> bytes:
        """The newest."""
        return self.roots[-1]


def target_path(version: int) -> str:
    """The target that is the release `version`."""
    return f"{BUNDLES}/{version}"


def version_of(path: str) -> int:
    """The release that a target is. Raises ValueError for a target of another kind."""
    return int(path.removeprefix(f"{BUNDLES}/"))


def first(publics: Mapping[str, VerifyKey], signers: Mapping[str, SigningKey], *, now_s: float) -> Offline:
    """Version 1 of both. publics: every name of NAMES; signers: at least two root keys, and the targets key."""
    held = {name: PublicKey.of(publics[name]) for name in NAMES}
    root = Metadata(Root(version=1, expires=_end(now_s), consistent_snapshot=True))
    _name_keys(root.signed, held)
    targets = Metadata(Targets(version=1, expires=_end(now_s), delegations=_delegations(held[PUBLISHER])))
    _sign(root, (signers[name] for name in ROOT_KEYS if name in signers))
    _sign(targets, [signers[TARGETS_KEY]])
    return Offline((root.to_bytes(),), targets.to_bytes())


def replaced(
    held: Offline,
    new: Mapping[str, VerifyKey],
    signers: Iterable[SigningKey],
    *,
    now_s: float,
    stolen: bool = False,
    believed: str | None = None,
) -> Offline:
    """The next root, in which the keys of `new`, by name, take their predecessors' places; also without any, to renew.

    signers: every private key at hand that is believed, old and new. stolen: the predecessors are; believed: then, for
    the publisher's, the digest of the last release under it that is. targets is signed again only where its key or the
    publisher's is new, or it is renewed.

    Raises Rejected: "not_enough_keys" when fewer than two keys of the old root sign, or two of the new one, or not the
    targets key where it is needed; Corrupt("bad_metadata").
    """
    old_root, old_targets = parsed(held.root, Root), parsed(held.targets, Targets)
    keys = named_keys(old_root)
    at_hand = {PublicKey.of(signer.verify_key).keyid: signer for signer in signers}
    names = keys | {name: PublicKey.of(public) for name, public in new.items()}

    root = Metadata(Root(version=old_root.version + 1, expires=_end(now_s), consistent_snapshot=True))
    _name_keys(root.signed, names)
    wanted = dict.fromkeys([*old_root.roles[Root.type].keyids, *root.signed.roles[Root.type].keyids])
    _sign(root, (at_hand[keyid] for keyid in wanted if keyid in at_hand))
    for delegator in (old_root, root.signed):
        _check(delegator, Root.type, root, f"{ROOT_THRESHOLD} of the keys {', '.join(ROOT_KEYS)}")

    if new and not {TARGETS_KEY, PUBLISHER} & set(new):
        return Offline((*held.roots, root.to_bytes()), held.targets)
    targets = Metadata(
        Targets(version=old_targets.version + 1, expires=_end(now_s), delegations=_delegations(names[PUBLISHER]))
    )
    if stolen and PUBLISHER in new:  # the past hangs on one digest: no signature of before counts for itself
        targets.signed.unrecognized_fields = {LAST_GOOD: believed} if believed else {}
    else:
        targets.signed.unrecognized_fields = _carried(
            old_targets, retired=keys[PUBLISHER] if PUBLISHER in new else None
        )
    _sign(targets, (at_hand[key] for key in root.signed.roles[Targets.type].keyids if key in at_hand))
    _check(root.signed, Targets.type, targets, f"the key {TARGETS_KEY}")
    return Offline((*held.roots, root.to_bytes()), targets.to_bytes())


def named_keys(root: Root) -> dict[str, PublicKey]:
    """The keys in force, by name. Raises Corrupt("bad_metadata") for metadata of another kind than ours."""
    try:
        places = dict(zip(ROOT_KEYS, root.roles[Root.type].keyids, strict=True))
        places |= {TARGETS_KEY: root.roles[Targets.type].keyids[0], PUBLISHER: root.roles[Timestamp.type].keyids[0]}
        found = {name: root.keys[keyid] for name, keyid in places.items()}
    except (KeyError, IndexError, ValueError) as error:
        raise Corrupt("bad_metadata", f"root {root.version} is not one of `qig keys`: {error!r}") from None
    return {name: key for name, key in found.items() if isinstance(key, PublicKey)}


def delegated_keys(targets: Targets) -> list[str]:
    """Ids of the keys that targets metadata lets sign the list of releases."""
    delegations = targets.delegations
    return [] if delegations is None or not delegations.roles else list(delegations.roles[BUNDLES].keyids)


def former_keys(targets: Targets) -> dict[str, VerifyKey]:
    """The publisher's former keys that were not stolen, by key id."""
    noted: Mapping[str, str] = targets.unrecognized_fields.get(FORMER, {})
    return {keyid: VerifyKey(bytes.fromhex(public)) for keyid, public in noted.items()}


def last_good(targets: Targets) -> str | None:
    """Digest of the last release that is believed under keys that were stolen."""
    noted: str | None = targets.unrecognized_fields.get(LAST_GOOD)
    return noted


def parsed(data: bytes, kind: type[T]) -> T:
    """The signed part, its signatures unchecked. Raises Corrupt("bad_metadata")."""
    found: Signed = opened(data).signed
    if not isinstance(found, kind):
        raise Corrupt("bad_metadata", f"this is {found.type} metadata where {kind.type} was expected")
    return found


def opened(data: bytes) -> Metadata[Any]:
    """Metadata with its signatures. Raises Corrupt("bad_metadata") for bytes that are none."""
    try:
        return Metadata.from_bytes(data)
    except RepositoryError as error:
        raise Corrupt("bad_metadata", f"{len(data)} bytes are no metadata: {error}") from None


def _name_keys(root: Root, names: Mapping[str, PublicKey]) -> None:
    for name in ROOT_KEYS:
        root.add_key(names[name], Root.type)
    root.roles[Root.type].threshold = ROOT_THRESHOLD
    root.add_key(names[TARGETS_KEY], Targets.type)
    for role in (Snapshot.type, Timestamp.type):
        root.add_key(names[PUBLISHER], role)


def _delegations(publisher: PublicKey) -> Delegations:
    role = DelegatedRole(BUNDLES, [publisher.keyid], threshold=1, terminating=True, paths=[f"{BUNDLES}/*"])
    keys: dict[str, Key] = {publisher.keyid: publisher}
    return Delegations(keys, {BUNDLES: role})


def _carried(old: Targets, *, retired: PublicKey | None) -> dict[str, Any]:
    """What targets.json says of the past, when all of it is still believed. retired: a key that was the publisher's."""
    former = dict(old.unrecognized_fields.get(FORMER, {}))
    if retired is not None:
        former[retired.keyid] = retired.keyval["public"]
    believed = last_good(old)
    return {FORMER: former} | ({LAST_GOOD: believed} if believed else {})


def _sign(metadata: Metadata[Any], signers: Iterable[SigningKey]) -> None:
    for signer in signers:
        metadata.sign(PrivateKey(signer), append=True)


def _check(delegator: Root, role: str, metadata: Metadata[Any], needed: str) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except RepositoryError:
        message = (
            f"the private keys at hand are too few to sign {role}: it needs {needed}; name their folder (--offline)"
        )
        raise Rejected("not_enough_keys", message) from None


def _end(now_s: float) -> datetime:
    return datetime.fromtimestamp(now_s, UTC).replace(microsecond=0) + OFFLINE_EXPIRES
