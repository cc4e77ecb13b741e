"""Proposals: which merges an edge says, and which it only mentions.

    fresh text ─ propose ─▶ speakable ─┬─ common ───── most frequent first ─▶ said, with how often it was seen
                                       └─ not, and not mentioned before ────▶ mentioned by keyed hash

A merge is two halves of a word that this edge sees together often (common/coordizer/growth.py); what it makes is a
piece of a word. It leaves in the clear only once enough edges have mentioned it, in whatever mode the edge is, and
never with a digit, an at sign, or more letters than words have. It is said at each sleep that finds it again, until a
bundle knows it.

Pure. The secret that edges share is an argument, and so is what was told (common/wire/mentions.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.coordizer.artifacts import Coordizer, token_bytes
from common.coordizer.growth import propose
from common.wire.mentions import Hashes, mention
from common.wire.proposals import PACKET_MAX_MERGES, Proposal
from services.edge.screen import is_speakable

MENTIONED_MERGES: Final = 32  # chosen: of one packet, about 110 bytes; the next has the next
MERGE_MAX_BYTES: Final = 24  # chosen: of a token that is made; what is longer is a key or a name rather than a word


@dataclass(frozen=True, slots=True, eq=False)
class Growing:
    """What growth goes by. common: told by the centre; mentioned: by packets that were not lost; both ascending."""

    secret: bytes
    common: Hashes
    mentioned: Hashes


@dataclass(frozen=True, slots=True, eq=False)
class Proposed:
    """said: for a packet's merges; mentions: hashes, the best first."""

    said: tuple[Proposal, ...]
    mentions: Hashes


def proposed(coordizer: Coordizer, texts: Iterable[str], growing: Growing) -> Proposed:
    """What a packet says and mentions of these texts, as they are counted."""
    tokens = token_bytes(coordizer.merges)
    found = [each for each in propose(coordizer, texts) if _may_leave(tokens[each[0]] + tokens[each[1]])]
    hashes = mention(growing.secret, "merge", [(tokens[left], tokens[right]) for left, right, _ in found])
    common = np.isin(hashes, growing.common)
    said = [each for each, known in zip(found, common, strict=True) if known][:PACKET_MAX_MERGES]
    new = hashes[~common & ~np.isin(hashes, growing.mentioned)]
    return Proposed(tuple(said), new[:MENTIONED_MERGES])


def _may_leave(made: bytes) -> bool:
    return len(made) <= MERGE_MAX_BYTES and is_speakable(made)
