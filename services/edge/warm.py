"""Makes compiled code ready before somebody waits for it: everything that an edge compiles is run once.

Compiling takes half a minute and holds up the whole process; kept on disk it takes a second to load. numba compiles
anew for each number of voices: one, the two that answer together what lies between them, and all four. Pure but for
numba's cache.
"""

import numpy as np

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.constellation.priors import prior_of
from common.coordizer.growth import propose
from common.wire import crystals
from common.wire.fields import Mode
from common.wire.inference import Query
from common.wire.ngrams import empty, implied
from services.edge.generation import Generation

TEXT = "The whale rose beside the boat, and the cold sea. "
SMALLEST = 64  # bytes: what packs no n-grams packs all
TOKENS = 40  # enough for kappa, and for a loop to be looked for


def warm(constellation: Constellation) -> None:
    """Reads and speaks in every way that an edge does. The answers are thrown away."""
    modes: tuple[Mode, ...] = ("routed", "constellation", *ROLES)
    for mode in modes:
        for top_p in (1.0, 0.9):
            query = Query(id="warm", text=TEXT * 8, max_tokens=TOKENS, mode=mode, top_p=top_p)
            list(Generation(constellation, query, "warm"))
    shares: dict[str, float] = {ROLES[0]: 0.5, ROLES[1]: 0.5}
    prompt, rng = constellation.encoder.encode(TEXT), np.random.default_rng(0)
    list(constellation.speak(prompt, shares, max_tokens=TOKENS, temperature=1.0, rng=rng))
    propose(constellation.coordizer, [TEXT])
    vocab_size = constellation.coordizer.vocab_size
    prior = prior_of(constellation.kernel(ROLES[0]).memories, vocab_size)
    implied(empty())
    crystals.fit(empty(), np.arange(0), vocab_size=vocab_size, budget_bytes=SMALLEST, prior=prior)
