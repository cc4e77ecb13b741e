"""A query becomes an answer, and what it taught: coordize, route, read, generate, measure.

Pure: a constellation, a query and the gauges go in; an answer, an interaction and new gauges come out. Knows no stream,
no file and no clock of its own. Rules it keeps: the prompt is read, and its code length taken, before anything is
learned from it; a query without a seed is seeded by its id, so that a query which is computed twice (after a kill) is
answered with the same text as long as the bundle is the same.

    text ─▶ ids ─▶ basin ─▶ route ─┬─ routed          the nearest domain; under the margin the two nearest, fused
                                   ├─ constellation   the four roles, each in its nearest domain, fused
                                   └─ a role          that role, in its nearest domain

Constellation mode, and the prompts of a sampled share of the other queries, feed the constellation's own moments.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, ROLES, Phase, Role
from common.constellation.constellation import Constellation
from common.constellation.together import window_tokens
from common.coordizer.artifacts import EOS
from common.errors import QigError
from common.geometry.integration import NO_MOMENTS, Integration, Moments, activations, integration
from common.geometry.online import EMPTY, Stream, close, push
from common.geometry.phases import phase_of
from common.geometry.routing import Route
from common.geometry.simplex import normalise
from common.kernels.generate import Step, measure_kappa
from common.kernels.kernel import Reading
from common.kernels.memory import Ids
from common.wire.messages import ANSWER_MAX_CHARS, MAX_DOMAINS, REASON_MAX_CHARS, Answer, Problem, Query, RouteStep
from services.edge.territory import territory

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Gauges = Mapping[str, Moments]

TOGETHER: Final = "constellation"  # the gauge of what all four states hold; the others are the roles'
HEARD_ONE_IN: Final = 32  # chosen: three more states read a prompt in 32, which costs an edge a tenth of its reading


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers now; a new bundle makes a new one, and the edge swaps its reference.

    bundle, digest: version, >= 1, and digest of the bundle that the constellation was loaded from.
    """

    constellation: Constellation
    bundle: int
    digest: str
    node: str


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
    """The answer; what it leaves to learn from (None: nothing, at the client's wish); the running moments of every role
    and of the constellation.
    """

    answer: Answer
    interaction: Interaction | None
    gauges: Gauges


def answer(
    serving: Serving, query: Query, *, entry_id: str, gauges: Gauges, at_s: float, clock: Callable[[], float]
) -> Answered:
    """Answers a query. entry_id: names it when it has no id; at_s: now, since 1970; clock: seconds, for the duration.

    Raises Rejected for a text that cannot be coordized.
    """
    started = clock()
    constellation, query_id = serving.constellation, query.id or entry_id
    heard = _hear(constellation, query)
    steps, held = _speak(constellation, query, query_id, heard)
    gauge = combine_reading(constellation, heard.role, gauges.get(heard.role, NO_MOMENTS), heard.reading, steps)
    whole = gauges.get(TOGETHER, NO_MOMENTS)
    if query.mode == TOGETHER or seed_of(query_id) % HEARD_ONE_IN == 0:
        whole = combine_hearing(constellation, whole, heard.prompt, held)
    measured = _measure(constellation, heard, steps, integration(gauge), integration(whole))
    made = _answer(serving, query, query_id, heard, steps, measured)
    made = made.model_copy(update={"seconds": max(clock() - started, 0.0)})
    interaction = _interaction(constellation, query, made, heard, at_s) if query.store else None
    return Answered(made, interaction, {**gauges, heard.role: gauge, TOGETHER: whole})


def refusal(serving: Serving | None, query: Query, *, entry_id: str, node: str, error: QigError) -> Answer:
    """The answer to a query that will get no other: why."""
    return Answer(
        query_id=query.id or entry_id,
        client=query.client,
        node=node,
        bundle=serving.bundle if serving else 0,
        text="",
        finish="refused",
        prompt_bytes=len(query.text.encode("utf-8", "replace")),
        problem=Problem(code=error.code, message=error.message[:REASON_MAX_CHARS]),
    )


def voices(constellation: Constellation, route: Route, mode: str) -> dict[str, float]:
    """The domains that speak and their shares, which sum to one; the leader first.

    mode: "routed", "constellation" or a role. A role speaks in whichever of its domains is nearest.
    """
    if mode == "routed":
        return _shares(route, {step.name for step in route.steps[: 2 if route.abstained else 1]})
    nearest: dict[Role, str] = {}
    for step in route.steps:
        nearest.setdefault(constellation.domains[step.name].role, step.name)
    return _shares(route, {nearest[role] for role in ROLES if mode in ("constellation", role)})


def seed_of(query_id: str) -> int:
    """A seed that every process draws from the same id."""
    return int.from_bytes(hashlib.sha256(query_id.encode()).digest()[:8], "big")


def combine_reading(
    constellation: Constellation, role: Role, past: Moments, reading: Reading, steps: Sequence[Step]
) -> Moments:
    """A role's running moments after one more prompt and what its kernel held while it answered."""
    said = np.array([step.basin for step in steps]).reshape(-1, CELLS)
    window = constellation.states[role].spec.context
    return _after(past, (reading.basins, said), np.sqrt(constellation.homes[role]), window)


