"""Phi: how much of a state's one-step predictability exists only because its faculties act on each other.

    basins (W, T, 64) --log map at home, 8 cells summed--> faculties (W, T, 8) --products--> Moments --> Integration

Knows nothing of kernels or training. Rules: Phi is a number only when it is known (512 transitions, a state that moves,
nothing but finite values), and None with a reason otherwise; every Phi comes with the p-value of no coupling at all.
Shapes: W windows, T tokens in a window, C = 64 cells, F = 8 faculties.

>>> import numpy as np
>>> x_WTF = np.random.default_rng(0).normal(size=(8, 256, 8))
>>> quiet = integration(moments(x_WTF - x_WTF.mean(1, keepdims=True)))
>>> quiet.phi is not None and quiet.phi < 0.02
True
>>> integration(moments(x_WTF[:1])).reason
'few_transitions'
"""

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from common.constants import CELLS, CELLS_PER_FACULTY, FACULTIES, PHI_COUPLINGS, PHI_MIN_TRANSITIONS
from common.errors import Rejected
from common.geometry.simplex import Array, Floats, log_map

Reason = Literal["few_transitions", "degenerate", "not_finite"]

F: Final = len(FACULTIES)
RIDGE_SHARE: Final = 1e-3  # of the mean variance of a faculty: chosen with the estimator's published numbers
RIDGE_RAD2: Final = (
    1e-6  # a constant state must not blow up; also the mean variance at which a state counts as constant
)
DESCENT_STEPS: Final = 200  # bound: about 12 are needed, stiff systems take more
DESCENT_NATS: Final = 1e-10  # a step that gains less is the last
STILL_SHARE: Final = 1e-14  # of the total variance: far below rounding for a faculty that moves
ROLL_SHARE: Final = 6  # surrogates are rolled by at least one sixth of the window
JACKKNIFE_BLOCKS: Final = 10
ROLL_MIN_TOKENS: Final = 12  # below it eight faculties cannot all get different offsets


@dataclass(frozen=True, slots=True)
class Moments:
    """Additive sums over transitions: what has to be remembered of a state to know its Phi.

    n: transitions, >= 0 (a weight: fractional once decayed). second: (16, 16), sum of outer products of
    [x_t, x_t+1], rad^2.
    """

    n: float
    second: Array


@dataclass(frozen=True, slots=True)
class Integration:
    """Phi in [0, 1] with its geometric integrated information (nats, no bias removed) and p-value; None when not known.

    n: transitions behind it. reason: why phi is not known; None when it is.
    """

    phi: float | None
    phi_g_nats: float | None
    p_value: float | None
    n: float
    reason: Reason | None


NO_MOMENTS: Final = Moments(0.0, np.zeros((2 * F, 2 * F)))


def faculties(basins_WTC: Floats, home_s: Floats) -> Array:
    """Faculty activations: the log map at home, summed over each faculty's 8 cells, centred within each window.

    basins_WTC: (W, T, 64) basins; home_s: (64,) unit vector sqrt(home basin). Returns (W, T, 8) rad, in the order of
    FACULTIES, with zero mean over T. Without the centring, surrogates rolled in time would share their windows' means
    and read as coupled. Raises Rejected("off_simplex", "off_sphere" or "bad_shape").
    """
    if np.ndim(basins_WTC) != 3 or np.shape(basins_WTC)[-1] != CELLS:
        raise Rejected("bad_shape", f"basins of shape {np.shape(basins_WTC)}; expected (windows, tokens, {CELLS})")
    return centred(activations(basins_WTC, home_s))


def activations(basins: Floats, home_s: Floats) -> Array:
    """The log map at home, summed over each faculty's 8 cells and not centred: (..., 64) to (..., 8) rad.

    Raises Rejected("off_simplex", "off_sphere").
    """
    v = log_map(home_s, basins)
    return np.asarray(v.reshape(*v.shape[:-1], F, CELLS_PER_FACULTY).sum(-1))


def centred(x_WTF: Floats) -> Array:
    """Activations less their mean over each window's tokens: (W, T, F) to (W, T, F)."""
    if np.shape(x_WTF)[1] == 0:
        return np.asarray(x_WTF, np.float64)
    return np.asarray(x_WTF - np.mean(x_WTF, 1, keepdims=True, dtype=np.float64))


def moments(x_WTF: Floats) -> Moments:
    """The sum of [x_t, x_t+1][x_t, x_t+1]^T over the transitions inside windows.

    x_WTF: (W, T, 8), centred within each window. Returns n = W (T - 1) transitions and the (16, 16) sum; no transition
    crosses from one window to the next. Raises Rejected("bad_shape").
    """
    x_WTF = np.asarray(x_WTF, np.float64)
    if x_WTF.ndim != 3 or x_WTF.shape[-1] != F:
        raise Rejected("bad_shape", f"activations of shape {x_WTF.shape}; expected (windows, tokens, {F})")
    pairs = np.concatenate([x_WTF[:, :-1], x_WTF[:, 1:]], -1).reshape(-1, 2 * F)
    return Moments(float(len(pairs)), pairs.T @ pairs)


