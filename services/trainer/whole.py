"""What the constellation is beyond its members: its Phi on the mixed stream, every control, and what it predicts.

The mixed stream is as many windows of each role, read by all four states. "Emergent" here means two things that can
fail: Phi above every member's on the same windows, and down to theirs when a member is cut or listens elsewhere.
Knows no torch: a constellation that serves can be measured where it serves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import AHEAD_TOKENS, CELLS, ROLES, Role
from common.constellation.constellation import Constellation
from common.constellation.together import members, window_tokens
from common.geometry.integration import Integration, faculties
from common.geometry.simplex import from_float16, normalise
from common.kernels.engine import State
from common.kernels.memory import Ids
from services.trainer import controls
from services.trainer.evaluate import CONTROL_SEED, Changed, changed, whole_windows
from services.trainer.integrated import about, about_their_mean, integrated, phi_of

Floats = npt.NDArray[np.float64]

WINDOWS_A_ROLE: Final = 48  # chosen: at size tiny 24,000 transitions in all, where chance reads 0.001
SMALLEST: Final = 1e-9  # of a probability under a logarithm, as in training


@dataclass(frozen=True, slots=True)
class Foresight:
    """KL(mean basin of the next 16 tokens || basin) in nats, lower is better: of the constellation; of each member; of
    the members where each window is read by its own role's; of the best single basin for all places, which is chance.
    """

    constellation: float
    members: Mapping[Role, float]
    routed: float
    constant: float


@dataclass(frozen=True, slots=True)
class Whole:
    """On one mixed stream. members: each state's Phi about its own home; phi, error: the constellation's, and its
    standard error; mean: of the plain mean of the members' basins, about its own mean: what pooling alone gives.

    Controls: rolled, shuffled, noise (random tokens), swapped (members on different windows), untrained (four states
    as training finds them), without and alone (one member cut, and all others cut). participation: dimensions, of 8.
    """

    members: Mapping[Role, Integration]
    phi: Integration
    error: float | None
    mean: Integration
    rolled: Integration
    shuffled: Integration
    noise: Integration
    swapped: Integration
    untrained: Integration
    without: Mapping[Role, Integration]
    alone: Mapping[Role, Integration]
    foresight: Foresight
    participation: float | None


def whole(
    constellation: Constellation, texts: Mapping[str, Sequence[str]], tell: Callable[[float], None] = lambda _: None
) -> Whole:
    """Measures on texts by role. tell: the share that is done. Raises Rejected("text_too_short")."""
    rng = np.random.default_rng(CONTROL_SEED)
    states, integrator = constellation.states, constellation.integrator
    windows = mixed(constellation, texts)
    vocab = constellation.coordizer.vocab_size
    heard = members(states, windows)
    tell(0.25)
    shuffled = members(states, controls.shuffled(windows, rng))
    tell(0.5)
    noise = members(states, controls.random_tokens(windows, vocab, rng))
    tell(0.75)
    blank = members(_untrained(states, rng), windows)
    tell(1.0)
    everyone = range(len(ROLES))

    def phi(seen: Floats) -> Integration:
        return about(integrator.basin(seen), integrator.home)

    found = integrated(integrator.basin(heard), integrator.home, rng)
    return Whole(
        members={r: about(heard[:, :, place], constellation.homes[r]) for place, r in enumerate(ROLES)},
        phi=found.phi,
        error=found.error,
        mean=about_their_mean(normalise(np.square(np.sqrt(heard).mean(2)))),
        rolled=found.rolled,
        shuffled=phi(shuffled),
        noise=phi(noise),
        swapped=phi(controls.swapped(heard, rng)),
        untrained=phi(blank),
        without={r: phi(controls.cut(heard, [place])) for place, r in enumerate(ROLES)},
        alone={r: phi(controls.cut(heard, [p for p in everyone if p != place])) for place, r in enumerate(ROLES)},
        foresight=_foresight(constellation, windows, heard),
        participation=found.participation,
    )


def whole_changed(before: Constellation, after: Constellation, texts: Mapping[str, Sequence[str]]) -> Changed | None:
    """The constellation's Phi on the same mixed stream, before and after; see `evaluate.moved`. None where some role's
    texts fill no window.
    """
    for each in (before, after):
        least = min(sum(len(each.encoder.encode(text)) for text in texts.get(role, ())) for role in ROLES)
        if least < window_tokens(each.states):
            return None
    paired = before.coordizer.vocab_size == after.coordizer.vocab_size
    old, new = _held_together(before, texts), _held_together(after, texts)
    return changed(old, new, phi_of, paired=paired)


def _held_together(constellation: Constellation, texts: Mapping[str, Sequence[str]]) -> Floats:
    basins = constellation.integrator.basin(members(constellation.states, mixed(constellation, texts)))
    return faculties(basins, np.sqrt(constellation.integrator.home))


def mixed(constellation: Constellation, texts: Mapping[str, Sequence[str]]) -> Ids:
    """As many windows of every role, at most WINDOWS_A_ROLE, evenly spaced, one role after the other: (W, T)."""
    tokens = window_tokens(constellation.states)
    found = [whole_windows([constellation.encoder.encode(text) for text in texts[r]], tokens) for r in ROLES]
    count = min(WINDOWS_A_ROLE, *map(len, found))
    return np.concatenate([w[np.linspace(0, len(w) - 1, count).astype(int)] for w in found])


def foreseen(windows_WT: Ids, token_basins: Floats) -> Floats:
    """Mean basin of the 16 tokens after each of a window's first T - 16, (W, T - 16, 64)."""
    summed = np.cumsum(token_basins[windows_WT], 1)
    return np.asarray((summed[:, AHEAD_TOKENS:] - summed[:, :-AHEAD_TOKENS]) / AHEAD_TOKENS)


def divergence(target: Floats, basins: Floats) -> float:
    """Mean KL(target || basins) in nats, over all but the last axis."""
    ratio = np.log(np.maximum(target, SMALLEST)) - np.log(np.maximum(basins, SMALLEST))
    return float((target * ratio).sum(-1).mean())


def _foresight(constellation: Constellation, windows: Ids, heard: Floats) -> Foresight:
    target = foreseen(windows, from_float16(constellation.coordizer.basins))
    told = heard[:, : target.shape[1]]
    each = len(windows) // len(ROLES)
    own = np.concatenate([told[p * each : (p + 1) * each, :, p] for p in range(len(ROLES))])
    return Foresight(
        constellation=divergence(target, constellation.integrator.basin(told)),
        members={r: divergence(target, told[:, :, place]) for place, r in enumerate(ROLES)},
        routed=divergence(target, own),
        constant=divergence(target, target.reshape(-1, CELLS).mean(0)),
    )


def _untrained(states: Mapping[Role, State], rng: np.random.Generator) -> dict[Role, State]:
    return {r: State(s.spec, controls.untrained(s.spec, rng), s.sqrt_basins) for r, s in states.items()}