def combine_hearing(constellation: Constellation, past: Moments, prompt: Ids, held: Array) -> Moments:
    """The constellation's running moments after one more prompt, and the basins (N, 64) it held while it answered."""
    home_s = np.sqrt(constellation.integrator.home)
    return _after(past, (constellation.hear(prompt), held), home_s, window_tokens(constellation.states))


def _after(past: Moments, texts: Sequence[Floats], home_s: Array, window: int) -> Moments:
    stream = Stream(past)
    for basins in texts:
        if len(basins):
            stream = close(push(stream, activations(normalise(basins), home_s), window=window))
    return stream.past


@dataclass(frozen=True, slots=True, eq=False)
class _Heard:
    """A prompt as its leader reads it. prompt: its ids, or the end of a text where it has none; bits: its length."""

    ids: Ids
    prompt: Ids
    basin: Array
    route: Route
    shares: Mapping[str, float]
    lead: str
    role: Role
    reading: Reading
    bits: float


@dataclass(frozen=True, slots=True)
class _Measured:
    phi: Integration
    whole: Integration
    kappa: float | None
    phase: Phase | None


def _hear(constellation: Constellation, query: Query) -> _Heard:
    ids = constellation.encoder.encode(query.text)
    prompt = ids if len(ids) else np.array([EOS], np.int32)
    basin = constellation.basin(prompt)
    route = constellation.route(basin)
    shares = voices(constellation, route, query.mode)
    lead = next(iter(shares))
    reading = constellation.read(prompt, lead)
    bits = float(reading.bits(constellation.domains[lead].gate_array).sum())
    return _Heard(ids, prompt, basin, route, shares, lead, constellation.domains[lead].role, reading, bits)


def _speak(constellation: Constellation, query: Query, query_id: str, heard: _Heard) -> tuple[list[Step], Array]:
    """The steps, and in constellation mode the basins (N, 64) that all four states held together."""
    if query.max_tokens == 0:
        return [], np.empty((0, CELLS))
    rng = np.random.default_rng(seed_of(query_id) if query.seed is None else query.seed)
    prompt, shares, tokens, heat = heard.prompt, heard.shares, query.max_tokens, query.temperature
    if query.mode == TOGETHER:
        beats = list(constellation.together(prompt, shares, EMPTY, max_tokens=tokens, temperature=heat, rng=rng))
        return [beat.step for beat in beats], np.array([beat.basin for beat in beats]).reshape(-1, CELLS)
    steps = constellation.speak(prompt, shares, max_tokens=tokens, temperature=heat, rng=rng)
    return list(steps), np.empty((0, CELLS))


def _measure(
    constellation: Constellation, heard: _Heard, steps: Sequence[Step], phi: Integration, whole: Integration
) -> _Measured:
    """Kappa and phase at the end of the answer, or of the prompt where nothing was said."""
    home = constellation.homes[heard.role]
    kappa = steps[-1].kappa if steps else measure_kappa(heard.reading.basins, home)
    before = steps[-1].phase if steps else None
    return _Measured(phi, whole, kappa, None if kappa is None else phase_of(kappa, phi.phi, before))


def _answer(
    serving: Serving, query: Query, query_id: str, heard: _Heard, steps: Sequence[Step], measured: _Measured
) -> Answer:
    route = heard.route
    return Answer(
        query_id=query_id,
        client=query.client,
        node=serving.node,
        bundle=serving.bundle,
        text=_text(serving.constellation, steps),
        finish=("stop" if len(steps) < query.max_tokens else "length") if query.max_tokens else "read",
        prompt_tokens=len(heard.ids),
        completion_tokens=len(steps),
        prompt_bytes=len(query.text.encode()),
        prompt_bits=heard.bits,
        route=_steps(serving.constellation, route),
        margin_rad=route.margin_rad if math.isfinite(route.margin_rad) else None,
        abstained=route.abstained,
        kernel=heard.role,
        domain=heard.lead,
        phi=measured.phi.phi,
        phi_p=measured.phi.p_value,
        constellation_phi=measured.whole.phi,
        constellation_phi_p=measured.whole.p_value,
        kappa=measured.kappa,
        phase=measured.phase,
    )


def _shares(route: Route, names: set[str]) -> dict[str, float]:
    """The router's weights of these domains, nearest first, made to sum to one."""
    chosen = [step for step in route.steps if step.name in names]
    total = sum(step.weight for step in chosen)
    # A domain so far that its weight underflows still speaks alone when it is the only one asked for.
    return {step.name: step.weight / total if total > 0 else 1.0 / len(chosen) for step in chosen}


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


def _text(constellation: Constellation, steps: Sequence[Step]) -> str:
    spoken = constellation.encoder.decode(step.token for step in steps)
    return spoken.decode("utf-8", "replace")[:ANSWER_MAX_CHARS]


def _interaction(constellation: Constellation, query: Query, made: Answer, heard: _Heard, at_s: float) -> Interaction:
    home = heard.route.steps[0].name
    bits = heard.bits if home == heard.lead else constellation.bits(heard.prompt, home)
    return Interaction(
        query_id=made.query_id,
        client=made.client,
        text=query.text,
        at_s=at_s,
        domain=territory(heard.route, constellation.domains, bits=bits, size_bytes=made.prompt_bytes),
        basin=heard.basin,
        tokens=made.prompt_tokens,
        size_bytes=made.prompt_bytes,
        bits=bits,
        kappa=made.kappa,
        phase=made.phase,
    )