def combine(a: Moments, b: Moments, keep: float = 1.0) -> Moments:
    """The sum keep * a + b, in n and in the sums: pooling at keep = 1, an exponentially weighted memory below it.

    keep: in [0, 1]. Commutative and associative at 1. For keep < 1, n is the sum of weights, which is below the
    effective number of transitions (by up to half): the bias is over-corrected and the p-value errs to the safe side.
    Raises Rejected("bad_fraction").
    """
    if not 0.0 <= keep <= 1.0:
        raise Rejected("bad_fraction", f"keep is {keep}; it is the share of the past that stays, in [0, 1]")
    return Moments(keep * a.n + b.n, keep * a.second + b.second)


def integration(m: Moments) -> Integration:
    """Phi = 1 - exp(-2 max(0, Phi_G - k / 2n)), k = 56 couplings, n transitions, with the p-value of no coupling.

    Phi in [0, 1]: 0 with independent faculties. The regression has a ridge of 1e-6 rad^2 + 1e-3 of the mean variance of
    a faculty, which shrinks Phi_G by about 0.3 %, and by more the nearer a state is to deterministic. The p-value is
    P(chi2_56 >= 2 n Phi_G), the likelihood-ratio test of a diagonal against a full VAR(1).
    Not known, with a reason: "not_finite", "few_transitions" (n < 512), "degenerate" (mean variance of a faculty
    below 1e-6 rad^2: under 1e-3 rad of movement, the ridge would be most of what is measured).
    Source: Oizumi, Tsuchiya & Amari, PNAS 2016; Wilks 1938 for the test and the bias.
    """
    if not (math.isfinite(m.n) and bool(np.all(np.isfinite(m.second)))):
        return _unknown(m, "not_finite")
    if m.n < PHI_MIN_TRANSITIONS:
        return _unknown(m, "few_transitions")
    covariance = m.second / m.n
    past, future, cross = covariance[:F, :F], covariance[F:, F:], covariance[:F, F:]
    variance = float(np.trace(past)) / F
    if not variance >= RIDGE_RAD2:
        return _unknown(m, "degenerate")
    nats = geometric_nats(past, future, cross, RIDGE_RAD2 + RIDGE_SHARE * variance)
    if not math.isfinite(nats):
        return _unknown(m, "degenerate")
    phi = -math.expm1(-2.0 * max(0.0, nats - PHI_COUPLINGS / (2.0 * m.n)))
    return Integration(phi, nats, chi2_survival(2.0 * m.n * nats, PHI_COUPLINGS), m.n, None)


def standard_error(x_WTF: Floats) -> float | None:
    """Jackknife standard error of Phi over JACKKNIFE_BLOCKS blocks of neighbouring windows, in units of Phi.

    x_WTF: (W, T, 8), centred within each window. None when Phi is not known without some block, or W is below the
    blocks. It holds the choice of text, not that of training seeds. Source: Efron & Tibshirani 1993, ch. 11.
    """
    if len(x_WTF) < JACKKNIFE_BLOCKS:
        return None
    blocks = [moments(block) for block in np.array_split(np.asarray(x_WTF), JACKKNIFE_BLOCKS)]
    readings = []
    for left_out in range(JACKKNIFE_BLOCKS):
        kept = NO_MOMENTS
        for number, block in enumerate(blocks):
            kept = kept if number == left_out else combine(kept, block)
        phi = integration(kept).phi
        if phi is None:
            return None
        readings.append(phi)
    return float(np.std(readings) * math.sqrt(JACKKNIFE_BLOCKS - 1))


def participation(m: Moments) -> float | None:
    """Participation ratio (tr C)^2 / tr C^2 of the activations' covariance C: how many dimensions a state moves in.

    Returns a number in [1, 8]: 1 along one line, 8 alike in all; None under the rule for a known Phi (512 transitions,
    finite, moving). n transitions read a share of about 8/n low. Source: Litwin-Kumar et al., Neuron 2017.
    """
    if integration(m).phi is None:
        return None
    covariance = m.second[:F, :F]
    return float(np.trace(covariance) ** 2 / np.sum(covariance * covariance))


