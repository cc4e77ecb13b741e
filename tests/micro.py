"""A tiny whole constellation for tests: untrained, but nothing in it is a stand-in."""

import gc

import numpy as np
import pytest

from common.constants import ROLES
from common.constellation import parts as bundle_parts
from common.constellation.domains import Domain
from common.constellation.integrator import SHAPES, Integrator
from common.coordizer.artifacts import EOS
from common.coordizer.build import build
from common.coordizer.encode import Encoder
from common.coordizer.growth import EDGES_MIN, grow, propose
from common.coordizer.place import bearings, text_basin
from common.geometry.simplex import uniform
from common.kernels import gate
from common.kernels.memory import count
from common.kernels.spec import Spec
from common.kernels.weights import shapes
from services.trainer.growth import grown

MICRO = Spec("micro", vocab=320, width=24, layers=1, loops=2, heads=2, context=32)
SENTENCES = {
    "vocab": "heron: a large wading bird with a long neck; a grey bird of the marsh. marsh: low wet ground. ",
    "strategy": "Congress should plan the budget, review the treaty and measure the results of every office. ",
    "percept": "The sea was cold and grey; salt wind stung our eyes and the whale breathed beside the boat. ",
    "heart": "O sing again, my heart, of spring, and let the rhythm of the rain return to everything. ",
}


def make_parts():
    """The parts of a whole but untrained constellation: 320 tokens, one block, seconds to make, milliseconds to run."""
    rng = np.random.default_rng(7)
    documents = [(role, SENTENCES[role] * 12 + SENTENCES[role][::2]) for role in ROLES]
    coordizer = build(documents, vocab_size=MICRO.vocab, seed=7)
    encoder = Encoder(coordizer)
    parts = bundle_parts.coordizer_parts(coordizer)
    domains = {}
    for role, text in documents:
        ids = np.append(encoder.encode(text), np.int32(EOS))
        tensors = {k: np.asarray(rng.normal(0, 0.1, s), np.float32) for k, s in shapes(MICRO).items()}
        parts |= bundle_parts.kernel_part(role, MICRO, tensors) | bundle_parts.memory_part(role, count([ids]))
        basin = tuple(text_basin(ids, bearings(coordizer.basins)).tolist())
        rows = tuple(map(tuple, gate.prior(2).tolist()))
        domains[role] = Domain(
            name=role, role=role, memories=(role,), basin=basin, radius_rad=0.8, bits_per_byte=4.0, gate=rows
        )
    mixed = Integrator({k: np.asarray(rng.normal(0, 0.1, s), np.float32) for k, s in SHAPES.items()}, uniform())
    parts |= bundle_parts.integrator_part(mixed)
    return parts | bundle_parts.domains_part(domains) | bundle_parts.homes_part(dict.fromkeys(ROLES, uniform()))


@pytest.fixture(scope="session")
def micro_parts():
    parts = make_parts()
    gc.collect()
    gc.freeze()  # numba's tables came with the first call: each bundle that an edge takes would have them looked at
    return parts


@pytest.fixture(scope="session")
def micro(micro_parts):
    return bundle_parts.load(micro_parts)


@pytest.fixture(scope="session")
def micro_larger(micro):
    """The same constellation over a vocabulary that grew by what three edges found in sentences of all its domains."""
    proposed = propose(micro.coordizer, [text * 8 for text in SENTENCES.values()], limit=16)
    return grown(micro, grow(micro.coordizer, {f"edge-{n}": proposed for n in range(EDGES_MIN)}).coordizer)
