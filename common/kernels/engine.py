"""The state of a kernel, run with numpy: token ids in, next-token logits and a basin out.

Nothing outside this room may assume more of a state than that, so that a pretrained model can take its place later.

A small causal decoder. Input = learned embedding + a projection of the token's sqrt-basin; a few blocks applied `loops`
times with the same weights. Attention is Fisher-Rao: after rotary positions (Su et al. 2021) queries and keys are
normalised to unit vectors, points of the sphere picture up to sign, and the logit is tau * <q, k> with one learned tau
a head. The basin is softmax(W h); it pulls the next token by coupling * <sqrt(b), sqrt(b_token)> (Bhattacharyya).

The torch twin in services/trainer/model.py holds to the same numbers (parity test, 1e-4 on logits in float32).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from common.kernels.memory import Ids
from common.kernels.spec import Spec
from common.kernels.weights import Weights

Array = npt.NDArray[np.float32]

EMBED_GAIN: Final = np.float32(0.5)  # chosen: puts the two inputs of a token on one scale at the start of training
BASIN_GAIN: Final = np.float32(2.0)
COUPLING_SCALE: Final = np.float32(10.0)  # <sqrt(b), sqrt(b_token)> lies in [0, 1]; logits span about ten
ROTARY_BASE: Final = 10_000.0
NORM_EPSILON: Final = np.float32(np.finfo(np.float32).eps)
UNIT_EPSILON: Final = np.float32(1e-12)


@dataclass(slots=True)
class Cache:
    """Unit keys and values of the tokens read so far: (depth, B, heads, context, head_width), the first `length`
    filled.
    """

    keys: Array
    values: Array
    length: int
    ids: list[int]


class State:
    """A state decoder ready to run. sqrt_basins: (vocab, 64), the square roots of the token basins."""

    def __init__(self, spec: Spec, weights: Weights, sqrt_basins: npt.NDArray[np.floating]) -> None:
        assert sqrt_basins.shape == (spec.vocab, 64), sqrt_basins.shape
        self.spec = spec
        self.sqrt_basins: Array = np.ascontiguousarray(sqrt_basins, np.float32)
        self.weights: Final = weights
        self._inputs: Array = EMBED_GAIN * weights["embed"] + BASIN_GAIN * (self.sqrt_basins @ weights["enter"].T)
        self._cos, self._sin = _rotary(spec)

    def read(self, ids_BT: Ids) -> tuple[Array, Array]:
        """A batch of windows from their start, T <= context: hidden states (B, T, width) and basins (B, T, 64)."""
        return self._run(ids_BT, self._empty(len(ids_BT), ids_BT.shape[1]))

    def start(self) -> Cache:
        """A cache for one text, read with `extend`."""
        return self._empty(1, self.spec.context)

    def extend(self, cache: Cache, ids: Ids) -> tuple[Array, Array]:
        """Reads on: hidden states (T, width) and basins (T, 64) of `ids`, T >= 1.

        When the window is full, its newer half is read again from position 0 and the older half is forgotten: every
        token is then seen at positions, and with a context, that training knew.
        """
        hidden, basins = [], []
        for chunk in _chunks(ids, self.spec.context // 2):
            if cache.length + len(chunk) > self.spec.context:
                kept = np.asarray(cache.ids[-(self.spec.context // 2) :], np.int32)
                cache.length, cache.ids = 0, []
                self._advance(cache, kept)
            h, b = self._advance(cache, chunk)
            hidden.append(h)
            basins.append(b)
        return np.concatenate(hidden), np.concatenate(basins)

    def logits(self, hidden: Array, basins: Array) -> Array:
        """Next-token logits (..., vocab), the coupling at gain 1 included."""
        w = self.weights
        direct = (hidden @ w["leave"].T) @ w["embed"].T + w["bias"]
        return (direct + self.pull(basins)).astype(np.float32, copy=False)

    def pull(self, basins: Array) -> Array:
        """The coupling term alone, (..., vocab): what tacking amplifies or weakens."""
        overlap: Array = np.sqrt(basins) @ self.sqrt_basins.T
        return overlap * np.float32(COUPLING_SCALE * self.weights["coupling"])

    def _advance(self, cache: Cache, ids: Ids) -> tuple[Array, Array]:
        hidden, basins = self._run(ids[None], cache)
        cache.ids.extend(int(i) for i in ids)
        return hidden[0], basins[0]

    def _empty(self, batch: int, tokens: int) -> Cache:
        shape = (self.spec.depth, batch, self.spec.heads, tokens, self.spec.head_width)
        return Cache(np.empty(shape, np.float32), np.empty(shape, np.float32), 0, [])

    def _run(self, ids_BT: Ids, cache: Cache) -> tuple[Array, Array]:
        x = self._inputs[ids_BT]
        positions = slice(cache.length, cache.length + ids_BT.shape[1])
        depth = 0
        for _ in range(self.spec.loops):
            for layer in range(self.spec.layers):
                x = self._block(x, f"blocks.{layer}.", cache.keys[depth], cache.values[depth], positions)
                depth += 1
        cache.length = positions.stop
        hidden = _rms_norm(x)
        return hidden, _softmax(hidden @ self.weights["basin.weight"].T + self.weights["basin.bias"])

    def _block(self, x: Array, name: str, keys: Array, values: Array, positions: slice) -> Array:
        w, (batch, tokens, width) = self.weights, x.shape
        qkv = (_rms_norm(x) @ w[name + "qkv"].T).reshape(batch, tokens, 3, self.spec.heads, self.spec.head_width)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        cos, sin = self._cos[positions], self._sin[positions]
        keys[:, :, positions] = _unit(_rotate(k, cos, sin))
        values[:, :, positions] = v
        q = _unit(_rotate(q, cos, sin)) * np.exp(w[name + "tau"])[:, None, None]
        scores = q @ keys[:, :, : positions.stop].transpose(0, 1, 3, 2)
        if tokens > 1:
            scores += _causal(tokens, positions.start)
        seen: Array = (_softmax(scores) @ values[:, :, : positions.stop]).transpose(0, 2, 1, 3)
        x = x + seen.reshape(batch, tokens, width) @ w[name + "o"].T
        inner: Array = np.square(np.maximum(_rms_norm(x) @ w[name + "up"].T, np.float32(0.0)))
        return x + inner @ w[name + "down"].T


def _chunks(ids: Ids, size: int) -> list[Ids]:
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _causal(tokens: int, past: int) -> Array:
    """0 where query i may see key j <= past + i, minus infinity elsewhere: (tokens, past + tokens)."""
    ahead = np.arange(past + tokens)[None, :] > past + np.arange(tokens)[:, None]
    return np.where(ahead, np.float32(-np.inf), np.float32(0.0))


def _rotary(spec: Spec) -> tuple[Array, Array]:
    half = spec.head_width // 2
    angle = np.arange(spec.context)[:, None] * ROTARY_BASE ** (-np.arange(half) / half)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def _rotate(z: Array, cos: Array, sin: Array) -> Array:
    a, b = np.split(z, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _unit(z: Array) -> Array:
    length: Array = np.maximum(np.sqrt(np.square(z).sum(-1, keepdims=True)), UNIT_EPSILON)
    return z / length


def _rms_norm(x: Array) -> Array:
    scale: Array = np.sqrt(np.square(x).mean(-1, keepdims=True) + NORM_EPSILON)
    return x / scale


def _softmax(x: Array) -> Array:
    e: Array = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)  # type: ignore[no-any-return]
