"""Genesis: from text to the first constellation.

    documents ─ coordizer ─ ids ─┬─ seed state on all domains ─ four branches, one a domain ─┐
                                 └─ one memory a domain ────────────────────────────────────┴─ gates, basins, homes,
                                                                                               integrator ─ parts

One seed takes two thirds of the budget because a young kernel learns more from all text than from its own; the branches
then cost a sixth of it each in parallel (Branch-Train-Merge, Li et al. 2022).
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from common.constants import ROLES, Role
from common.constellation import parts as bundle_parts
from common.constellation.domains import Domain
from common.coordizer.artifacts import EOS
from common.coordizer.basins import salience, text_basin
from common.coordizer.build import build
from common.coordizer.encode import Encoder
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, from_float16
from common.kernels import gate, memory
from common.kernels.engine import State
from common.kernels.kernel import Kernel, read
from common.kernels.spec import SIZES, Size, Spec
from services.trainer import integrator
from services.trainer.corpora.split import Split
from services.trainer.evaluate import home
from services.trainer.loop import Plan, Point, train
from services.trainer.model import StateModel, export, restore

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.float32]]
Progress = Callable[[str, float], None]

RADIUS_QUANTILE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Budget:
    """Steps of the seed and of each branch, and windows a step."""

    seed_steps: int
    branch_steps: int
    windows: int


BUDGETS: Final[dict[Size, Budget]] = {
    "tiny": Budget(seed_steps=320, branch_steps=140, windows=8),
    "small": Budget(seed_steps=2400, branch_steps=600, windows=8),
    "base": Budget(seed_steps=20000, branch_steps=5000, windows=32),
}


@dataclass(frozen=True, slots=True)
class Genesis:
    """parts of the first bundle, and each curve by name ("seed", the roles, "integrator")."""

    parts: dict[str, bytes]
    curves: dict[str, list[Point]]


@dataclass(frozen=True, slots=True)
class _Text:
    """One role's text as ids: training documents, validation passages with their sizes."""

    train: list[Ids]
    validation: list[Ids]
    validation_bytes: int


def genesis(corpora: Mapping[Role, Split], size: Size, *, seed: int, workers: int, progress: Progress) -> Genesis:
    """Trains everything from text alone. workers: processes for the branches. Deterministic, whatever their number."""
    spec = SIZES[size]
    budget = BUDGETS[size]
    documents = [(role, document.text) for role in ROLES for document in corpora[role].train]
    coordizer = build(documents, vocab_size=spec.vocab, seed=seed, progress=lambda done: progress("coordizer", done))
    encoder = Encoder(coordizer)
    texts = {role: _encoded(encoder, corpora[role]) for role in ROLES}
    basins = from_float16(coordizer.basins)
    memories = {role: memory.count(texts[role].train) for role in ROLES}
    progress("memories", 1.0)
    tensors, curves = _states(spec, budget, basins, texts, seed, workers, progress)
    parts = bundle_parts.coordizer_parts(coordizer)
    domains: dict[str, Domain] = {}
    homes: dict[Role, Floats] = {}
    states = {role: State(spec, tensors[role], np.sqrt(basins)) for role in ROLES}
    for role, state in states.items():
        domains[role] = _domain(role, Kernel(state, (memories[role],), gate.prior(2)), texts[role], basins)
        homes[role] = home(state, texts[role].train)
        parts |= bundle_parts.kernel_part(role, spec, tensors[role]) | bundle_parts.memory_part(role, memories[role])
        progress("gates", len(domains) / len(ROLES))
    heard = integrator.streams(states, basins, {role: texts[role].train for role in ROLES})
    whole, curves["integrator"] = integrator.fit(
        heard, seed=seed, steps=integrator.STEPS, progress=lambda done: progress("integrator", done)
    )
    parts |= bundle_parts.integrator_part(whole)
    return Genesis(parts | bundle_parts.domains_part(domains) | bundle_parts.homes_part(homes), curves)


def _encoded(encoder: Encoder, split: Split) -> _Text:
    def encode(text: str) -> Ids:
        return np.append(encoder.encode(text), np.int32(EOS))

    return _Text(
        [encode(document.text) for document in split.train],
        [encode(document.text) for document in split.validation],
        sum(document.size_bytes for document in split.validation),
    )


def _states(
    spec: Spec,
    budget: Budget,
    basins: Floats,
    texts: Mapping[Role, _Text],
    seed: int,
    workers: int,
    progress: Progress,
) -> tuple[dict[Role, Tensors], dict[str, list[Point]]]:
    """The seed, then the branches side by side."""
    torch.set_num_threads(
        1
    )  # two threads gain a third on an idle machine and lose tenfold on a busy one (docs/experiments.md)
    model = StateModel(spec, np.sqrt(basins), torch.Generator().manual_seed(seed))
    everything = np.concatenate([ids for role in ROLES for ids in texts[role].train])
    # The whole run's rate would decay only in the branches: the seed stays on its plateau (warm-up, stable, decay).
    plan = Plan(budget.seed_steps, budget.windows, seed, decay=0.0)
    curves = {"seed": list(train(model, everything, basins, plan, progress=lambda done: progress("seed state", done)))}
    start = export(model)
    tensors: dict[Role, Tensors] = {}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        branches = [
            pool.submit(
                branch,
                spec,
                start,
                np.concatenate(texts[role].train),
                basins,
                Plan(
                    budget.branch_steps,
                    budget.windows,
                    seed + 1 + number,
                    decay=1.0,
                    rate=0.5,
                    warmup=10,
                    phi_from=0,
                ),
            )
            for number, role in enumerate(ROLES)
        ]
        for role, future in zip(ROLES, branches, strict=True):
            tensors[role], curves[role] = future.result()
            progress("branches", len(tensors) / len(ROLES))
    return tensors, curves


def branch(spec: Spec, start: Tensors, ids: Ids, basins: Floats, plan: Plan) -> tuple[Tensors, list[Point]]:
    """One run from given weights, on one thread: what a worker process does."""
    torch.set_num_threads(1)
    model = StateModel(spec, np.sqrt(basins), torch.Generator().manual_seed(plan.seed))
    restore(model, start)
    points = list(train(model, ids, basins, plan))
    return export(model), points


def _domain(role: Role, kernel: Kernel, text: _Text, basins: Floats) -> Domain:
    """Gate by EM on validation text, which the memory has not counted; basin and radius from the role's own
    passages.
    """
    readings = [read(kernel, ids) for ids in text.validation]
    learned = gate.learn(
        np.concatenate([r.experts for r in readings]), np.concatenate([r.buckets for r in readings]), kernel.gate
    )
    stored = basins.astype(np.float16)
    weights = salience(stored)
    centre = frechet_mean(np.stack([text_basin(ids, stored, weights) for ids in text.train]))
    away = [float(distance(text_basin(ids, stored, weights), centre)) for ids in text.validation]
    bits = sum(float(r.bits(learned).sum()) for r in readings)
    return Domain(
        name=role,
        role=role,
        memories=(role,),
        basin=tuple(centre.tolist()),
        radius_rad=float(np.quantile(away, RADIUS_QUANTILE)),
        bits_per_byte=bits / text.validation_bytes,
        gate=tuple(map(tuple, learned.tolist())),
    )
