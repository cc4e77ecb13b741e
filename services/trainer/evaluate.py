"""What a constellation is worth on held-out text: bits per byte as a user would meet them, integration with its
controls, coupling.

Bits per byte are *routed*: each passage is read by the domain that the router picks, or by the two nearest, fused,
where it abstains, as an edge answers; so a new domain which draws queries away from an old one shows in the old one's
figure.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, KAPPA_WINDOW_TOKENS, Role
from common.constellation.constellation import Constellation
from common.errors import Rejected
from common.geometry.concentration import directions, kappa
from common.geometry.integration import JACKKNIFE_BLOCKS, Integration, faculties
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance, normalise
from common.kernels import gate, memory
from common.kernels.engine import State
from common.kernels.kernel import Kernel, Reading, read, reread
from common.kernels.memory import Memory
from services.trainer import controls
from services.trainer.integrated import about, about_their_mean, integrated, phi_of
from services.trainer.intervals import Interval, of_ratio, of_windows

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int32]

CONTROL_SEED: Final = 20160
HOME_WINDOWS: Final = 64  # of a source's text: 8,192 basins at size tiny, enough for a mean within 0.01 rad


@dataclass(frozen=True, slots=True)
class Score:
    """bits_per_byte over all passages of a domain; routed: the share of passages that the router sent to it;
    tokens_per_byte: of their encoding. passages (N, 4): bits, bytes, tokens of each, and 1 where it was routed there.
    """

    bits_per_byte: float
    routed: float
    tokens_per_byte: float
    passages: Floats = field(default_factory=lambda: np.zeros((0, 4)), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Instruments:
    """A role's state on its own held-out text. rolled, shuffled, noise and untrained are the controls of DESIGN.md
    section 2; random is a stronger one, a state of random weights at work. These two are measured about the mean of
    their own basins. error: the standard error of phi. participation: dimensions the state moves in, of 8. None: not
    known.
    """

    phi: Integration
    error: float | None
    rolled: Integration
    shuffled: Integration
    noise: Integration
    untrained: Integration
    random: Integration
    kappa: float
    participation: float | None


class Intervals(NamedTuple):
    """Of the differences of two scores; None where there is too little text to tell."""

    bits_per_byte: Interval | None
    routed: Interval | None
    tokens_per_byte: Interval | None


class Examiner:
    """Scores constellations on the same passages, and reads none twice by the same kernel.

    Candidates share most kernels with their parent; those passages cost nothing the second time. parents: by domain,
    the document that each passage is a part of; each is its own when not given.
    """

    def __init__(
        self, passages: Mapping[str, Sequence[str]], parents: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._passages, self._parents = passages, parents or passages
        self._bits: dict[tuple[Kernel, str], Floats] = {}
        self._heard: dict[tuple[int, str], Reading] = {}

    def scores(self, constellation: Constellation) -> dict[str, Score]:
        """The score of every domain that has passages (at least one, none empty)."""
        kernels = {name: constellation.kernel(name) for name in constellation.domains}
        return {domain: self._score(constellation, kernels, domain) for domain in self._passages}

    def _score(self, constellation: Constellation, kernels: Mapping[str, Kernel], domain: str) -> Score:
        seen = []
        for text in self._passages[domain]:
            ids = constellation.encoder.encode(text)
            route = constellation.route(constellation.basin(ids))
            heard = route.steps[: 2 if route.abstained else 1]
            told = np.stack([self._read(kernels[step.name], text, ids) for step in heard])
            bits = float(_fused(told, np.array([step.weight for step in heard])).sum())
            seen.append((bits, len(text.encode()), len(ids), route.steps[0].name == domain))
        passages = np.array(seen, np.float64)
        bits, size, tokens, hits = passages.sum(0).tolist()
        return Score(bits / size, hits / len(seen), tokens / size, passages)

    def intervals(self, domain: str, before: Score, after: Score) -> Intervals:
        """How sure each difference of two scores of a domain is, over its documents."""
        change, blocks = after.passages - before.passages, self._parents[domain]
        if not len(change):
            return Intervals(None, None, None)
        size = after.passages[:, 1]
        return Intervals(
            of_ratio(change[:, 0], size, blocks),
            of_ratio(change[:, 3], np.ones(len(size)), blocks),
            of_ratio(change[:, 2], size, blocks),
        )

    def _read(self, kernel: Kernel, text: str, ids: Ids) -> Floats:
        """Code length of each token, in bits. A state, which is most of the work, is asked once of a text."""
        if (kernel, text) not in self._bits:
            state = id(kernel.state), text  # it lives as long as the kernel that is a key
            heard = self._heard.get(state)
            reading = read(kernel, ids) if heard is None else reread(kernel, ids, heard)
            self._heard[state] = Reading(reading.experts[:, :1].copy(), reading.buckets, reading.basins[:0])
            self._bits[kernel, text] = reading.bits(kernel.gate)
        return self._bits[kernel, text]


def gram_bits(kernel: Kernel, grams: Memory) -> float:
    """Mean code length, in bits, of the last tokens of a memory's n-grams under a kernel's memories, weighted by count.

    The state cannot be asked without a text. 0.0 for a memory of none.
    """
    bits, counts, _ = _gram_costs(kernel, grams)
    return float(bits.sum() / max(counts.sum(), 1))


def gram_interval(before: Kernel, after: Kernel, grams: Memory) -> Interval | None:
    """How sure the difference of `gram_bits` is, over n-grams that begin alike. It is told on what was just counted in,
    and from crystals that were chosen because they were read badly: of text it says less than held-out text does.
    """
    (old, counts, first), (new, _, _) = _gram_costs(before, grams), _gram_costs(after, grams)
    return of_ratio(new - old, counts, first.tolist())


def _gram_costs(kernel: Kernel, grams: Memory) -> tuple[Floats, Floats, npt.NDArray[np.uint64]]:
    """Of each n-gram: bits of all its occurrences, their number, and its first token."""
    costs: list[Floats] = [np.zeros(0)]
    counts: list[Floats] = [np.zeros(0)]
    firsts: list[npt.NDArray[np.uint64]] = [np.zeros(0, np.uint64)]
    for order, table in enumerate(grams.tables):
        if not len(table.keys):
            continue
        experts = [
            memory.predict_grams(m, table.keys, order, floor)
            for m, floor in zip(kernel.memories, kernel.floors(), strict=True)
        ]
        shares = kernel.gate[gate.bucket(experts[-1].order, experts[-1].total)][:, 1:]
        mixed = (shares * np.stack([e.probability for e in experts], 1)).sum(1) / shares.sum(1)
        costs.append(-(table.counts * np.log2(mixed)))
        counts.append(table.counts.astype(np.float64))
        firsts.append(table.keys >> memory.TOKEN_BITS * np.uint64(order))
    return np.concatenate(costs), np.concatenate(counts), np.concatenate(firsts)


def _fused(bits_KN: Floats, weights_K: Floats) -> Floats:
    """Code length of each token under the mixture of K kernels."""
    shares_K = weights_K / weights_K.sum()
    found: Floats = -np.log2((shares_K[:, None] * np.exp2(-bits_KN)).sum(0))
    return found


def by_reader(constellation: Constellation, passages: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Bits per byte of each domain's passages by who reads them: each single kernel by its domain's name, "routed"
    (each passage by the kernel its basin is nearest to) and "fused" (all of them at every token, by the router's
    weights of the whole passage).
    """
    return {domain: _readers(constellation, texts) for domain, texts in passages.items()}


