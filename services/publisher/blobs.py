"""Which blobs somebody can still need, by what names them. Values in, values out."""

from collections.abc import Iterable

from common.wire.messages import Bundle, Candidate


def needed(listed: Iterable[Bundle], undecided: Iterable[Candidate]) -> frozenset[str]:
    """The digests of every part of a listed bundle, or of a candidate that nobody has decided on."""
    named = [*(bundle.parts for bundle in listed), *(candidate.parts for candidate in undecided)]
    return frozenset(part.digest for parts in named for part in parts.values())
