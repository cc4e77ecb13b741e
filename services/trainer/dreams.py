"""What a state learns from a batch, asleep, where it learns at all: replayed text and dreams.

    replay     text of the role's corpus, so that an old domain is not forgotten for a new one's sake
    dreams     samples of the merged domain's kernel, each begun with its crystals: the only text of a new domain that
               the centre ever sees

A trainer takes no steps unless it is told to: merging memories alone reads a new domain as well (docs/experiments.md).

A run keeps its checkpoint under a name made of all that it depends on: text, weights, plan. Killed and begun again it
goes on from there, to the same bits; one that found other text, another parent or other steps begins anew.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from common.constants import Role
from common.constellation.constellation import Constellation
from common.constellation.parts import homes_part, kernel_part
from common.coordizer.artifacts import EOS
from common.errors import Corrupt, Unavailable
from common.geometry.means import carry
from common.kernels import memory, weights
from common.kernels.engine import State
from common.wire.messages import DomainUpdate
from services.trainer import curves, loop
from services.trainer.evaluate import Examiner, Score, home
from services.trainer.loop import Plan, train
from services.trainer.model import StateModel, export, restore

Ids = npt.NDArray[np.int32]
Progress = Callable[[str, float], None]

DREAMS: Final = 8
DREAM_SEED_TOKENS: Final = 3
REPLAY_SHARE: Final = 4  # replayed tokens for one dreamt
WINDOWS: Final = 8  # a step
CONSOLIDATION_RATE: Final = 0.01  # of the genesis rate: 0.02 already costs the old domain (docs/experiments.md)


@dataclass(frozen=True, slots=True)
class Lesson:
    """text: (N,) ids. following: (N,) the token to be expected after each place: the text's, or a teacher's."""

    text: Ids
    following: Ids


def trained(  # noqa: PLR0913 -- what `consolidate` was given, and what it has made so far
    merged: Constellation,
    after: dict[str, Score],
    updates: Sequence[DomainUpdate],
    examiner: Examiner,
    allowed: Mapping[str, float],
    *,
    replay: Mapping[Role, Sequence[str]],
    steps: int,
    seed: int,
    folder: Path | None,
    progress: Progress | None = None,
) -> tuple[Constellation, dict[str, Score], dict[str, bytes], list[str]]:
    """The constellation with the states that training made better, its scores, its changed parts, and what guards said.

    allowed: bits per byte by domain; a state with which one reads above it is dropped. progress: told by role what
    share of its steps is done; what it raises ends the run.
    """
    changed: dict[str, bytes] = {}
    said: list[str] = []
    for update in updates:
        if not merged.memories[merged.domains[update.name].memories[-1]].entries:
            continue  # opened without a crystal: nothing to dream of
        role = update.kernel
        rng = np.random.default_rng([seed, update.packets, update.tokens])
        given = lesson(merged, update.name, replay, steps, rng)
        told = None if progress is None else partial(progress, role)
        state, words = learned(merged.states[role], given, steps, seed, folder, told)
        said += [f"{word}-{role}" for word in words]
        trial = with_state(merged, role, state, replay)
        figures = examiner.scores(trial)
        if "restore" in words or any(figures[d].bits_per_byte > allowed[d] for d in figures):
            said.append(f"state-dropped-{role}")
            continue
        merged, after = trial, figures
        changed |= kernel_part(role, state.spec, state.weights)
        changed |= homes_part(merged.homes)
    return merged, after, changed, said


def lesson(
    merged: Constellation, domain: str, replay: Mapping[Role, Sequence[str]], steps: int, rng: np.random.Generator
) -> Lesson:
    """What the state of a domain's role learns when the domain was brought something. replay: texts by role, at least
    one of this one's.
    """
    known = spoken(replayed(merged, merged.domains[domain].role, replay, steps, rng))
    dreamt = spoken(dream(merged, domain, rng))
    return joined([known, *[dreamt] * max(1, len(known.text) // (REPLAY_SHARE * len(dreamt.text)))])


def replayed(
    merged: Constellation, role: Role, replay: Mapping[Role, Sequence[str]], steps: int, rng: np.random.Generator
) -> Ids:
    """Texts of a role, one after the other, by lot: as many tokens as so many steps read, or all that there are."""
    left, found = steps * WINDOWS * merged.states[role].spec.context, []
    for place in rng.permutation(len(replay[role])):
        if left > 0:
            found.append(np.append(merged.encoder.encode(replay[role][place]), np.int32(EOS)))
            left -= len(found[-1])
    return np.concatenate(found)


def spoken(text: Ids) -> Lesson:
    """A text as it stands."""
    return Lesson(text, np.append(text[1:], np.int32(EOS)))


def joined(lessons: Sequence[Lesson]) -> Lesson:
    """One after the other."""
    return Lesson(np.concatenate([one.text for one in lessons]), np.concatenate([one.following for one in lessons]))


def dream(constellation: Constellation, domain: str, rng: np.random.Generator) -> Ids:
    """DREAMS texts of a window each, sampled from a domain's kernel, each begun with an n-gram of its most specific
    memory.
    """
    known = constellation.memories[constellation.domains[domain].memories[-1]].tables[:DREAM_SEED_TOKENS]
    order, table = next((n, known[n]) for n in reversed(range(len(known))) if len(known[n].keys))
    starts = rng.choice(table.keys, DREAMS, p=table.counts / table.counts.sum())
    length = constellation.states[constellation.domains[domain].role].spec.context
    dreams = []
    for start in starts:
        prompt = np.array([int(start) >> 15 * n & int(memory.TOKEN_MASK) for n in range(order, -1, -1)], np.int32)
        said = constellation.speak(prompt, {domain: 1.0}, max_tokens=length - len(prompt), temperature=1.0, rng=rng)
        dreams += [prompt, np.array([step.token for step in said], np.int32), np.array([EOS], np.int32)]
    return np.concatenate(dreams)


def learned(
    state: State,
    given: Lesson,
    steps: int,
    seed: int,
    folder: Path | None,
    progress: loop.Progress | None = None,
) -> tuple[State, list[str]]:
    """A state after `steps` guarded steps on a lesson, as its part will hold it, and what the guards said.

    folder: for the run's checkpoint and curve; None keeps none. Raises Unavailable("checkpoint", "curve") when it can't
    be used.
    """
    torch.set_num_threads(1)  # bit for bit: more threads add in another order
    plan = Plan(steps, WINDOWS, seed, warmup=5, decay=1.0, rate=CONSOLIDATION_RATE, phi_from=0)
    if folder is None:
        return _run(state, given, plan, None, "", progress)
    name = _named(state, given, plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"can't make {folder}: {error.strerror}; checkpoints of training go there: make it writable"
        raise Unavailable("checkpoint", message) from error
    try:
        return _run(state, given, plan, folder, name, progress)
    except Corrupt:  # torn on the disk, or of another version of this program: what it held can be made again
        (folder / f"{name}.safetensors").unlink(missing_ok=True)
        return _run(state, given, plan, folder, name, progress)


def _run(
    state: State, given: Lesson, plan: Plan, folder: Path | None, name: str, progress: loop.Progress | None
) -> tuple[State, list[str]]:
    model = StateModel(state.spec, state.sqrt_basins, torch.Generator().manual_seed(plan.seed))
    restore(model, state.weights)
    kept = None if folder is None else folder / f"{name}.safetensors"
    points = train(
        model,
        given.text,
        np.square(state.sqrt_basins),
        plan,
        following=given.following,
        checkpoint=kept,
        progress=progress,
    )
    if folder is None:
        said = list(points)
    else:  # a run that goes on says only the rest
        with curves.Recorder(folder, name) as recorder:
            for _ in recorder.follow(points):
                pass
        said = curves.read(folder)[name]
    _, rounded = weights.from_bytes(weights.to_bytes(state.spec, export(model)))
    words = sorted({point.verdict.lower() for point in said if point.verdict != "GO"})
    return State(state.spec, rounded, state.sqrt_basins), words


def _named(state: State, given: Lesson, plan: Plan) -> str:
    """One name for all that decides a run's bits."""
    found = hashlib.sha256(repr((plan, torch.__version__)).encode())
    for part in (
        given.text,
        given.following,
        state.sqrt_basins,
        *(state.weights[key] for key in sorted(state.weights)),
    ):
        found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()[:32]


def with_state(merged: Constellation, role: Role, state: State, replay: Mapping[Role, Sequence[str]]) -> Constellation:
    """The constellation with another state in a role, and its home moved as the replayed text's mean basin moved.

    Not that mean itself: the home may have been measured on text that this trainer does not own.
    """
    documents = [np.append(merged.encoder.encode(text), np.int32(EOS)) for text in replay[role]]
    before, after = home(merged.states[role], documents), home(state, documents)
    return replace(
        merged,
        states={**merged.states, role: state},
        homes={**merged.homes, role: carry(merged.homes[role], before, after)},
    )