def _readers(constellation: Constellation, texts: Sequence[str]) -> dict[str, float]:
    kernels = {name: constellation.kernel(name) for name in constellation.domains}
    bits = dict.fromkeys([*kernels, "routed", "fused"], 0.0)
    for text in texts:
        ids = constellation.encoder.encode(text)
        steps = constellation.route(constellation.basin(ids)).steps
        told = {name: read(kernel, ids).bits(kernel.gate) for name, kernel in kernels.items()}
        for name, each in told.items():
            bits[name] += float(each.sum())
        bits["routed"] += float(told[steps[0].name].sum())
        everybody = np.stack([told[step.name] for step in steps])
        bits["fused"] += float(_fused(everybody, np.array([step.weight for step in steps])).sum())
    size = sum(len(text.encode()) for text in texts)
    return {reader: found / size for reader, found in bits.items()}


def instruments(constellation: Constellation, role: Role, texts: Sequence[str]) -> Instruments:
    """Phi, kappa and dimensions of a role's state on text, and phi of its controls on as many windows."""
    state, home = constellation.states[role], constellation.homes[role]
    rng = np.random.default_rng(CONTROL_SEED)
    windows = whole_windows([constellation.encoder.encode(text) for text in texts], state.spec.context)
    shuffled = controls.shuffled(windows, rng)
    noise = controls.random_tokens(windows, state.spec.vocab, rng)
    basins = _basins(state, windows)
    blank, reservoir = controls.untrained(state.spec, rng), controls.random_weights(state.spec, rng)
    found = integrated(basins, home, rng)
    return Instruments(
        phi=found.phi,
        error=found.error,
        rolled=found.rolled,
        shuffled=about(_basins(state, shuffled), home),
        noise=about(_basins(state, noise), home),
        untrained=about_their_mean(_basins(State(state.spec, blank, state.sqrt_basins), windows)),
        random=about_their_mean(_basins(State(state.spec, reservoir, state.sqrt_basins), windows)),
        kappa=float(np.median(_kappas(basins, np.sqrt(home)))),
        participation=found.participation,
    )


