"""What the publisher keeps in the broker, and what changes it: each a list of effects for one transaction.

    {qig:candidates}:current    "bundle" ─▶ the newest release, packed: what the next one follows
    {qig:candidates}:released   candidate id ─▶ version: a candidate that comes again is not refused as out of date
    {qig:candidates}:refused    candidate id ─▶ {"at_s", "reasons"}; the trainer waits for either word; of a release too
                                that was taken back
    {qig:candidates}:metadata   what readers believe: ../metadata.py

All lie in the stream's slot, so that a candidate's acknowledgement and what it led to are one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from common.runtime import streams
from common.runtime.causes import bundle_name
from common.runtime.effects import Absent, Effect, Equals, HashDelete, HashSet, Send
from common.trust.rings import EVERYBODY
from common.wire import bundle as bundles
from common.wire.codec import pack, unpack
from common.wire.messages import TAKEN_BACK, Bundle, Returned
from services.publisher import metadata, refusals

CURRENT: Final = streams.side_key(streams.CANDIDATES, "current")
BUNDLE: Final = "bundle"


@dataclass(frozen=True, slots=True)
class Past:
    """What the next release follows, as it was found.

    held: the metadata in the broker; packed: what is noted as current; releases: messages by version; last: the highest
    version that a reader may serve, signed with a stolen key or not; rings: of those that are not for everybody. A
    release needs the first two to be so still.
    """

    held: metadata.Files
    packed: bytes | None
    releases: dict[int, bytes]
    last: int
    rings: dict[int, int]

    @property
    def open_versions(self) -> list[int]:
        """Those that are for everybody, the oldest first."""
        return sorted(version for version in self.releases if self.rings.get(version, EVERYBODY) == EVERYBODY)

    @property
    def open_version(self) -> int:
        """The newest that is for everybody; 0 for none."""
        return max(self.open_versions, default=0)

    @property
    def current(self) -> Bundle | None:
        """The newest that is believed."""
        return unpack(Bundle, self.releases[max(self.releases)]) if self.releases else None

    @property
    def changed_at_s(self) -> float:
        """When the first of the newest releases that are alike in all their parts was released; 0 for none."""
        at_s, parts = 0.0, None
        for version in sorted(self.releases, reverse=True):
            bundle = unpack(Bundle, self.releases[version])
            if parts is not None and bundle.parts != parts:
                break
            at_s, parts = bundle.released_at_s, bundle.parts
        return at_s


def released(bundle: Bundle, packed: bytes | None, known: Mapping[str, bytes]) -> list[Effect]:
    """The release, if `packed` is still what is noted as current. known: versions by candidate; the oldest go."""
    forgotten = [name for name, version in known.items() if int(version) <= bundle.version - refusals.KEPT]
    held = Absent(CURRENT, BUNDLE) if packed is None else Equals(CURRENT, BUNDLE, packed)
    message = pack(bundle)
    return [
        held,
        HashSet(CURRENT, BUNDLE, message),
        HashSet(streams.RELEASED, bundle.id, str(bundle.version).encode()),
        *(HashDelete(streams.RELEASED, name) for name in forgotten),
        # What was refused meanwhile went back to its edges: counted here as well, it would count twice.
        Absent(streams.REFUSED, bundle.id) if bundle.packets else HashDelete(streams.REFUSED, bundle.id),
        Send(streams.BUNDLES, message, bundle_name(bundle)),
    ]


def undone(past: Past, wanted: int, *, why: str, at_s: float) -> list[Effect]:
    """The releases after `wanted` are no more: what tells edges that what they brought goes out again, and the notes of
    why.
    """
    effects: list[Effect] = []
    for version in sorted(each for each in past.releases if each > wanted):
        bundle = unpack(Bundle, past.releases[version])
        if bundle.packets:
            told = Returned(packets=bundle.packets, code=TAKEN_BACK, reason=f"bundle {version} was taken back")
            effects.append(Send(streams.RETURNED, pack(told), f"taken-back-{past.last + 1}-{version}"))
        if not bundles.takes_back(bundle):
            effects.append(HashSet(streams.REFUSED, bundle.id, refusals.note((why,), at_s)))
    return effects


def listed(held: Mapping[str, bytes], files: metadata.Files) -> list[Effect]:
    """The metadata, if nobody has signed since `held` was read."""
    before = held.get(metadata.TIMESTAMP)
    name = metadata.TIMESTAMP
    guard = Absent(streams.METADATA, name) if before is None else Equals(streams.METADATA, name, before)
    changed = [HashSet(streams.METADATA, name, data) for name, data in files.items() if held.get(name) != data]
    return [guard, *changed, *(HashDelete(streams.METADATA, name) for name in metadata.outdated(held, files))]
