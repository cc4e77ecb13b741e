"""Generation: one token after another from one kernel, or from several fused, under tacking."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, KAPPA_WINDOW_TOKENS, PHASES, Phase
from common.geometry.concentration import directions, kappa
from common.geometry.phases import phase_of
from common.kernels.bearing import Bearing
from common.kernels.blend import pick
from common.kernels.decode import Array
from common.kernels.engine import State
from common.kernels.kernel import Floats, Kernel, Listening
from common.kernels.loops import LOOP_READS
from common.kernels.memory import Ids
from common.kernels.say import KAPPA_MIN_TOKENS, UNKNOWN, Chorus, Course, Log, Past, Stand, Wish, say
from common.kernels.tacking import Helm

STRETCH_TOKENS: Final = 16  # chosen: said at a time where nobody says how many


@dataclass(frozen=True, slots=True)
class Voice:
    """A kernel that speaks, its home basin (64,), and its share of the fused distribution. Shares of all voices sum to
    one.
    """

    kernel: Kernel
    home: Floats
    share: float


class Step(NamedTuple):
    """One generated token, and what was measured after it. kappa and phase are None while fewer than KAPPA_MIN_TOKENS
    were read. basin: the first voice's, (64,); basins: every voice's, in their order, (voices, 64).
    """

    token: int
    basin: Array
    basins: Array
    kappa: float | None
    phase: Phase | None
    helm: Helm


class Stretch(NamedTuple):
    """Some generated tokens, a row each; see Step. tokens (N,); basins (N, voices, 64); kappas, phases (N,): -1 where
    not known, a phase by its place in PHASES; helms (N, 4).
    """

    tokens: Ids
    basins: Array
    kappas: Floats
    phases: npt.NDArray[np.int64]
    helms: Floats

    def reading(self, place: int) -> tuple[float | None, Phase | None]:
        """Kappa and phase after one of the tokens."""
        phase = int(self.phases[place])
        return (None, None) if phase == UNKNOWN else (float(self.kappas[place]), PHASES[phase])

    def steps(self) -> list[Step]:
        """One by one."""
        helms = [Helm(gain, trim, int(renewal), heat) for gain, trim, renewal, heat in self.helms.tolist()]
        rows = zip(self.tokens.tolist(), self.basins, helms, strict=True)
        return [Step(token, basins[0], basins, *self.reading(n), helm) for n, (token, basins, helm) in enumerate(rows)]


class Speech:
    """A generation in the making: `say` goes on with it; to iterate over it says all, step by step.

    Ends after max_tokens, or before a token of `stop`. prompt: at least one id. temperature 0: the likeliest token.
    top_p: see `blend.pick`. All voices' states are of one vocabulary, and their matrices of one precision.

    The first voice is the one whose basins are measured and steered: kappa over its last 64 tokens, directions from its
    home; that of a perfect loop while the text goes round one.
    """

    def __init__(
        self,
        voices: Sequence[Voice],
        prompt: Ids,
        *,
        max_tokens: int,
        temperature: float,
        stop: frozenset[int],
        rng: np.random.Generator,
        top_p: float = 1.0,
        listening: Listening | None = None,
    ) -> None:
        """Reads the prompt. listening: the first voice's state, if it has read it already; it is used up."""
        pasts, logits, bearing = [], [], Bearing(voices[0].home)
        for v, voice in enumerate(voices):
            heard = listening if v == 0 and listening is not None else _listen(voice.kernel.state, prompt)
            pasts.append(Past(heard.cache.keys, heard.cache.values, heard.cache.ids, heard.cache.lengths))
            logits.append(heard.logits)
            if v == 0:
                bearing.turn(heard.basins[-KAPPA_WINDOW_TOKENS:])
        start = min(len(prompt), LOOP_READS)
        text = np.empty(start + max_tokens, np.int32)
        text[:start] = prompt[-start:]
        self._voices, self._chorus = voices, _chorus(voices)  # the chorus has the addresses of memories alone
        self._stand = Stand(tuple(pasts), np.stack(logits), bearing.directions, text)
        self._course = Course(start, bearing.read)
        self._wish = Wish(float(temperature), float(top_p), np.array(sorted(stop), np.int32))
        self._rng = rng
        self.ended = max_tokens == 0

    def __iter__(self) -> Iterator[Step]:
        while not self.ended:
            yield from self.say(STRETCH_TOKENS).steps()

    def say(self, tokens: int) -> Stretch:
        """Up to so many further tokens, one or more; fewer at the end. The same in all, whatever the numbers.

        Raises Rejected("bad_reading") when kappa is no number: the state has diverged.
        """
        before = self._course
        tokens = min(tokens, len(self._stand.text) - before.at)
        log = Log(
            np.empty((tokens, len(self._voices), CELLS), np.float32),
            np.empty(tokens),
            np.empty(tokens, np.int64),
            np.empty((tokens, len(Helm._fields))),
        )
        uniforms = self._rng.random(tokens) if self._wish.temperature > 0 else np.zeros(tokens)
        self._course = say(self._chorus, self._stand, before, self._wish, uniforms, log)
        said = self._course.at - before.at
        self.ended = said < tokens or self._course.at == len(self._stand.text)
        if not (log.kappas[:said] >= UNKNOWN).all():
            phase_of(math.nan, None, None)
        ids = self._stand.text[before.at : self._course.at]
        return Stretch(ids, log.basins[:said], log.kappas[:said], log.phases[:said], log.helms[:said])


