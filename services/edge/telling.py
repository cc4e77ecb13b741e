"""Telling: what a packet says of a residue, and in private mode what it only mentions.

    residue ─ speakable ─▶ ranked ──────────────▶ as many crystals as fit
    private: speakable ─┬─ sayable ─▶ ranked ───▶ as many crystals as fit beside the mentions
                        └─ the rest ▶ ranked ───▶ mentions: their share, and what the crystals leave
    merges (proposals.py) ──────────────────────▶ mentions, before all others

Pure: screen.py says what never leaves, crystals.py ranks, mentions.py divides, common/wire turns it into bytes.
"""

from dataclasses import dataclass
from typing import Final

from common.coordizer.artifacts import Coordizer, token_bytes
from common.kernels.kernel import Kernel
from common.kernels.memory import Memory
from common.wire import crystals as crystal_codec
from common.wire.adaptive import Prior
from common.wire.mentions import NO_HASHES, Hashes, fit
from common.wire.ngrams import Crystals
from services.edge.crystals import Selection, select, unimplied
from services.edge.mentions import MENTION_SHARE, Private, mentionable, sayable
from services.edge.screen import Screen

MERGES_MAX_BYTES: Final = 160  # of the mentions of an edge that is not private: all that proposals.py makes


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What leaves of a residue. sent: as a reader decodes `crystals`; mentioned: what `mentions` is made of."""

    sent: Crystals
    crystals: bytes
    mentioned: Hashes
    mentions: bytes


def tell(  # noqa: PLR0913 -- what is held, what is known, and what may leave
    coordizer: Coordizer,
    residue: Memory,
    kernel: Kernel,
    praised: Memory,
    *,
    budget_bytes: int,
    turn: int,
    prior: Prior,
    private: Private | None,
    merges: Hashes = NO_HASHES,
) -> Told:
    """What to tell of a domain's residue to the kernel whose last memory will take it.

    praised: as select's `accepted`; budget_bytes: for crystals and mentions together; turn: whose share of the contexts
    goes first (of crystals; what edges mention, they are to mention alike); prior: what the packet's base expects;
    private: None outside private mode, where the budget is the crystals' alone; merges: hashes of those to mention,
    the best first.
    """
    tokens = token_bytes(coordizer.merges)
    speakable = Screen.of(tokens).speakable(residue)
    if private is None:
        ranked = select(speakable, kernel, praised, turn)
        return Told(*_fit(ranked, coordizer.vocab_size, budget_bytes, prior), *fit(merges, MERGES_MAX_BYTES))
    allowed = sayable(speakable, kernel, tokens, private)
    ranked, every = select(allowed, kernel, praised, turn), select(speakable, kernel, praised)
    best = mentionable(every, allowed, kernel, tokens, private, merges)
    _, share = fit(best, int(MENTION_SHARE * budget_bytes))
    sent, blob = _fit(ranked, coordizer.vocab_size, budget_bytes - len(share), prior)
    blob = blob if sent.entries else b""  # crystals of no n-gram have a header: a packet that only mentions has none
    return Told(sent, blob, *fit(best, budget_bytes - len(blob)))


def _fit(found: Selection, vocab_size: int, budget_bytes: int, prior: Prior) -> tuple[Crystals, bytes]:
    """The best n-grams that fit, and in the room of those which they imply the next best."""
    sent, _ = crystal_codec.fit(
        found.crystals, found.ranking, vocab_size=vocab_size, budget_bytes=budget_bytes, prior=prior
    )
    ranking = unimplied(found, sent)
    return crystal_codec.fit(found.crystals, ranking, vocab_size=vocab_size, budget_bytes=budget_bytes, prior=prior)
