"""Makes compiled code ready before somebody waits for it: everything that an edge compiles is run once.

Compiling takes half a minute and holds up the whole process; kept on disk it takes a second to load. numba compiles
anew for a kernel with another number of memories, so one with two is run too: the first bundle that opens a domain
would otherwise stop every answer for seconds. Pure but for numba's cache.
"""

import numpy as np

from common.constants import CELLS, ROLES
from common.constellation.constellation import Constellation
from common.constellation.priors import prior_of
from common.coordizer.artifacts import EOS
from common.kernels import gate
from common.kernels.generate import Voice, generate
from common.kernels.kernel import Kernel, read
from common.wire import crystals
from common.wire.messages import Mode, Query
from common.wire.ngrams import empty
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
            for _ in Generation(constellation, query, "warm"):
                pass
    role = constellation.kernel(ROLES[0])
    opened = Kernel(role.state, (*role.memories, role.memories[-1]), gate.prior(2 + len(role.memories)))
    prompt = np.array([EOS, ord("a")], np.int32)
    read(opened, prompt)
    voice = Voice(opened, np.full(CELLS, 1 / CELLS), 1.0)
    stop: frozenset[int] = frozenset()
    for _ in generate([voice], prompt, max_tokens=2, temperature=1.0, stop=stop, rng=np.random.default_rng(0)):
        pass
    vocab_size = constellation.coordizer.vocab_size
    prior = prior_of(role.memories, vocab_size)
    crystals.fit(empty(), np.arange(0), vocab_size=vocab_size, budget_bytes=SMALLEST, prior=prior)
