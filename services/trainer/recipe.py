"""Genesis: from text to the first constellation.

    documents ─ coordizer ─ ids ─┬─ seed state on all domains ─ four branches, one a domain ─┬─ integrator ─┐
                                 └─ one memory a domain, pruned ─────────────────────────────┴──────────────┴─ gates,
                                 basins, homes ─ parts

One seed takes half of the budget because a young kernel learns more from all text than from its own; the branches
then cost an eighth of it each in parallel (Branch-Train-Merge, Li et al. 2022).

Every run of a state keeps a checkpoint and its curve in a folder; a genesis that was killed goes on from there, to the
same bytes.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from common.constants import PHI_TARGET, ROLES, Role
from common.constellation import parts as bundle_parts
from common.constellation.domains import Domain
from common.coordizer.artifacts import EOS, Coordizer, digest, prefix
from common.coordizer.build import build
from common.coordizer.encode import Encoder
from common.coordizer.place import Bearings, bearings, text_basin
from common.errors import Rejected, Unavailable
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, from_float16
from common.kernels import gate, memory
from common.kernels.engine import State
from common.kernels.kernel import Kernel, read
from common.kernels.memory import Memory
from common.kernels.spec import SIZES, Size, Spec
from services.trainer import integrator
from services.trainer.allocator import keep_freed
from services.trainer.corpora.document import Document
from services.trainer.corpora.split import Split
from services.trainer.curves import SUFFIX, Recorder
from services.trainer.evaluate import home
from services.trainer.loop import Plan, Point, train
from services.trainer.model import StateModel, coarse, export, has_bfloat16, restore
from services.trainer.prune import prune
from services.trainer.team import ALONE, Team
from services.trainer.text import even

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.float32]]
Progress = Callable[[str, float], None]

RADIUS_QUANTILE: Final = 0.95
HELD_OUT_PHI: Final = 0.02  # chosen: what Phi loses from a batch to held-out text
MARGIN_ROUNDS: Final = 64
MARGIN_RATE: Final = 2.0  # per rad; chosen: margins are equal within 0.01 rad after the rounds


@dataclass(frozen=True, slots=True)
class Budget:
    """What a genesis of one size spends.

    seed_steps, branch_steps; windows: of text a step; text_bytes: the most that is read of each role; saved_bits: what
    an n-gram must save over that text to stay in the memory.
    """

    seed_steps: int
    branch_steps: int
    windows: int
    text_bytes: int
    saved_bits: float


BUDGETS: Final[dict[Size, Budget]] = {
    "tiny": Budget(seed_steps=240, branch_steps=100, windows=8, text_bytes=4 << 20, saved_bits=0.0),
    "small": Budget(seed_steps=1600, branch_steps=400, windows=8, text_bytes=24 << 20, saved_bits=3.0),
    "base": Budget(seed_steps=20000, branch_steps=5000, windows=32, text_bytes=128 << 20, saved_bits=1.0),
}
_IDENTITY: Final = "run.json"


@dataclass(frozen=True, slots=True)
class _Text:
    """One role's text as ids: training documents with their sources, validation passages with their size."""

    train: list[Ids]
    sources: list[str]
    validation: list[Ids]
    validation_bytes: int

    def by_source(self) -> list[list[Ids]]:
        """The training documents of each source: a basin over all would lie among the largest (docs/experiments.md)."""
        names = sorted(set(self.sources))
        return [[ids for ids, own in zip(self.train, self.sources, strict=True) if own == name] for name in names]


def genesis(
    corpora: Mapping[Role, Split],
    size: Size,
    *,
    folder: Path,
    seed: int,
    workers: int,
    progress: Progress,
    coordizer: Coordizer | None = None,
    team: Team = ALONE,
) -> dict[str, bytes]:
    """The parts of the first bundle, from text alone; deterministic, whatever the number of workers.

    coordizer: its first ids are taken; trained on the corpora when not given. folder: for checkpoints and curves;
    Rejected("other_run") when it holds those of another genesis. workers: processes for the branches. team: processes
    that train each state together; only the first gets parts, the others {}.
    """
    spec, budget = SIZES[size], BUDGETS[size]
    torch.set_num_threads(1)  # two gain a third on an idle machine and lose tenfold on a busy one (docs/experiments.md)
    used = {role: even(corpora[role].train, budget.text_bytes) for role in ROLES}
    if coordizer is None:
        documents = [(role, document.text) for role in ROLES for document in used[role]]
        coordizer = build(
            documents, vocab_size=spec.vocab, seed=seed, progress=lambda done: progress("coordizer", done)
        )
    coordizer = prefix(coordizer, spec.vocab)
    steps = (budget.seed_steps, budget.branch_steps, budget.windows)
    states = {"size": size, "seed": seed, "steps": steps, "coordizer": digest(coordizer), "text": _names(used)}
    _claim(folder, states)
    texts = {role: _encoded(Encoder(coordizer), used[role], corpora[role].validation) for role in ROLES}
    job = _Job(spec, from_float16(coordizer.basins), folder, has_bfloat16(team.device))
    trained = _states(job, budget, texts, seed, workers, team, progress)
    if team.rank:
        return {}
    tensors = {role: coarse(weights) for role, weights in trained.items()}
    parts = bundle_parts.coordizer_parts(coordizer)
    return parts | _kernels(job, budget, texts, tensors, seed, progress)