def geometric_nats(past: Array, future: Array, cross: Array, ridge: float = 0.0) -> float:
    """Phi_G = min over diagonal A' of 1/2 ln det(E + (A - A') S (A - A')^T) - 1/2 ln det E, for a Gaussian VAR(1).

    past S = <x x^T>, future = <y y^T>, cross = <x y^T>, each (F, F), rad^2; R = S + ridge I; A = cross^T R^-1;
    E = future + ridge I - A R A^T. Returns nats >= 0; NaN when E or R is not positive definite.

    The ridge stays out of the middle S: the state has no variance there. With it, eight uncoupled faculties whose sum
    is constant, as it nearly is at a uniform home, would read Phi 0.37 at p = 0; without it 0.00 to 0.09.
    The minimum is found by majorise-minimise: with W = (E + D S D^T)^-1, D = A - diag(a), the tangent of ln det at D
    majorises it, and its minimum solves (W o S) a = diag(W A S). Monotone; ends within 1e-6 nats of a minimum,
    which is the global one except for some noise covariances near singular (1 in 100: up to 0.1 nats too high).
    Source: Oizumi, Tsuchiya & Amari, PNAS 2016, eq. 20.
    """
    held = ridge * np.eye(len(past))
    try:
        A: Array = np.asarray(np.linalg.solve(past + held, cross).T, np.float64)
        noise = future + held - A @ (past + held) @ A.T
        floor = float(_log_det(noise))
        own: Array = cross.diagonal() / (past + held).diagonal()
        best = _descend(past, noise, A, np.stack([A.diagonal(), own]))
    except np.linalg.LinAlgError:
        return math.nan
    return 0.5 * max(0.0, best - floor)


def chi2_survival(x: float, dof: int) -> float:
    """P(chi2 >= x) = exp(-x/2) sum over i < dof/2 of (x/2)^i / i!, for an even dof.

    x: >= 0; dof: even, >= 2. Returns a probability in [0, 1], to 1e-12 of its value; 0 below the smallest double.
    Summed in logarithms, where nothing overflows. Source: Abramowitz & Stegun 26.4.21.
    """
    assert dof >= 2, f"dof is {dof}; at least 2"
    assert dof % 2 == 0, f"dof is {dof}; the closed form needs an even one"
    if x <= 0:
        return 1.0
    half = 0.5 * x
    logs = [i * math.log(half) - math.lgamma(i + 1) - half for i in range(dof // 2)]
    top = max(logs)
    return min(1.0, math.exp(top + math.log(math.fsum(math.exp(each - top) for each in logs))))


def rolled(x_WTF: Floats, rng: np.random.Generator) -> Array:
    """A control without coupling: in every window each faculty is rolled in time by an offset of its own.

    x_WTF: (W, T, F), T >= 12. Returns (W, T, F): each faculty keeps its own dynamics and loses its neighbours. Offsets
    lie in [T/6, T), dealt evenly so that any two differ by T/10 or more (one token at least): two close offsets would
    keep their coupling. Raises Rejected("short_window").
    """
    values: Array = np.asarray(x_WTF, np.float64)
    windows, tokens, count = values.shape
    if tokens < ROLL_MIN_TOKENS:
        raise Rejected("short_window", f"{tokens} tokens in a window; rolling needs {ROLL_MIN_TOKENS} or more")
    least = math.ceil(tokens / ROLL_SHARE)
    deal = rng.permuted(np.tile(np.arange(count), (windows, 1)), axis=1) + rng.random((windows, 1))
    offset_WF = least + np.floor(deal * (tokens - least) / count).astype(np.int64)
    source_WTF = (np.arange(tokens)[None, :, None] - offset_WF[:, None, :]) % tokens
    return np.take_along_axis(values, source_WTF, 1)


def _descend(past: Array, noise: Array, A: Array, a_SF: Array) -> float:
    """The least ln det that is reached from S starts, side by side: most of the cost is in the calls, not in 8x8."""
    value_S = np.full(len(a_SF), math.inf)
    # W o S is singular where a faculty never moves, and its own coefficient is then free: this picks 0.
    still = STILL_SHARE * float(np.trace(past)) * np.eye(len(past))
    every = np.arange(len(past))
    for _ in range(DESCENT_STEPS):
        D = np.repeat(A[None], len(a_SF), 0)
        D[:, every, every] -= a_SF
        spread = noise + D @ past @ D.swapaxes(1, 2)
        before_S, value_S = value_S, np.minimum(value_S, _log_det(spread))
        if not np.any(before_S - value_S > DESCENT_NATS):
            break
        W = np.linalg.inv(spread)
        pulled = (W @ A @ past)[:, every, every]
        a_SF = np.asarray(np.linalg.solve(W * (past + still), pulled[..., None])[..., 0], np.float64)
    return float(value_S.min())


def _log_det(covariances: Array) -> Array:
    """Of each of (..., F, F). Through Cholesky, which refuses what is not positive definite; a determinant would give
    it a number.
    """
    found: Array = 2.0 * np.log(np.linalg.cholesky(covariances).diagonal(axis1=-2, axis2=-1)).sum(-1)
    return found


def _unknown(m: Moments, reason: Reason) -> Integration:
    return Integration(None, None, None, m.n, reason)
