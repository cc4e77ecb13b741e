"""Roles of tokens, learned from what basins are for: telling whose a short text is.

PLSA says which cells a token speaks of. How its mass divides among the roles is better learned from the routes
themselves: counting takes each token for evidence of its own, while the words of a text come together. So the roles'
shares start from counts and follow the gradient of the routing loss over short pieces of the training text,

    loss = − log softmax_r(τ Σ_t w_t ⟨√b_t, √h_r⟩)[role of the piece],   w_t = salience of the token,

which orders the homes h_r as the Fisher-Rao distance from the text's mean does. Homes move with the basins: every few
steps they are the mean of the documents again. It changes shares among roles only; cells within a role keep PLSA's.

The same documents come in several spellings, which take turns, each with homes of its own: what a short token says is
learned where it stands, in the text of a smaller vocabulary, and so a prefix of the ids routes as well.

    shapes: V tokens, 4 roles, 64 cells; shares p (V, 4): a token's mass in each role's own faculties, scaled to one
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, ROLES
from common.coordizer.basins import own_cells
from common.coordizer.compiled import compiled
from common.geometry.simplex import Array, normalise

STEPS: Final = 96  # of all spellings together
PIECES_MAX: Final = 8192  # of text, a step
PIECES_MIN: Final = 64
TOKENS_A_PIECE: Final = 600  # chosen: all steps together read a text about five times, however long it is
PIECE_TOKENS: Final = (8, 16, 64)  # chosen: 32, 64 and 256 bytes at 4 bytes a token
TAU: Final = 12.0  # chosen on validation text, with the next two (docs/experiments.md)
RATE: Final = 0.6
EASE: Final = 2.0  # how much gradient a token gathers before its steps shrink (AdaGrad)
SHARED_MAX: Final = 0.3  # most of a token's mass that its shared cells may keep
SHARE_MIN: Final = 0.0025  # no token rules a role out
_HOMES_EVERY: Final = 12  # steps
HOME_TOKENS: Final = 1 << 18  # chosen: an even choice of documents of about this size shows where a role lies
_SPREAD_MIN: Final = 0.05  # sin of half the salience: bounds the slope where a token says nothing
_N: Final = len(ROLES)
_TINY: Final = 1e-30

Ids = npt.NDArray[np.int32]
Places = npt.NDArray[np.int64]


class Pieces(NamedTuple):
    """Documents behind one another: document i holds ids[starts[i]:starts[i + 1]] and belongs to role[i]."""

    ids: Ids
    starts: Places  # (documents + 1,)
    role: Places  # (documents,) place in ROLES, ascending


class Parts(NamedTuple):
    """A token's amplitudes without its shares: √ of its distribution over each role's cells, and of its shared mass."""

    inner: npt.NDArray[np.float32]  # (V, 64): unit length within each role's cells; the shared cells carry √mass
    role_of: npt.NDArray[np.int64]  # (64,) the role that owns a cell, or 4: shared
    own: npt.NDArray[np.float32]  # (V,) √(1 − shared mass)


def refined(basins: Array, spellings: Sequence[Pieces], seed: int) -> Array:
    """The same basins with their mass among the roles divided anew, (V, 64) rows on the simplex.

    basins: (V, 64), rows on the simplex, > 0, as PLSA gives them; spellings: at least one, of text of at least one
    role, not empty. Deterministic for a seed.
    """
    parts = _parts(basins)
    shares = refine(parts, spellings, seed)
    mass = np.square(parts.inner, dtype=np.float64)
    for number in range(_N):
        mass[:, parts.role_of == number] *= (np.square(parts.own) * shares[:, number])[:, None]
    return normalise(mass)


def _parts(basins: Array) -> Parts:
    role_of = np.full(CELLS, _N)
    inner = np.empty(basins.shape, np.float32)
    for number, role in enumerate(ROLES):
        cells = own_cells(role)
        role_of[cells] = number
        inner[:, cells] = np.sqrt(normalise(basins[:, cells]))
    common = role_of == _N
    shared = np.minimum(basins[:, common].sum(axis=1, keepdims=True), SHARED_MAX)
    inner[:, common] = np.sqrt(shared * normalise(basins[:, common]))
    return Parts(inner, role_of, np.sqrt(1.0 - shared[:, 0]).astype(np.float32))


def refine(parts: Parts, spellings: Sequence[Pieces], seed: int) -> Array:
    """Shares (V, 4), rows on the simplex, each at least SHARE_MIN, by stochastic descent of the routing loss."""
    rng = np.random.default_rng(seed)
    logits = np.log(_counted(spellings, len(parts.inner)))
    gathered, pull = np.zeros_like(logits), np.empty_like(logits)
    known = [_known(parts, text) for text in spellings]
    seen: dict[int, Any] = {}
    for step in range(STEPS):
        turn = step % len(spellings)
        text, (inner, role_of, own) = spellings[turn], known[turn]
        shares = shares_of(logits[: len(own)])
        if step % _HOMES_EVERY < len(spellings):
            seen[turn] = _seen(inner, role_of, _homes(text, known[turn], shares))
        evidence = TAU * _evidence(seen[turn], own, shares)
        pull.fill(0.0)
        _gather(text.ids, *_draw(text, rng), evidence, TAU, pull)
        _move(logits, gathered, pull, seen[turn], own, shares, RATE * (1.0 - step / STEPS))
    return shares_of(logits)


def _known(parts: Parts, text: Pieces) -> Parts:
    """Of the tokens up to the last that this spelling has."""
    size = int(text.ids.max()) + 1
    return Parts(parts.inner[:size], parts.role_of, parts.own[:size])


def _draw(text: Pieces, rng: np.random.Generator) -> tuple[Places, Places, Places]:
    """First places, places behind the last, roles: roles alike often, places anywhere, inside one document each."""
    first, last = (bounds := _bounds(text))[:-1], bounds[1:]
    present = np.flatnonzero(last > first)
    number = min(PIECES_MAX, max(PIECES_MIN, len(text.ids) // TOKENS_A_PIECE))
    role = present[rng.integers(0, len(present), number)]
    at = first[role] + (rng.random(number) * (last - first)[role]).astype(np.int64)
    end = text.starts[np.searchsorted(text.starts, at, "right")]
    length = np.array(PIECE_TOKENS)[rng.integers(0, len(PIECE_TOKENS), number)]
    return at, np.minimum(at + length, end), role


def _bounds(text: Pieces) -> Places:
    """(5,) where each role's ids begin, and the end of all."""
    return text.starts[np.searchsorted(text.role, np.arange(_N + 1))]


