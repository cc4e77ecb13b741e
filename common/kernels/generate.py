"""Generation: one token after another from one kernel, or from several fused, under tacking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from common.constants import CELLS, KAPPA_WINDOW_TOKENS, PHASES, Phase
from common.geometry.concentration import directions, kappa
from common.geometry.phases import phase_of
from common.kernels.bearing import Bearing
from common.kernels.blend import pick
from common.kernels.decode import Array
from common.kernels.gate import BUCKETS
from common.kernels.kernel import Floats, Kernel, Speaker
from common.kernels.loops import LOOP_READS
from common.kernels.memory import ORDERS, Ids
from common.kernels.recall import FIELDS
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
    ) -> None:
        """Reads the prompt."""
        pasts, logits, bearing = [], [], Bearing(voices[0].home)
        for v, voice in enumerate(voices):
            cache = voice.kernel.state.start()
            hidden, basins = voice.kernel.state.extend(cache, prompt)
            pasts.append(Past(cache.keys, cache.values, cache.ids, cache.lengths))
            logits.append(voice.kernel.state.speak(hidden[-1], basins[-1]))
            if v == 0:
                bearing.turn(basins[-KAPPA_WINDOW_TOKENS:])
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
            yield from self.say(STRETCH_TOKENS)

    def say(self, tokens: int) -> list[Step]:
        """Up to so many further steps, one or more; fewer at the end. The same in all, whatever the numbers.

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
        self._course = say(self._chorus, self._stand, before, self._wish, self._uniforms(tokens), log)
        ids = self._stand.text[before.at : self._course.at]
        self.ended = len(ids) < tokens or self._course.at == len(self._stand.text)
        return _steps(ids, log)

    def _uniforms(self, tokens: int) -> Floats:
        return self._rng.random(tokens) if self._wish.temperature > 0 else np.zeros(tokens)


def _steps(ids: Ids, log: Log) -> list[Step]:
    found = []
    rows = zip(ids.tolist(), log.basins, log.kappas.tolist(), log.phases.tolist(), log.helms.tolist(), strict=False)
    for token, basins, value, place, (gain, trim, renewal, heat) in rows:
        known = place != UNKNOWN
        phase = None if not known else PHASES[place] if value >= 0 else phase_of(value, None, None)
        found.append(
            Step(token, basins[0], basins, value if known else None, phase, Helm(gain, trim, int(renewal), heat))
        )
    return found


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


def _chorus(voices: Sequence[Voice]) -> Chorus:
    """Voices with fewer memories than others get empty ones in front, to which their gates give nothing."""
    speakers = [Speaker.of(voice.kernel) for voice in voices]
    shape = len(voices), max(len(speaker.memories) for speaker in speakers)
    memories = np.zeros((*shape, ORDERS, FIELDS), np.int64)
    bases = np.zeros((*shape, voices[0].kernel.state.spec.vocab))
    gates = np.zeros((shape[0], BUCKETS, 1 + shape[1]))
    for v, speaker in enumerate(speakers):
        own = slice(shape[1] - len(speaker.memories), None)
        memories[v, own], bases[v, own] = speaker.memories, speaker.bases
        gates[v, :, 0], gates[v, :, 1:][:, own] = speaker.kernel.gate[:, 0], speaker.kernel.gate[:, 1:]
    return Chorus(
        bodies=tuple(voice.kernel.state.body for voice in voices),
        heads=tuple(voice.kernel.state.head for voice in voices),
        memories=memories,
        bases=bases,
        gates=gates,
        shares=np.array([voice.share for voice in voices]),
        home_s=np.sqrt(voices[0].home),
        roots=voices[0].kernel.state.roots,
    )