def forget(folder: Path) -> None:
    """What only an unfinished genesis needs goes; its curves stay."""
    for path in (*folder.glob("*.safetensors"), folder / _IDENTITY):
        path.unlink(missing_ok=True)


def _names(used: Mapping[Role, Sequence[Document]]) -> str:
    """One digest over the ids of all documents."""
    return hashlib.sha256("\n".join(d.id for role in ROLES for d in used[role]).encode()).hexdigest()


def _claim(folder: Path, states: Mapping[str, object]) -> None:
    """The folder belongs to a genesis with these states. Raises Rejected("other_run"), Unavailable("run_folder")."""
    path, identity = folder / _IDENTITY, json.dumps(states) + "\n"
    staged = path.with_suffix(f".{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            if path.read_text() != identity:
                message = f"{folder} holds another genesis (other text, size, seed or steps): delete it to train anew"
                raise Rejected("other_run", message)
            return
        for curve in folder.glob(f"*{SUFFIX}"):
            curve.unlink(missing_ok=True)  # of a genesis that was finished here
        staged.write_text(identity)
        staged.replace(path)  # whole or not at all, also when every process of a team does it
    except OSError as error:
        raise Unavailable(
            "run_folder", f"can't use {folder} for checkpoints ({error}): delete it or name another"
        ) from error


def _kernels(
    job: "_Job",
    budget: Budget,
    texts: Mapping[Role, _Text],
    tensors: Mapping[Role, Tensors],
    seed: int,
    progress: Progress,
) -> dict[str, bytes]:
    """Memories, gates, homes and the integrator: all that is made once the states are trained."""
    parts: dict[str, bytes] = {}
    domains: dict[str, Domain] = {}
    homes: dict[Role, Floats] = {}
    states = {role: State(job.spec, tensors[role], np.sqrt(job.basins)) for role in ROLES}
    table = bearings(job.basins.astype(np.float16))
    middles = centres(texts, table)
    for role, state in states.items():
        known = memory_of(texts[role].train, job.spec.vocab, budget.saved_bits)
        progress("memories", (len(homes) + 1) / len(ROLES))
        domains[role] = _domain(role, Kernel(state, (known,), gate.prior(2)), texts[role], middles[role], table)
        homes[role] = _home(state, texts[role])
        parts |= bundle_parts.kernel_part(role, job.spec, tensors[role]) | bundle_parts.memory_part(role, known)
        progress("gates", len(domains) / len(ROLES))
    heard = integrator.streams(states, job.basins, {role: texts[role].train for role in ROLES})
    whole, curve = integrator.fit(
        heard, seed=seed, steps=integrator.STEPS, progress=lambda done: progress("integrator", done)
    )
    with Recorder(job.folder, "integrator") as recorder:
        _check([*recorder.follow(curve)], "integrator")
    parts |= bundle_parts.integrator_part(whole)
    return parts | bundle_parts.domains_part(domains) | bundle_parts.homes_part(homes)


def _home(state: State, text: _Text) -> Floats:
    """The mean of the homes over each source; one too short for a window has none of its own."""
    own = [documents for documents in text.by_source() if sum(map(len, documents)) >= state.spec.context]
    return frechet_mean(np.stack([home(state, documents) for documents in own or [text.train]]))


def memory_of(documents: Sequence[Ids], vocab: int, saved_bits: float) -> Memory:
    """What a kernel remembers of these texts: n-grams that save so many bits each over them."""
    return prune(memory.count(documents), np.full(vocab, 1 / vocab), saved_bits)


def _encoded(encoder: Encoder, known: Sequence[Document], validation: Sequence[Document]) -> _Text:
    def encode(text: str) -> Ids:
        return np.append(encoder.encode(text), np.int32(EOS))

    return _Text(
        [encode(document.text) for document in known],
        [document.source for document in known],
        [encode(document.text) for document in validation],
        sum(document.size_bytes for document in validation),
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """What all states of a genesis share. basins: (vocab, 64); folder: for checkpoints and curves."""

    spec: Spec
    basins: Floats
    folder: Path
    mixed_precision: bool


def _states(
    job: _Job,
    budget: Budget,
    texts: Mapping[Role, _Text],
    seed: int,
    workers: int,
    team: Team,
    progress: Progress,
) -> dict[Role, Tensors]:
    """The seed, then the branches: side by side in processes of their own, or one after the other by the whole team."""
    everything = np.concatenate([ids for role in ROLES for ids in texts[role].train])
    # The whole run's rate would decay only in the branches: the seed stays on its plateau (warm-up, stable, decay).
    plan = Plan(budget.seed_steps, budget.windows, seed, decay=0.0, mixed_precision=job.mixed_precision)
    start = run(job, "seed", None, everything, plan, team, lambda done: progress("seed state", done))
    plans = {
        role: Plan(
            budget.branch_steps,
            budget.windows,
            seed + 1 + number,
            decay=1.0,
            warmup=10,
            phi_target=PHI_TARGET + HELD_OUT_PHI,
            phi_from=0,
            mixed_precision=job.mixed_precision,
        )
        for number, role in enumerate(ROLES)
    }
    own = {role: np.concatenate(texts[role].train) for role in ROLES}
    tensors: dict[Role, Tensors] = {}
    if team.size > 1 or team.device.type != "cpu":
        for role in ROLES:
            tensors[role] = run(job, role, start, own[role], plans[role], team)
            progress("branches", len(tensors) / len(ROLES))
        return tensors
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        branches = {role: pool.submit(run, job, role, start, own[role], plans[role]) for role in ROLES}
        for role, future in branches.items():
            tensors[role] = future.result()
            progress("branches", len(tensors) / len(ROLES))
    return tensors


def end_with_parent() -> None:
    """What a worker process does first: end when its parent is gone, however that ended. A pool's workers wait on for
    ever, since each holds both ends of the pipe that their work comes by.
    """

    def wait() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


def run(
    job: _Job,
    name: str,
    start: Tensors | None,
    ids: Ids,
    plan: Plan,
    team: Team = ALONE,
    progress: Callable[[float], None] | None = None,
) -> Tensors:
    """One state, from given weights or from the plan's seed: the weights it ends with. What a worker process does.

    Raises Rejected("guard_stopped") when the guards end it before its last step.
    """
    torch.set_num_threads(1)
    keep_freed()
    model = StateModel(job.spec, np.sqrt(job.basins), torch.Generator().manual_seed(plan.seed))
    if start is not None:
        restore(model, start)
    points: Iterable[Point] = train(
        model.to(team.device),
        ids,
        job.basins,
        plan,
        team=team,
        checkpoint=job.folder / f"{name}.safetensors",
        progress=progress,
    )
    if team.rank == 0:
        with Recorder(job.folder, name) as recorder:
            points = [*recorder.follow(points)]
    _check(points, name)
    return export(model)


def _check(points: Iterable[Point], name: str) -> None:
    """Raises Rejected("guard_stopped") for a run that the guards ended."""
    for point in points:
        if point.verdict == "RESTORE":
            message = f"training of {name} ended at step {point.step}: {point.reason}"
            raise Rejected("guard_stopped", f"{message}. Another --seed into another --out may get past it")


def centres(texts: Mapping[Role, _Text], table: Bearings) -> dict[Role, Floats]:
    """Where each role's domain lies, (64,): between its sources' means, so that the least margin is the largest.

    A source's margin is how much nearer its mean lies to its own role's centre than to another's. The centre is their
    Fréchet mean under weights that grow where the margin is small (multiplicative weights, Freund & Schapire 1997).
    """
    sources = {
        role: np.stack([frechet_mean(np.stack([text_basin(ids, table) for ids in own])) for own in text.by_source()])
        for role, text in texts.items()
    }
    even_handed = {role: frechet_mean(own) for role, own in sources.items()}
    found = {}
    for role, own in sources.items():
        others = np.stack([even_handed[name] for name in ROLES if name != role])
        room = distance(own[:, None], others[None]).min(1)
        weights = np.ones(len(own))
        for _ in range(MARGIN_ROUNDS):
            margins = room - distance(own, frechet_mean(own, weights))
            weights = weights * np.exp(MARGIN_RATE * (margins.mean() - margins))
        found[role] = frechet_mean(own, weights)
    return found


def _domain(role: Role, kernel: Kernel, text: _Text, centre: Floats, table: Bearings) -> Domain:
    """Gate by EM on validation text, which the memory has not counted; radius from the role's own passages."""
    readings = [read(kernel, ids) for ids in text.validation]
    learned = gate.learn(
        np.concatenate([r.experts for r in readings]), np.concatenate([r.buckets for r in readings]), kernel.gate
    )
    away = [float(distance(text_basin(ids, table), centre)) for ids in text.validation]
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