@dataclass(frozen=True, slots=True)
class Changed:
    """A gauge before and after on the same windows, and how sure the difference is; None where it is not known."""

    before: float | None
    after: float | None
    interval: Interval | None


class Moved(NamedTuple):
    """What became of a role whose state is another one. drift: how sure the move of its home is."""

    phi: Changed
    kappa: Changed
    drift: Interval | None


def moved(before: Constellation, after: Constellation, role: Role, texts: Sequence[str]) -> Moved | None:
    """Phi and kappa of a role's state on held-out texts, each about its own home. None where they fill no window.

    Intervals are over JACKKNIFE_BLOCKS blocks of windows, also of kappa, which is a median: leaving out many windows at
    once is what makes the jackknife hold for one (Shao & Wu 1989). They are not known across two vocabularies.
    """
    old, new = _held(before, role, texts), _held(after, role, texts)
    if old is None or new is None:
        return None
    old_s, new_s = np.sqrt(before.homes[role]), np.sqrt(after.homes[role])
    paired = len(old) == len(new) and before.coordizer.vocab_size == after.coordizer.vocab_size
    return Moved(
        changed(faculties(old, old_s), faculties(new, new_s), phi_of, paired=paired),
        changed(_kappas(old, old_s), _kappas(new, new_s), lambda k: float(np.median(k)), paired=paired),
        of_windows(lambda some: _apart(old[some], new[some]), len(old), JACKKNIFE_BLOCKS) if paired else None,
    )


def _kappas(basins: Floats, home_s: Floats) -> Floats:
    """Of each window's last tokens, (W,)."""
    return np.array([kappa(directions(b[-KAPPA_WINDOW_TOKENS:], home_s)) for b in basins])


def changed(before: Floats, after: Floats, reading: Callable[[Floats], float | None], *, paired: bool) -> Changed:
    """A reading of windows, (W, ...), before and after. paired: whether they are the same windows."""

    def difference(some: npt.NDArray[np.int64]) -> float | None:
        one, other = reading(before[some]), reading(after[some])
        return None if one is None or other is None else other - one

    sure = of_windows(difference, len(before), JACKKNIFE_BLOCKS) if paired else None
    return Changed(reading(before), reading(after), sure)


def _held(constellation: Constellation, role: Role, texts: Sequence[str]) -> Floats | None:
    """Basins of the whole windows of texts, (W, T, 64); None where there is not one."""
    state, ids = constellation.states[role], [constellation.encoder.encode(text) for text in texts]
    if sum(map(len, ids)) < state.spec.context:
        return None
    return _basins(state, whole_windows(ids, state.spec.context))


def _apart(before: Floats, after: Floats) -> float:
    one, other = (frechet_mean(basins.reshape(-1, CELLS)) for basins in (before, after))
    return float(distance(one, other))


def home(state: State, documents: Sequence[Ids]) -> Floats:
    """The Fréchet mean of a state's own basins over its domain, (64,): from at most HOME_WINDOWS windows, evenly
    spaced.
    """
    windows = whole_windows(documents, state.spec.context)
    chosen = windows[np.linspace(0, len(windows) - 1, min(HOME_WINDOWS, len(windows))).astype(int)]
    return frechet_mean(np.concatenate([state.read(w[None])[1] for w in chosen]).reshape(-1, CELLS).astype(np.float64))


def whole_windows(texts: Sequence[Ids], context: int) -> Ids:
    """The texts, one after the other, cut into (W, context) windows; what does not fill the last one is left out.

    Raises Rejected("text_too_short") when there is not one.
    """
    joined = np.concatenate(texts)
    count = len(joined) // context
    if not count:
        raise Rejected("text_too_short", f"{len(joined)} tokens fill no window of {context}: give more text")
    return joined[: count * context].reshape(count, context)


def _basins(state: State, windows: Ids) -> Floats:
    return normalise(np.concatenate([state.read(w[None])[1] for w in windows]).reshape(*windows.shape, CELLS))
