"""Several tokens in one compiled call: between two of them there is no interpreter, and nothing that holds its lock.

    mix every voice's state and memories ─▶ steer, draw ─▶ every voice reads the token ─▶ kappa, phase, helm ─┐
      ▲                                                                                                       │
      └───────────────────────────────────────────────────────────────────────────────────────────────────────┘

Knows plain arrays only; generate.py lays them out, draws the random numbers in advance, and makes steps of what comes
back. Whatever the number of tokens in a call, the same are said.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import KAPPA_TARGET, KAPPA_WINDOW_TOKENS, PHASE_BOUNDS, PHASE_HYSTERESIS, PHASES
from common.geometry.concentration import KAPPA_MAX
from common.kernels.bearing import direct, kappa_of
from common.kernels.blend import mix, pick, steered
from common.kernels.compiled import compiled, compiled_fast
from common.kernels.decode import Array, Body, Head, Ids, Indices, M, make_room, read_on, speak
from common.kernels.loops import LOOP_READS, looping
from common.kernels.memory import Addresses
from common.kernels.tacking import FRESH_TOKENS, KEPT_TOKENS, REACH, Helm, forgets, turn

Floats = npt.NDArray[np.float64]

MEMORY_CONTEXT: Final = 3
KAPPA_MIN_TOKENS: Final = 16  # below this a direction is mostly noise: kappa is not known yet
UNKNOWN: Final = -1  # a kappa or phase that is not known
FRACTURE: Final = PHASES.index("FRACTURE")


class Chorus(NamedTuple):
    """What stays the same of the voices from token to token. S voices, the lead first; K memories, the most of any."""

    bodies: tuple[Body, ...]
    heads: tuple[Head, ...]
    memories: Addresses  # (S, K, ORDERS, 8), as recall.py takes them
    bases: Floats  # (S, K, V): what each memory says without a context
    gates: Floats  # (S, BUCKETS, 1 + K)
    shares: Floats  # (S,) of the fused distribution
    home_s: Floats  # (64,) sqrt(home basin) of the lead
    roots: M  # (64, V) of the lead's head


class Past(NamedTuple):
    """What one voice has read: a cache of one text (engine.Cache)."""

    keys: Array
    values: Array
    known: Ids
    lengths: Indices


class Stand(NamedTuple):
    """Where the voices stand in the text; changed by what is said."""

    pasts: tuple[Past, ...]
    logits: Array  # (S, V): what the states expect next
    directions: Floats  # (64, 64): the lead's bearing
    text: Ids  # (M,): the end of what was read, and room for all that is said


class Course(NamedTuple):
    """at: place in the text of the next token; read: tokens in the lead's bearing; phase: its place in PHASES."""

    at: int
    read: int
    phase: int = UNKNOWN
    helm: Helm = Helm()


class Wish(NamedTuple):
    """How tokens are drawn, and before which ids the generation ends."""

    temperature: float
    top_p: float
    stops: Ids


class Log(NamedTuple):
    """What is told of each token, a row a token."""

    basins: Array  # (N, S, 64)
    kappas: Floats  # (N,), UNKNOWN where it is not known
    phases: Indices  # (N,), likewise
    helms: Floats  # (N, 4), the fields of a helm


@compiled_fast
def say(chorus: Chorus, stand: Stand, course: Course, wish: Wish, uniforms: Floats, log: Log) -> Course:
    """Says a token for each of uniforms (N,), in [0, 1), and ends before one of `stops`; the course after them."""
    p, log_p = np.empty(stand.logits.shape[1]), np.empty(stand.logits.shape[1], np.float32)
    voices, directions, text = len(stand.logits), stand.directions, stand.text
    helm, phase = course.helm, course.phase
    for n in range(len(uniforms)):
        end, count = course.at + n, course.read + n
        context = text[max(0, end - MEMORY_CONTEXT) : end]
        p.fill(0)
        for v in range(voices):
            mix(stand.logits[v], chorus.memories[v], chorus.bases[v], chorus.gates[v], context, chorus.shares[v], p)
        held = directions[: min(count, KAPPA_WINDOW_TOKENS)]
        steered(p, chorus.roots, held, helm.gain, REACH, log_p)
        token = pick(log_p, wish.temperature * helm.temperature, wish.top_p, uniforms[n])
        for stop in wish.stops:
            if token == stop:
                return Course(end, count, phase, helm)
        text[end] = token
        for v in range(voices):
            ids, basin = text[end : end + 1], log.basins[n, v]
            _follow(chorus.bodies[v], chorus.heads[v], stand.pasts[v], ids, basin, stand.logits[v])
        direct(log.basins[n, 0], chorus.home_s, directions[count % KAPPA_WINDOW_TOKENS])
        count += 1
        log.kappas[n] = UNKNOWN
        if count >= KAPPA_MIN_TOKENS:
            kappa = kappa_of(directions, count, min(count, KAPPA_WINDOW_TOKENS))
            fresh = kappa_of(directions, count, min(count, FRESH_TOKENS))
            if looping(text[max(0, end + 1 - LOOP_READS) : end + 1]):
                kappa, fresh = KAPPA_MAX, KAPPA_MAX
            phase = phase_after(kappa, phase)
            helm = turn(helm, kappa, fresh, phase == FRACTURE, KAPPA_TARGET)
            log.kappas[n] = kappa
            if forgets(helm.renewal):
                kept = text[end + 1 - KEPT_TOKENS : end + 1]
                _forget(chorus.bodies[0], chorus.heads[0], stand.pasts[0], kept, stand.logits[0])
        log.phases[n], row = phase, log.helms[n]
        row[0], row[1], row[2], row[3] = helm.gain, helm.trim, helm.renewal, helm.temperature
    return Course(course.at + len(uniforms), course.read + len(uniforms), phase, helm)


@compiled_fast
def _follow(body: Any, head: Any, past: Any, ids: Ids, basin: Array, logits: Array) -> None:
    """Reads one token on: its basin (64,), and what the state expects next, logits (V,)."""
    if past.lengths[0] == past.keys.shape[4]:
        make_room(body, past.keys, past.values, past.known, past.lengths, 0)
    hidden, basins = read_on(body, past.keys, past.values, past.known, past.lengths, 0, ids)
    for i in range(len(basin)):
        basin[i] = basins[0, i]
    speak(head, hidden[0], basin, logits)


@compiled_fast
def _forget(body: Any, head: Any, past: Any, ids: Ids, logits: Array) -> None:
    """Reads `ids`, what was said last, as if nothing came before. The bearing still knows all of its window."""
    past.lengths[0] = 0
    hidden, basins = read_on(body, past.keys, past.values, past.known, past.lengths, 0, ids)
    speak(head, hidden[-1], basins[-1], logits)


@compiled
def phase_after(kappa: float, previous: int) -> Any:
    """`geometry.phases.phase_of` by its place in PHASES, of a Phi that is not known; previous: UNKNOWN for none."""
    if previous == UNKNOWN:
        return _index(kappa)
    lowest, highest = _index(kappa - PHASE_HYSTERESIS), _index(kappa + PHASE_HYSTERESIS)
    return min(max(previous, lowest), highest)


@compiled
def _index(kappa: float) -> Any:
    return (kappa >= PHASE_BOUNDS[0]) + (kappa >= PHASE_BOUNDS[1]) + (kappa > PHASE_BOUNDS[2])
