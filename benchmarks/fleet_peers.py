"""The peers of fleet.py that train a state: an adapter of a packet's size, averaged weights, the centre with all text.

adapter     LoRA-XS (Bałazy et al. 2024): a matrix W becomes W + U R V, U and V its leading singular vectors, R (RANK,
            RANK) learned; every edge sends how its R moved as int4, the centre adds the mean
averaging   FedAvg (McMahan et al. 2017): all weights, as float32
central     one state trained on the text of all edges, PASSES times; with all counts beside it: the centralised bound
no packets  the centre trains as long on what it has, its role's own text

Cross-entropy alone, AdamW, windows of the state's context, one pass an edge and round. Rates: the best of a grid on
another shuffle and validation text, TUNING_ROUNDS rounds; the grid grows until the best is inside. Where nothing else
is said the domain's memory is empty. Gates are learned on validation text.
"""

from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call

from common.kernels import memory
from common.kernels.engine import State
from common.kernels.kernel import read
from services.trainer import text
from services.trainer.model import StateModel, export, restore

RANK, INT4_MAX = 24, 7
PASSES, WINDOWS, TUNING_ROUNDS, TUNING_SEED = 2, 8, 2, 1000
STEP = 3.0  # from rate to rate
EMPTY = memory.count([], 3)
torch.set_num_threads(1)


def measure(world, seed):
    """A line for each peer."""
    tuning = world.dealt_anew(TUNING_SEED, TUNING_ROUNDS)
    rate = best(world.name, "central", 1e-3, lambda rate: bits_per_byte(tuning, central(tuning, rate)))
    state = central(world, rate)
    counts = memory.count(world.all_ids(), 3)
    world.say("trained centrally on all text", seed, bits_per_byte(world, state), rate=rate)
    world.say("centralised bound: and all counts", seed, bits_per_byte(world, state, counts), rate=rate)
    own = [world.made.encoder.encode(each) for each in text.load(Path("data")).replay[world.role]]
    state = central(world, rate, own)
    world.say("no packets: the centre trains on its own text", seed, bits_per_byte(world, state), rate=rate, bytes=0)
    for case, peer, first in (("adapter, int4", adapter, 3e-2), ("averaged weights, float32", averaging, 1e-3)):
        rate = best(world.name, case, first, lambda rate, peer=peer: bits_per_byte(tuning, peer(tuning, rate)[0]))
        state, size = peer(world, rate)
        world.say(case, seed, bits_per_byte(world, state), bytes=size, rate=rate)


_RATES = {}


def best(name, case, first, value):
    """The rate with the lowest value, inside its grid."""
    if (name, case) not in _RATES:
        found = {rate: value(rate) for rate in (first / STEP, first, first * STEP)}
        while (chosen := min(found, key=found.get)) in {min(found), max(found)}:
            rate = chosen / STEP if chosen == min(found) else chosen * STEP
            found[rate] = value(rate)
        _RATES[name, case] = chosen
    return _RATES[name, case]


def averaging(world, rate):
    """The state after all rounds, and the bytes that an edge sends in each."""
    model, rng = model_of(world.kernel.state), np.random.default_rng(0)
    for row in world.ids:
        before = {name: value.detach().clone() for name, value in model.tensors.items()}
        moved = {name: torch.zeros_like(value) for name, value in before.items()}
        for own in row:
            _set(model, before)
            fit(list(model.parameters()), model, own, rate, 1, rng, context=model.spec.context)
            for name, value in model.tensors.items():
                moved[name] += (value.detach() - before[name]) / len(row)
        _set(model, {name: before[name] + moved[name] for name in before})
    return state_of(world, model), 4 * sum(value.numel() for value in model.parameters())


def adapter(world, rate):
    """As `averaging`."""
    model, rng = model_of(world.kernel.state), np.random.default_rng(0)
    bases = {}
    for name, value in model.tensors.items():
        if value.ndim == 2 and ("blocks" in name or name in {"enter", "leave"}):
            u, _, v = torch.linalg.svd(value.detach(), full_matrices=False)
            bases[name] = value.detach().clone(), u[:, :RANK], v[:RANK]
    learned = {name: torch.zeros(RANK, RANK) for name in bases}

    def merged(small):
        return {f"tensors.{name}": w + u @ small[name] @ v for name, (w, u, v) in bases.items()}

    for row in world.ids:
        moved = {name: torch.zeros(RANK, RANK) for name in bases}
        for own in row:
            small = {name: value.clone().requires_grad_() for name, value in learned.items()}
            call = lambda ids, following, small=small: functional_call(model, merged(small), (ids, following))  # noqa: E731
            fit(list(small.values()), call, own, rate, 1, rng, context=model.spec.context)
            for name, value in small.items():
                moved[name] += int4(value.detach() - learned[name]) / len(row)
        learned = {name: learned[name] + moved[name] for name in bases}
    with torch.no_grad():
        for name, value in merged(learned).items():
            model.tensors[name.removeprefix("tensors.")].copy_(value)
    return state_of(world, model), len(bases) * (RANK * RANK // 2 + 4)


def int4(moved):
    """The values as 4 bits each and one float32 scale give them."""
    scale = moved.abs().max().clamp_min(1e-12) / INT4_MAX
    return (moved / scale).round() * scale


def central(world, rate, own=None):
    """A state trained on all the edges' text, or as long on another."""
    model, rng = model_of(world.kernel.state), np.random.default_rng(0)
    every = world.all_ids()
    steps = PASSES * max(1, sum(map(len, every)) // (WINDOWS * model.spec.context))
    fit(list(model.parameters()), model, own or every, rate, PASSES, rng, context=model.spec.context, steps=steps)
    return state_of(world, model)


def fit(parameters, call, texts, rate, passes, rng, *, context, steps=None):
    """AdamW on random windows of the texts, as many tokens as `passes` of them have; the rate falls to a tenth."""
    joined = torch.from_numpy(np.concatenate(texts).astype(np.int64))
    count = steps or max(1, passes * len(joined) // (WINDOWS * context))
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(count):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - 0.9 * step / count)
        starts = rng.integers(0, len(joined) - context - 1, WINDOWS)
        ids = torch.stack([joined[start : start + context + 1] for start in starts])
        nats, _ = call(ids[:, :-1], ids[:, 1:])
        optimiser.zero_grad()
        nats.backward()
        optimiser.step()


def model_of(state):
    model = StateModel(state.spec, state.sqrt_basins, torch.Generator().manual_seed(0))
    restore(model, state.weights)
    return model


def state_of(world, model):
    return State(model.spec, export(model), world.kernel.state.sqrt_basins)


def _set(model, values):
    with torch.no_grad():
        for name, value in values.items():
            model.tensors[name].copy_(value)


def bits_per_byte(world, state, own=EMPTY):
    """Of the held-out text, read by the kernel with this state."""
    return world.bits_per_byte(world.with_memory(own, read, state), read)
