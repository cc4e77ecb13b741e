"""A micro state, its text and its runs: what the trainer's tests share."""

import numpy as np
import pytest
import torch

from common.kernels.spec import Spec
from services.trainer.loop import Plan, train
from services.trainer.model import StateModel

SPEC = Spec("micro", vocab=64, width=16, layers=1, loops=2, heads=2, context=32)
BASINS = np.random.default_rng(5).dirichlet(np.full(64, 0.3), SPEC.vocab)
TEXT = np.tile(np.random.default_rng(6).integers(0, SPEC.vocab, 300), 4).astype(np.int32)
PLAN = Plan(steps=25, windows=4, seed=11, warmup=5, phi_from=8)


@pytest.fixture(autouse=True)
def one_thread():
    """More threads change the order of additions, and are slower at these sizes."""
    torch.set_num_threads(1)


def micro_model(spec=SPEC, basins=BASINS):
    return StateModel(spec, np.sqrt(basins), torch.Generator().manual_seed(3))


def start(model, plan=PLAN, **options):
    return train(model, TEXT, BASINS, plan, **options)


def tensors_of(model):
    return {name: value.detach().numpy().copy() for name, value in model.tensors.items()}


def same(one, other):
    """Bit for bit."""
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
