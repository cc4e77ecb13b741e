"""Generation: one token after another from one kernel, or from several fused, under tacking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.constants import KAPPA_WINDOW_TOKENS, Phase
from common.geometry.concentration import KAPPA_MAX, directions, kappa
from common.geometry.phases import phase_of
from common.kernels.bearing import Bearing
from common.kernels.blend import draw, steered
from common.kernels.decode import Array
from common.kernels.kernel import Floats, Kernel, Speaker
from common.kernels.loops import LOOP_READS, looping
from common.kernels.memory import Ids
from common.kernels.tacking import FRESH_TOKENS, KEPT_TOKENS, REACH, Helm, steer

MEMORY_CONTEXT: Final = 3
_ONLY: Final = np.zeros(1, np.int64)  # the one slot of a reader's cache
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


class _Reader:
    """Where one voice stands in the text: its basin (64,) and the tokens it expects, after the last one read."""

    basin: Array
    logits: Array

    def __init__(self, voice: Voice, prompt: Ids) -> None:
        self.voice = voice
        self.speaker = Speaker.of(voice.kernel)
        self.bearing = Bearing(voice.home)
        self._cache = voice.kernel.state.start()
        self.read(prompt)

    def read(self, ids: Ids) -> None:
        """Reads on."""
        state = self.voice.kernel.state
        hidden, basins = state.extend(self._cache, ids) if len(ids) > 1 else state.step(self._cache, ids, _ONLY)
        for basin in basins[-KAPPA_WINDOW_TOKENS:]:
            self.bearing.turn(basin)
        self.basin = basins[-1]
        self.logits = state.speak(hidden[-1], self.basin)

    def forget(self, recent: Ids) -> None:
        """Reads `recent`, what was said last, as if nothing came before. The bearing still knows all of its window."""
        state = self.voice.kernel.state
        self._cache = state.start()
        hidden, basins = state.extend(self._cache, recent)
        self.logits = state.speak(hidden[-1], basins[-1])

    def kappas(self, *, loop: bool) -> tuple[float, float]:
        """Kappa of the window and of its last FRESH_TOKENS; in a loop the most that it can be."""
        return (KAPPA_MAX, KAPPA_MAX) if loop else (self.bearing.kappa(), self.bearing.kappa(FRESH_TOKENS))


def generate(
    voices: Sequence[Voice],
    prompt: Ids,
    *,
    max_tokens: int,
    temperature: float,
    stop: frozenset[int],
    rng: np.random.Generator,
    top_p: float = 1.0,
) -> Iterator[Step]:
    """Yields up to max_tokens steps and ends before a token of `stop`. prompt: at least one id. temperature 0: the
    likeliest token. top_p: see `sample`.

    The first voice is the one whose basins are measured and steered: kappa over its last 64 tokens, directions from its
    home; that of a perfect loop while the text goes round one.
    """
    readers = [_Reader(voice, prompt) for voice in voices]
    lead, helm, phase = readers[0], Helm(), None
    text = np.empty(LOOP_READS + max_tokens, np.int32)
    start = min(len(prompt), LOOP_READS)
    text[:start] = prompt[-start:]
    recent = text[:start]
    for end in range(start + 1, start + 1 + max_tokens):
        token = sample(_fuse(readers, recent[-MEMORY_CONTEXT:], helm), temperature * helm.temperature, rng, top_p)
        if token in stop:
            return
        text[end - 1] = token
        recent = text[max(0, end - LOOP_READS) : end]
        for reader in readers:
            reader.read(recent[-1:])
        value = None
        if lead.bearing.tokens >= KAPPA_MIN_TOKENS:
            value, fresh = lead.kappas(loop=looping(recent))
            phase = phase_of(value, None, phase)
            helm = steer(helm, value, fresh, phase)
            if helm.forgets:
                lead.forget(recent[-KEPT_TOKENS:])
        yield Step(token, lead.basin, tuple(r.basin for r in readers), value, phase, helm)


def measure_kappa(basins: Array, home: Floats) -> float | None:
    """Kappa of the last KAPPA_WINDOW_TOKENS basins, (N, 64), about a home basin; None when fewer than
    KAPPA_MIN_TOKENS.
    """
    window = basins[-KAPPA_WINDOW_TOKENS:].astype(np.float64)
    return kappa(directions(window, np.sqrt(home))) if len(window) >= KAPPA_MIN_TOKENS else None


def _fuse(readers: Sequence[_Reader], context: Ids, helm: Helm) -> Array:
    """Log p (V,): the voices' distributions weighted by their shares, then steered along the lead's heading."""
    fused = np.zeros(len(readers[0].logits))
    for r in readers:
        r.speaker.add(fused, r.logits, context, share=r.voice.share)
    lead = readers[0]
    along = lead.voice.kernel.state.along(lead.bearing.heading())
    found: Array = steered(fused, along, helm.gain, REACH)
    return found


def sample(log_p: npt.NDArray[np.floating], temperature: float, rng: np.random.Generator, top_p: float = 1.0) -> int:
    """A token id from log p (V,), sharpened or flattened by the temperature; the likeliest (lowest id on ties) at 0.

    top_p: in (0, 1]; below 1 only the likeliest tokens whose mass reaches it are drawn from (nucleus sampling, Holtzman
    et al. 2020), at least one.
    """
    if temperature <= 0:
        return int(np.argmax(log_p))
    kept = np.asarray(log_p, np.float32)
    return int(draw(kept if top_p >= 1 else _nucleus(kept, temperature, top_p), temperature, rng.random()))


def _nucleus(log_p: Array, temperature: float, top_p: float) -> Array:
    """Log p, and -inf for what is not among the likeliest tokens that together hold top_p of the heated mass."""
    p = np.exp((log_p - log_p.max()) / np.float32(temperature))
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order], dtype=np.float64) - p[order]
    found: Array = log_p.copy()
    found[order[before >= top_p * p.sum(dtype=np.float64)]] = -np.inf
    return found