def shares_of(logits: Array) -> Array:
    """softmax, then at least SHARE_MIN each."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray((1.0 - _N * SHARE_MIN) * weights / weights.sum(axis=1, keepdims=True) + SHARE_MIN)


def _counted(spellings: Sequence[Pieces], tokens: int) -> Array:
    """P(role | token) from counts, every role counting the same, one occurrence of an even token added."""
    counts = np.zeros((tokens, _N))
    for text in spellings:
        for number, (first, last) in enumerate(pairwise(_bounds(text))):
            counts[:, number] += np.bincount(text.ids[first:last], minlength=tokens)
    total = counts.sum(axis=0)
    even = counts / np.maximum(total, 1.0) * total.sum() / _N + 1.0
    return np.asarray(even / even.sum(axis=1, keepdims=True))


@compiled
def _weigh(share: Any) -> float:
    """Salience: d(shares, even shares), radians, of one token."""
    total = 0.0
    for r in range(4):
        total += np.sqrt(share[r])
    return float(2.0 * np.arccos(min(1.0, 0.5 * total)))


def _homes(text: Pieces, parts: Parts, shares: Array) -> Array:
    """Unit mean of the unit means of each role's documents, (4, 64) amplitudes; every n-th document counts."""
    every = -(-len(text.ids) // HOME_TOKENS)
    weight = 2.0 * np.arccos(np.minimum(1.0, 0.5 * np.sqrt(shares).sum(axis=1)))
    amplitude = np.concatenate([parts.own[:, None] * np.sqrt(shares), np.ones((len(shares), 1))], axis=1)
    rows = parts.inner * (weight[:, None] * amplitude).astype(np.float32)[:, parts.role_of]
    homes = np.zeros((_N, CELLS))
    _add_documents(text.ids, text.starts, text.role, every, rows, homes)
    return np.asarray(homes / np.maximum(np.sqrt(np.square(homes).sum(axis=1, keepdims=True)), _TINY))


@compiled
def _add_documents(ids: Any, starts: Any, role: Any, every: int, rows: Any, homes: Any) -> None:
    """Add every n-th document's unit mean of rows to its role's home, and the first of a role that has none there."""
    cells = rows.shape[1]
    mean = np.empty(cells, np.float32)
    chosen = np.zeros(len(homes), np.bool_)
    for d in range(0, len(starts) - 1, every):
        chosen[role[d]] = True
    for d in range(len(starts) - 1):
        if d % every and chosen[role[d]]:
            continue
        chosen[role[d]] = True
        for k in range(cells):
            mean[k] = 0.0
        for at in range(starts[d], starts[d + 1]):
            row = rows[ids[at]]
            for k in range(cells):
                mean[k] += row[k]
        squares = _TINY
        for k in range(cells):
            squares += mean[k] * mean[k]
        for k in range(cells):
            homes[role[d], k] += mean[k] / np.sqrt(squares)


@compiled
def _seen(inner: Any, role_of: Any, homes: Any) -> Any:
    """(V, 5, 4): how much of home c a token's part r meets; part 4 is the shared one."""
    tokens, cells = inner.shape
    seen = np.zeros((tokens, 5, 4), np.float32)
    for t in range(tokens):
        for k in range(cells):
            for c in range(4):
                seen[t, role_of[k], c] += inner[t, k] * homes[c, k]
    return seen


@compiled
def _dot(seen: Any, own: float, share: Any, c: int) -> float:
    """⟨√b, √h_c⟩ of one token."""
    total = seen[4, c]
    for r in range(4):
        total += own * np.sqrt(share[r]) * seen[r, c]
    return float(total)


@compiled
def _evidence(seen: Any, own: Any, shares: Any) -> Any:
    """(V, 4): w ⟨√b, √h_c⟩."""
    evidence = np.empty(shares.shape)
    for t in range(len(own)):
        weight = _weigh(shares[t])
        for c in range(4):
            evidence[t, c] = weight * _dot(seen[t], own[t], shares[t], c)
    return evidence


@compiled
def _gather(ids: Any, starts: Any, stops: Any, role: Any, evidence: Any, tau: float, pull: Any) -> None:
    """Add up the gradient of the loss in each token's evidence."""
    slope = np.empty(4)
    for piece in range(len(starts)):
        for c in range(4):
            slope[c] = 0.0
        for at in range(starts[piece], stops[piece]):
            for c in range(4):
                slope[c] += evidence[ids[at], c]
        top = max(slope[0], slope[1], slope[2], slope[3])
        total = 0.0
        for c in range(4):
            slope[c] = np.exp(slope[c] - top)
            total += slope[c]
        for c in range(4):
            slope[c] = tau * (slope[c] / total - (1.0 if c == role[piece] else 0.0))
        for at in range(starts[piece], stops[piece]):
            for c in range(4):
                pull[ids[at], c] += slope[c]


@compiled
def _move(logits: Any, gathered: Any, pull: Any, seen: Any, own: Any, shares: Any, rate: float) -> None:
    """One AdaGrad step of the logits, by the chain evidence ← amplitudes a = √p, salience ← shares ← logits."""
    slope = np.empty(4)
    for t in range(len(own)):
        weight = _weigh(shares[t])
        salience = 0.0
        for c in range(4):
            salience += pull[t, c] * _dot(seen[t], own[t], shares[t], c)
        salience /= max(np.sin(0.5 * weight), _SPREAD_MIN)
        along = 0.0
        for r in range(4):
            met = 0.0
            for c in range(4):
                met += pull[t, c] * seen[t, r, c]
            slope[r] = np.sqrt(shares[t, r]) * (weight * own[t] * met - salience)
            along += slope[r]
        for r in range(4):
            down = 0.5 * (slope[r] - shares[t, r] * along)
            gathered[t, r] += down * down
            logits[t, r] -= rate * down / (EASE + np.sqrt(gathered[t, r]))