def measure_kappa(basins: Array, home: Floats) -> float | None:
    """Kappa of the last KAPPA_WINDOW_TOKENS basins, (N, 64), about a home basin; None when fewer than
    KAPPA_MIN_TOKENS.
    """
    window = basins[-KAPPA_WINDOW_TOKENS:].astype(np.float64)
    return kappa(directions(window, np.sqrt(home))) if len(window) >= KAPPA_MIN_TOKENS else None


def sample(log_p: npt.NDArray[np.floating], temperature: float, rng: np.random.Generator, top_p: float = 1.0) -> int:
    """A token id from log p (V,), sharpened or flattened by the temperature; see `blend.pick`."""
    uniform = rng.random() if temperature > 0 else 0.0
    return int(pick(np.asarray(log_p, np.float32), temperature, top_p, uniform))


def _listen(state: State, prompt: Ids) -> Listening:
    """The state with a prompt in it, and the basins of its last KAPPA_WINDOW_TOKENS at least."""
    cache = state.start()
    hidden, basins = state.extend(cache, state.tail(prompt, KAPPA_WINDOW_TOKENS))
    return Listening(cache, basins, state.speak(hidden[-1], basins[-1]))


def _chorus(voices: Sequence[Voice]) -> Chorus:
    """Voices with fewer memories than others get empty ones in front, to which their gates give nothing."""
    kernels = [voice.kernel for voice in voices]
    most = max(len(kernel.memories) for kernel in kernels)
    return Chorus(
        bodies=tuple(kernel.state.body for kernel in kernels),
        heads=tuple(kernel.state.head for kernel in kernels),
        memories=_stacked([kernel.addresses for kernel in kernels], most),
        bases=_stacked([kernel.bases for kernel in kernels], most),
        gates=np.stack([_widened(kernel.gate, most) for kernel in kernels]),
        shares=np.array([voice.share for voice in voices]),
        home_s=np.sqrt(voices[0].home),
        roots=voices[0].kernel.state.roots,
    )


def _stacked(columns: Sequence[npt.NDArray[Any]], most: int) -> npt.NDArray[Any]:
    found = np.zeros((len(columns), most, *columns[0].shape[1:]), columns[0].dtype)
    for place, column in enumerate(columns):
        found[place, most - len(column) :] = column
    return found


def _widened(gate: Floats, most: int) -> Floats:
    return np.concatenate([gate[:, :1], np.zeros((len(gate), most + 1 - gate.shape[1])), gate[:, 1:]], 1)
