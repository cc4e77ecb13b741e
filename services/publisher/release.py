"""A release: an accepted candidate under the next version, the time it was given, and the publisher's signature."""

from collections.abc import Mapping

from nacl.signing import SigningKey

from common.errors import Rejected
from common.wire import bundle
from common.wire.messages import Bundle, Candidate, PacketRef


def release(candidate: Candidate, *, after: int, released_at_s: float, signing_key: SigningKey) -> Bundle:
    """The bundle that follows version `after` (0: none): versions grow by one and never return, whatever they point to.

    Raises Rejected("bad_field") when the candidate's parent is not older than that version.
    """
    return bundle.sign(candidate, version=after + 1, released_at_s=released_at_s, signing_key=signing_key)


def held(version: int, releases: Mapping[int, Bundle]) -> frozenset[PacketRef]:
    """The packets whose counts are in the parts of `version`, as far back as `releases` (by version) go."""
    packets: set[PacketRef] = set()
    while (found := releases.get(version)) is not None:
        packets.update(found.packets)
        back = bundle.brings_back(found.id)
        version = found.parent if back is None else back
    return frozenset(packets)


def taken_back(current: Bundle, good: Bundle, releases: Mapping[int, Bundle], *, last: int) -> Candidate:
    """The candidate that follows `current` with the parts and figures of `good`. releases: those there are, by version;
    last: the version that is to be left.

    Raises Rejected: "not_older" where that is `good` itself, "packets_returned" where `good` holds packets of which
    edges were told that they are taken back: what they carried goes out again, and would count twice.
    """
    if good.version >= last:
        raise Rejected("not_older", f"bundle {good.version} is what there is now: name one before it")
    now = held(current.version, releases)
    if back := held(good.version, releases) - now:
        others = [version for version in sorted(releases) if version < last and held(version, releases) <= now]
        raise Rejected(
            "packets_returned",
            f"bundle {good.version} holds {len(back)} packet(s) that were taken back: their edges send what those "
            f"carried again, and it would count twice. Keep bundle {current.version}, whose next releases bring it in, "
            f"or go back to one without them: {', '.join(map(str, others)) or 'there is none'}",
        )
    return Candidate(
        id=f"{bundle.TAKES_BACK}{last}-to-{good.version}",
        parent=current.version,
        parent_digest=bundle.digest(current),
        parts=good.parts,
        evidence=good.evidence,
    )
