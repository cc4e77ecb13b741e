"""Generation: one token after another from one kernel, or from several fused, under tacking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from common.constants import KAPPA_WINDOW_TOKENS, Phase
from common.geometry.concentration import directions, kappa
from common.geometry.phases import phase_of
from common.kernels.decode import Array
from common.kernels.engine import Cache
from common.kernels.kernel import Floats, Kernel, next_token
from common.kernels.memory import Ids
from common.kernels.tacking import Helm, steer

MEMORY_CONTEXT: Final = 3
KAPPA_MIN_TOKENS: Final = 16  # below this a direction is mostly noise: kappa is not known yet


@dataclass(frozen=True, slots=True)
class Voice:
    """A kernel that speaks, its home basin (64,), and its share of the fused distribution. Shares of all voices sum to
    one.
    """

    kernel: Kernel
    home: Floats
    share: float


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token, and what was measured after it. kappa and phase are None while fewer than KAPPA_MIN_TOKENS
    were read. basin: the first voice's, (64,); basins: every voice's, in their order.
    """

    token: int
    basin: Array
    basins: tuple[Array, ...]
    kappa: float | None
    phase: Phase | None
    helm: Helm


@dataclass(slots=True)
class _Reader:
    """Where one voice stands in the text."""

    voice: Voice
    cache: Cache
    floors: list[Floats]
    hidden: Array
    basins: Array

    def read(self, ids: Ids) -> None:
        hidden, basins = self.voice.kernel.state.extend(self.cache, ids)
        self.hidden = hidden[-1]
        self.basins = np.concatenate([self.basins, basins])[-KAPPA_WINDOW_TOKENS:]


def generate(
    voices: Sequence[Voice],
    prompt: Ids,
    *,
    max_tokens: int,
    temperature: float,
    stop: frozenset[int],
    rng: np.random.Generator,
) -> Iterator[Step]:
    """Yields up to max_tokens steps and ends before a token of `stop`. prompt: at least one id. temperature 0: the
    likeliest token.

    The first voice is the one whose basins are measured and steered: kappa over its last 64 tokens, directions from its
    home.
    """
    readers = [_begin(voice, prompt) for voice in voices]
    lead, helm, phase = readers[0], Helm(), None
    context = [int(i) for i in prompt[-MEMORY_CONTEXT:]]
    for _ in range(max_tokens):
        token = sample(_fuse(readers, context, helm), temperature * helm.temperature, rng)
        if token in stop:
            return
        context = [*context, token][-MEMORY_CONTEXT:]
        for reader in readers:
            reader.read(np.array([token], np.int32))
        value = measure_kappa(lead.basins, lead.voice.home)
        if value is not None:
            phase = phase_of(value, None, phase)
            helm = steer(helm, value, phase)
        yield Step(token, lead.basins[-1], tuple(r.basins[-1] for r in readers), value, phase, helm)


def measure_kappa(basins: Array, home: Floats) -> float | None:
    """Kappa of the last KAPPA_WINDOW_TOKENS basins, (N, 64), about a home basin; None when fewer than
    KAPPA_MIN_TOKENS.
    """
    window = basins[-KAPPA_WINDOW_TOKENS:].astype(np.float64)
    return kappa(directions(window, np.sqrt(home))) if len(window) >= KAPPA_MIN_TOKENS else None


def _begin(voice: Voice, prompt: Ids) -> _Reader:
    state = voice.kernel.state
    reader = _Reader(
        voice, state.start(), voice.kernel.floors(), np.empty(0, np.float32), np.empty((0, 64), np.float32)
    )
    reader.read(prompt)
    return reader


def _fuse(readers: Sequence[_Reader], context: Sequence[int], helm: Helm) -> Floats:
    """Log p (V,): the voices' distributions weighted by their shares, then pulled by the lead's basin beyond gain 1."""
    fused = sum(
        r.voice.share * next_token(r.voice.kernel, r.floors, context, r.hidden, r.basins[-1], helm.calm)
        for r in readers
    )
    lead = readers[0]
    pull = lead.voice.kernel.state.pull(lead.basins[-1])
    pulled: Floats = np.log(np.maximum(fused, 1e-30)) + (helm.gain - 1.0) * pull
    return pulled


def sample(log_p: Floats, temperature: float, rng: np.random.Generator) -> int:
    """A token id from log p (V,), sharpened or flattened by the temperature; the likeliest (lowest id on ties) at 0."""
    if temperature <= 0:
        return int(np.argmax(log_p))
    p = np.exp((log_p - log_p.max()) / temperature)
    cumulative = np.cumsum(p)
    return int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
