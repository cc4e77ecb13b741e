"""A release: an accepted candidate under the next version, the time it was given, and the publisher's signature."""

from nacl.signing import SigningKey

from common.wire import bundle
from common.wire.messages import Bundle, Candidate


def release(candidate: Candidate, *, after: int, released_at_s: float, signing_key: SigningKey) -> Bundle:
    """The bundle that follows version `after` (0: none): versions grow by one and never return, whatever they point to.

    Raises Rejected("bad_field") when the candidate's parent is not older than that version.
    """
    return bundle.sign(candidate, version=after + 1, released_at_s=released_at_s, signing_key=signing_key)
