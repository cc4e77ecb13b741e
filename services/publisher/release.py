"""A release: an accepted candidate under the next version, the time it was given, and the publisher's signature."""

from nacl.signing import SigningKey

from common.wire import bundle
from common.wire.messages import Bundle, Candidate


def release(candidate: Candidate, *, current: Bundle | None, released_at_s: float, signing_key: SigningKey) -> Bundle:
    """The bundle that follows `current`: versions grow by one and never return, whatever they point to.

    Raises Rejected("bad_field") when the candidate's parent is not older than that version.
    """
    version = 1 if current is None else current.version + 1
    return bundle.sign(candidate, version=version, released_at_s=released_at_s, signing_key=signing_key)


def newer(one: Bundle | None, other: Bundle | None) -> Bundle | None:
    """Of two bundles that claim to be current, the one with the higher version: what was released stays released."""
    if one is None or other is None:
        return one or other
    return one if one.version >= other.version else other
