"""What a generation amounts to: the running moments with it, the answer with its evidence, and what it leaves to learn.

Pure: a generation and the gauges go in; new gauges, an answer and an interaction come out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, Phase, Role
from common.constellation.constellation import Constellation
from common.constellation.together import window_tokens
from common.errors import QigError, Unavailable
from common.geometry.integration import NO_MOMENTS, Integration, Moments, activations, integration
from common.geometry.online import Stream, close, push
from common.geometry.phases import phase_of
from common.geometry.routing import Route
from common.geometry.simplex import normalise
from common.kernels.generate import measure_kappa
from common.kernels.kernel import Reading, reread
from common.wire.fields import MAX_DOMAINS, REASON_MAX_CHARS
from common.wire.inference import Answer, Problem, Query, RouteStep
from services.edge.generation import TOGETHER, Generation
from services.edge.territory import territory

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]

READ_SHARE: Final = 1 / 8  # chosen: by then Phi has moved by half of its standard error


@dataclass(frozen=True, slots=True)
class Gauge:
    """The running moments of one state, or of all four together, and the Phi that they amount to, read anew whenever
    READ_SHARE of them is new: a reading costs as much as ten tokens. since: tokens that came after it.
    """

    moments: Moments
    reading: Integration
    since: int = 0

    @classmethod
    def of(cls, moments: Moments) -> "Gauge":
        """A gauge that reads what its moments amount to."""
        return cls(moments, integration(moments))

    def then(self, moments: Moments, tokens: int) -> "Gauge":
        """The gauge after so many tokens more, with these moments."""
        since = self.since + tokens
        if self.reading.phi is None or since > READ_SHARE * moments.n:
            return Gauge.of(moments)
        return Gauge(moments, self.reading, since)


Gauges = Mapping[str, Gauge]
UNKNOWN: Final = Gauge.of(NO_MOMENTS)


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers now; a new bundle makes a new one, and the edge swaps its reference.

    constellation: the bundle's, as every edge has it; bundle, digest: version, >= 1, and digest of that bundle; local:
    with what this edge has read since (local.py), None while that is nothing.
    """

    constellation: Constellation
    bundle: int
    digest: str
    node: str
    local: Constellation | None = None

    @property
    def answering(self) -> Constellation:
        """The constellation that reads prompts and speaks."""
        return self.constellation if self.local is None else self.local


