"""A release: an accepted candidate under the next version, the time it was given, and the publisher's signature."""

from nacl.signing import SigningKey

from common.errors import Rejected
from common.wire import bundle
from common.wire.messages import Bundle, Candidate


def release(candidate: Candidate, *, after: int, released_at_s: float, signing_key: SigningKey) -> Bundle:
    """The bundle that follows version `after` (0: none): versions grow by one and never return, whatever they point to.

    Raises Rejected("bad_field") when the candidate's parent is not older than that version.
    """
    return bundle.sign(candidate, version=after + 1, released_at_s=released_at_s, signing_key=signing_key)


def taken_back(current: Bundle, good: Bundle, *, last: int) -> Candidate:
    """The candidate that follows `current` with the parts and figures of `good`. last: the version that is to be left.

    Raises Rejected("not_older") where that is `good` itself.
    """
    if good.version >= last:
        raise Rejected("not_older", f"bundle {good.version} is what there is now: name one before it")
    return Candidate(
        id=f"{bundle.TAKES_BACK}{last}-to-{good.version}",
        parent=current.version,
        parent_digest=bundle.digest(current),
        parts=good.parts,
        evidence=good.evidence,
    )
