"""The state of a kernel: token ids in, next-token logits and a basin out.

Nothing outside this room may assume more of a state than that, so that a pretrained model can take its place later.

A small causal decoder. Input = learned embedding + a projection of the token's sqrt-basin; a few blocks applied `loops`
times with the same weights. Attention is Fisher-Rao: after rotary positions (Su et al. 2021) queries and keys are
normalised to unit vectors, points of the sphere picture up to sign, and the logit is tau * <q, k> with one learned tau
a head. The basin is softmax(W h); it pulls the next token by coupling * <sqrt(b), sqrt(b_token)> (Bhattacharyya).

decode.py runs it, and holds to the same numbers as the torch twin in services/trainer/model.py (parity tests, 1e-4 on
logits in float32).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from common.kernels.decode import Array, Body, Floats, Head, Ids, Indices, M, advance, listen, make_room, read_on, speak
from common.kernels.spec import Spec
from common.kernels.weights import Weights

# Chosen (docs/experiments.md): a residual stream of unit size from embeddings small enough to begin with even logits.
EMBED_GAIN: Final = np.float32(11.0)
BASIN_GAIN: Final = np.float32(8.0)
COUPLING_SCALE: Final = np.float32(10.0)  # <sqrt(b), sqrt(b_token)> lies in [0, 1]; logits span about ten
ROTARY_BASE: Final = 10_000.0


T = TypeVar("T", Body, Head)


@dataclass(slots=True)
class Cache:
    """What was read of S texts, one a slot: unit keys and values (S, depth, heads, head_width, context), filled up to
    `lengths` (S,), and the ids there, (S, context).
    """

    keys: Array
    values: Array
    lengths: npt.NDArray[np.int64]
    ids: Ids


class State:
    """A state decoder ready to run. sqrt_basins: (vocab, 64), the square roots of the token basins.

    body, head: as compiled code takes them.
    """

    def __init__(self, spec: Spec, weights: Weights, sqrt_basins: npt.NDArray[np.floating]) -> None:
        assert sqrt_basins.shape == (spec.vocab, 64), sqrt_basins.shape
        self.spec = spec
        self.sqrt_basins: Array = np.ascontiguousarray(sqrt_basins, np.float32)
        self.weights: Final = weights
        roots = halved(sqrt_basins)
        self.body = _narrowed(_body(spec, weights, roots), ("qkv", "out", "up", "down", "basin"))
        self.head = _narrowed(_head(weights, roots), ("leave", "table"))

    def read(self, ids_BT: Ids) -> tuple[Array, Array]:
        """A batch of windows from their start, T <= context: hidden states (B, T, width) and basins (B, T, 64)."""
        cache = self.start()  # one as every text has, and so the same sums; each window overwrites the last
        windows = []
        for ids in ids_BT:
            cache.lengths[0] = 0
            windows.append(self._on(cache, 0, ids))
        return np.stack([hidden for hidden, _ in windows]), np.stack([basins for _, basins in windows])

    def start(self, slots: int = 1) -> Cache:
        """An empty cache for as many texts, each read with `extend`, all read on with `step`."""
        spec = self.spec
        shape = (slots, spec.depth, spec.heads, spec.head_width, spec.context)
        return Cache(
            np.zeros(shape, np.float32),
            np.zeros(shape, np.float32),
            np.zeros(slots, np.int64),
            np.zeros((slots, spec.context), np.int32),
        )

    def extend(self, cache: Cache, ids: Ids, slot: int = 0) -> tuple[Array, Array]:
        """Reads one text on: hidden states (T, width) and basins (T, 64) of `ids`, T >= 1.

        When the window is full, its newer half is read again from position 0 and the older half is forgotten: every
        token is then seen at positions, and with a context, that training knew.
        """
        hidden, basins = [], []
        for chunk in _chunks(ids, self.spec.context // 2):
            if cache.lengths[slot] + len(chunk) > self.spec.context:
                self._forget(cache, slot)
            h, b = self._on(cache, slot, chunk)
            hidden.append(h)
            basins.append(b)
        return np.concatenate(hidden), np.concatenate(basins)

    def tail(self, ids: Ids, last: int) -> Ids:
        """The end of a text that leaves an empty cache as `extend` by all of it does, and has the same basins of the
        last so many tokens: what comes before is forgotten by then.
        """
        half = self.spec.context // 2
        return ids[max(0, (len(ids) - last) // half - 1) * half :]

    def step(self, cache: Cache, ids: Ids, slots: npt.NDArray[np.int64]) -> tuple[Array, Array]:
        """Reads one token on in each of B texts: ids (B,) into slots (B,), all different, whatever their lengths.

        Returns hidden states (B, width) and basins (B, 64), as `extend` would of each alone (1e-5).
        """
        for slot in slots.tolist():
            if cache.lengths[slot] == self.spec.context:
                self._forget(cache, slot)
        return self._advance(cache, slots, cache.lengths[slots], ids)

    def listen(self, cache: Cache, ids: Ids) -> tuple[Array, Floats, Array]:
        """Reads a window from its start, T <= context, in a cache's first text: basins (T, 64), the log probability of
        each token but the first as what came next, (T-1,), and the logits (vocab,) of what comes now.
        """
        assert len(ids) <= self.spec.context, len(ids)
        cache.lengths[0] = 0
        found: tuple[Array, Floats, Array] = listen(
            self.body, self.head, cache.keys, cache.values, cache.ids, cache.lengths, np.asarray(ids, np.int32)
        )
        return found

    def speak(self, hidden: Array, basins: Array) -> Array:
        """The next token's logits (..., vocab) at places (..., width) and (..., 64), the coupling included."""
        width, vocab = self.spec.width, self.spec.vocab
        found = np.empty((hidden.size // width, vocab), np.float32)
        for place, basin, logits in zip(hidden.reshape(-1, width), basins.reshape(-1, 64), found, strict=True):
            speak(self.head, place, basin, logits)
        return found.reshape(*hidden.shape[:-1], vocab)

    @property
    def roots(self) -> M:
        """The roots of the tokens' basins, (64, vocab), as a matrix of decode.py."""
        return self.head.table[self.spec.width :]

    def _forget(self, cache: Cache, slot: int) -> None:
        """Makes room: the newer half of the window, read again as if it were all."""
        make_room(self.body, cache.keys, cache.values, cache.ids, cache.lengths, slot)

    def _on(self, cache: Cache, slot: int, ids: Ids) -> tuple[Array, Array]:
        found: tuple[Array, Array] = read_on(
            self.body, cache.keys, cache.values, cache.ids, cache.lengths, slot, np.asarray(ids, np.int32)
        )
        return found

    def _advance(self, cache: Cache, slots: Indices, places: Indices, ids: Ids) -> tuple[Array, Array]:
        found: tuple[Array, Array] = advance(
            self.body, cache.keys, cache.values, cache.ids, cache.lengths, slots, places, ids
        )
        return found


def halved(sqrt_basins: npt.NDArray[np.floating]) -> Array:
    """Roots of basins as a decoder computes with them: rounded to float16, relative error 2^-11, in float32."""
    return np.asarray(sqrt_basins).astype(np.float16).astype(np.float32)


def _body(spec: Spec, weights: Weights, roots: Array) -> Body:
    def stacked(name: str) -> Array:
        return np.ascontiguousarray(np.stack([weights[f"blocks.{i}.{name}"].T for i in range(spec.layers)]))

    cos, sin = _rotary(spec)
    return Body(
        inputs=EMBED_GAIN * weights["embed"] + BASIN_GAIN * (roots @ weights["enter"].T),
        cos=cos,
        sin=sin,
        tau=np.exp(stacked("tau")),
        qkv=stacked("qkv"),
        out=stacked("o"),
        up=stacked("up"),
        down=stacked("down"),
        basin=np.ascontiguousarray(weights["basin.weight"].T),
        basin_bias=np.array(weights["basin.bias"]),
    )


def _head(weights: Weights, roots: Array) -> Head:
    return Head(
        leave=np.ascontiguousarray(weights["leave"].T),
        table=np.ascontiguousarray(np.concatenate([weights["embed"].T, roots.T])),
        bias=np.array(weights["bias"]),
        gain=np.float32(COUPLING_SCALE * weights["coupling"]),
    )


def _narrowed(wide: T, matrices: Iterable[str]) -> T:
    """The same with its matrices as the bits of float16; unchanged unless all of them hold float16 numbers only."""
    with np.errstate(over="ignore"):
        halves = {name: getattr(wide, name).astype(np.float16) for name in matrices}
    if not all(np.array_equal(half.astype(np.float32), getattr(wide, name)) for name, half in halves.items()):
        return wide
    return wide._replace(**{name: half.view(np.uint16) for name, half in halves.items()})


def _chunks(ids: Ids, size: int) -> list[Ids]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _rotary(spec: Spec) -> tuple[Array, Array]:
    half = spec.head_width // 2
    angle = np.arange(spec.context)[:, None] * ROTARY_BASE ** (-np.arange(half) / half)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