@dataclass(frozen=True, slots=True, eq=False)
class Interaction:
    """What one query left to learn from. domain: where its text belongs, None for new territory.

    basin: (64,); bits: the text's code length under the nearest domain's kernel, before it was learned. The answer's
    own words are not learned: a kernel that learns what it says says it more often.
    """

    query_id: str
    client: str
    text: str
    at_s: float
    domain: str | None
    basin: Array
    tokens: int
    size_bytes: int
    bits: float
    kappa: float | None
    phase: Phase | None


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer, and what it leaves to learn from (None: nothing, at the client's wish)."""

    answer: Answer
    interaction: Interaction | None


def measured(generation: Generation, gauges: Gauges) -> Gauges:
    """The gauges after one more generation; those of states that heard nothing are the same."""
    constellation, heard = generation.constellation, generation.heard
    past = gauges.get(heard.role, UNKNOWN)
    said = _joined(generation.basins)
    after = combine_reading(constellation, heard.role, past.moments, heard.reading, said)
    found: dict[str, Gauge] = {heard.role: past.then(after, len(heard.prompt) + len(said))}
    if generation.together is not None:
        past, held = gauges.get(TOGETHER, UNKNOWN), _joined(generation.held)
        after = combine_hearing(constellation, past.moments, generation.together, held)
        found[TOGETHER] = past.then(after, len(heard.prompt) + len(held))
    return {**gauges, **found}


def conclude(
    serving: Serving,
    generation: Generation,
    gauges: Gauges,
    *,
    at_s: float,
    seconds: float,
    problem: Problem | None = None,
) -> Answered:
    """The answer of a generation that has ended, or was left. serving: what it was made of; gauges: with it measured;
    at_s: now, since 1970; seconds: what it took; problem: why it was left, unless the client wished it.
    """
    made = _answer(serving, generation, gauges, seconds, problem)
    base = serving.constellation
    return Answered(made, _interaction(base, generation, made, at_s) if generation.query.store else None)


def refusal(serving: Serving | None, query: Query, *, node: str, error: QigError) -> Answer:
    """The answer to a query, one with an id, that will get no other: why."""
    assert query.id is not None
    retry_after_s = error.retry_after_s if isinstance(error, Unavailable) else None
    return Answer(
        query_id=query.id,
        client=query.client,
        node=node,
        bundle=serving.bundle if serving else 0,
        text="",
        finish="refused",
        prompt_bytes=len(query.text.encode("utf-8", "replace")),
        problem=Problem(code=error.code, message=error.message[:REASON_MAX_CHARS], retry_after_s=retry_after_s),
    )


def combine_reading(constellation: Constellation, role: Role, past: Moments, reading: Reading, said: Floats) -> Moments:
    """A role's running moments after one more prompt and what its kernel held while it answered, (N, 64)."""
    window = constellation.states[role].spec.context
    return _after(past, (reading.basins, said), np.sqrt(constellation.homes[role]), window)


def combine_hearing(constellation: Constellation, past: Moments, heard: Floats, said: Floats) -> Moments:
    """The constellation's running moments after the basins it held over one more prompt and while it answered, (N, 64)
    each.
    """
    home_s = np.sqrt(constellation.integrator.home)
    return _after(past, (heard, said), home_s, window_tokens(constellation.states))


def _after(past: Moments, texts: tuple[Floats, Floats], home_s: Array, window: int) -> Moments:
    stream, found = Stream(past), activations(normalise(np.concatenate(texts)), home_s)
    for x_TF in np.split(found, [len(texts[0])]):
        stream = close(push(stream, x_TF, window=window)) if len(x_TF) else stream
    return stream.past


def _joined(stretches: Sequence[Floats]) -> Floats:
    return np.concatenate(stretches) if stretches else np.empty((0, CELLS))


def _answer(
    serving: Serving, generation: Generation, gauges: Gauges, seconds: float, problem: Problem | None
) -> Answer:
    query, heard, route = generation.query, generation.heard, generation.heard.route
    phi, whole = (gauges.get(name, UNKNOWN).reading for name in (heard.role, TOGETHER))
    kappa, phase = _bearing(generation, phi)
    return Answer(
        query_id=generation.query_id,
        client=query.client,
        node=serving.node,
        bundle=serving.bundle,
        text=generation.text,
        finish=generation.finish,
        prompt_tokens=len(heard.ids),
        completion_tokens=generation.tokens,
        prompt_bytes=len(query.text.encode()),
        prompt_bits=heard.bits,
        route=_steps(generation.constellation, route),
        margin_rad=route.margin_rad if math.isfinite(route.margin_rad) else None,
        abstained=route.abstained,
        kernel=heard.role,
        domain=heard.lead,
        phi=phi.phi,
        phi_p=phi.p_value,
        constellation_phi=whole.phi,
        constellation_phi_p=whole.p_value,
        kappa=kappa,
        phase=phase,
        seconds=seconds,
        problem=problem,
    )


def _bearing(generation: Generation, phi: Integration) -> tuple[float | None, Phase | None]:
    """Kappa and phase at the end of the answer, or of the prompt where nothing was said."""
    heard, kappa = generation.heard, generation.kappa
    if not generation.tokens:
        kappa = measure_kappa(heard.reading.basins, generation.constellation.homes[heard.role])
    return kappa, None if kappa is None else phase_of(kappa, phi.phi, generation.phase)


def _steps(constellation: Constellation, route: Route) -> tuple[RouteStep, ...]:
    return tuple(
        RouteStep(
            domain=step.name,
            kernel=constellation.domains[step.name].role,
            distance_rad=step.distance_rad,
            weight=min(step.weight, 1.0),
        )
        for step in route.steps[:MAX_DOMAINS]
    )


def _interaction(base: Constellation, generation: Generation, made: Answer, at_s: float) -> Interaction:
    """Where the text belongs, and its code length, by the bundle's constellation: by what the centre knows too."""
    heard = generation.heard
    route = base.route(heard.basin)
    bits = _bits(base, route.steps[0].name, generation)
    return Interaction(
        query_id=made.query_id,
        client=made.client,
        text=generation.query.text,
        at_s=at_s,
        domain=territory(route, base.domains, bits=bits, size_bytes=made.prompt_bytes),
        basin=heard.basin,
        tokens=made.prompt_tokens,
        size_bytes=made.prompt_bytes,
        bits=bits,
        kappa=made.kappa,
        phase=made.phase,
    )


def _bits(base: Constellation, home: str, generation: Generation) -> float:
    """The prompt's code length under a domain of the bundle; a state that has read it is not asked again."""
    heard = generation.heard
    if generation.constellation is base and home == heard.lead:
        return heard.bits
    if base.domains[home].role != heard.role:
        return base.bits(heard.prompt, home)
    reading = reread(base.kernel(home), heard.prompt, heard.reading)
    return float(reading.bits(base.domains[home].gate_array).sum())
