"""The state decoder in torch: the trainable twin of common/kernels/engine.py, with the same tensors under the same
names.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.kernels.engine import BASIN_GAIN, COUPLING_SCALE, EMBED_GAIN, ROTARY_BASE, halved
from common.kernels.spec import Spec
from common.kernels.weights import Weights, shapes
from services.trainer.speech import cross_entropy

MANTISSA_BITS: Final = 5
TAU_START = math.log(12.0)  # chosen: attention logits in [-12, 12] at the start; tau is learned


class StateModel(nn.Module):
    """ids (B, T), T <= context, to what is said next and basins (B, T, 64). sqrt_basins: (vocab, 64), fixed.

    `mixed_precision`: whether `forward` multiplies in bfloat16. Weights, residual stream and basins stay float32 in any
    case: phi is estimated from the basins' small differences.
    """

    sqrt_basins: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, spec: Spec, sqrt_basins: npt.NDArray[np.floating], generator: torch.Generator) -> None:
        super().__init__()
        self.spec = spec
        self.mixed_precision = False
        self.tensors = nn.ParameterDict()
        for name, shape in shapes(spec).items():
            self.tensors[_key(name)] = nn.Parameter(_initial(name, shape, generator))
        self.register_buffer("sqrt_basins", torch.from_numpy(halved(sqrt_basins)))
        half = spec.head_width // 2
        angle = torch.arange(spec.context)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross-entropy in nats of the tokens `following` (B, T), each after its place, and the basins."""
        spoken, basins = self._speak(ids)
        product = torch.bfloat16 if self.mixed_precision else spoken.dtype
        w = self.tensors
        nats = cross_entropy(
            spoken.flatten(0, 1), w["embed"], self.sqrt_basins, w["bias"], following.flatten(), product
        )
        return nats, basins

    def logits(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Next-token logits (B, T, vocab) and basins of every place, each from the tokens up to it."""
        spoken, basins = self._speak(ids)
        table = torch.cat([self.tensors["embed"], self.sqrt_basins], 1)
        return functional.linear(spoken, table, self.tensors["bias"]), basins

    def _speak(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What is multiplied with embeddings and roots of all tokens' basins, (B, T, width + 64), and the basins."""
        w, narrow = self.tensors, torch.autocast(ids.device.type, torch.bfloat16, enabled=self.mixed_precision)
        with narrow:
            entered = functional.linear(functional.embedding(ids, self.sqrt_basins), w["enter"])
            x = float(EMBED_GAIN) * functional.embedding(ids, w["embed"]) + float(BASIN_GAIN) * entered
            for _ in range(self.spec.loops):
                for layer in range(self.spec.layers):
                    x = self._block(x, f"blocks|{layer}|")
        hidden = functional.rms_norm(x, (self.spec.width,))
        basins = torch.softmax(functional.linear(hidden, w["basin|weight"], w["basin|bias"]), -1)
        pull = float(COUPLING_SCALE) * w["coupling"] * basins.clamp_min(1e-12).sqrt()
        with narrow:
            left = functional.linear(hidden, w["leave"])
        return torch.cat([left.to(pull.dtype), pull], -1), basins

    def _block(self, x: Tensor, name: str) -> Tensor:
        w, (batch, tokens, width) = self.tensors, x.shape
        found = functional.linear(functional.rms_norm(x, (width,)), w[name + "qkv"])
        found = found.view(batch, tokens, 3, self.spec.heads, self.spec.head_width)
        qk, v = found[:, :, :2], found[:, :, 2]
        # A rotation changes no length, so q and k are made unit vectors on the way.
        length = torch.linalg.vector_norm(qk, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        tau = w[name + "tau"].exp()[:, None]
        q, k = self._rotate(qk * (torch.stack([tau, torch.ones_like(tau)]) / length)).permute(2, 0, 3, 1, 4)
        seen = attention(q, k, v.transpose(1, 2))
        x = x + functional.linear(seen.transpose(1, 2).reshape(batch, tokens, width), w[name + "o"])
        inner = functional.linear(functional.rms_norm(x, (width,)), w[name + "up"]).relu().square()
        out: Tensor = x + functional.linear(inner, w[name + "down"])
        return out

    def _rotate(self, z: Tensor) -> Tensor:
        """Queries and keys (B, T, 2, H, W) by their places."""
        a, b = z.chunk(2, -1)
        cos, sin = (turn[: z.size(1), None, None] for turn in (self.cos, self.sin))
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of (B, H, T, W), logits <q, k>, to (B, H, T, W).

    On a processor by plain products: torch's fused kernel takes three times as long at these sizes
    (docs/experiments.md).
    """
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    tokens, shape = q.shape[2], q.shape
    later = q.new_full((tokens, tokens), -torch.inf).triu(1)
    q, k, v = (z.flatten(0, 1) for z in (q, k, v))
    seen: Tensor = torch.softmax(torch.baddbmm(later, q, k.transpose(1, 2)), -1) @ v
    return seen.view(shape)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 itself; emulated it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & {name for name, there in torch.cpu.get_capabilities().items() if there})


def export(model: StateModel) -> dict[str, npt.NDArray[np.float32]]:
    """The tensors as numpy, under the names of common/kernels/weights.py."""
    return {k.replace("|", "."): v.detach().float().cpu().numpy().copy() for k, v in model.tensors.items()}


def coarse(weights: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """Weights rounded to MANTISSA_BITS of mantissa, relative error at most 2^-6, so that they compress.

    29 % of a size small state's bytes go, and no bit a token that could be measured (docs/experiments.md). The range is
    float16's own: what is smaller than 2^-14 keeps fewer bits.
    """
    dropped = 10 - MANTISSA_BITS  # of float16's ten
    rounded = {}
    for name, value in weights.items():
        bits = np.asarray(value, np.float16).reshape(-1).view(np.uint16).astype(np.uint32)
        kept = ((bits + (1 << dropped - 1)) >> dropped << dropped).astype(np.uint16)
        rounded[name] = kept.view(np.float16).astype(np.float32).reshape(value.shape)
    return rounded


def restore(model: StateModel, weights: Weights) -> None:
    """Sets the tensors from numpy, in place. The weights must have passed `common.kernels.weights.check`."""
    with torch.no_grad():
        for name, value in weights.items():
            model.tensors[_key(name)].copy_(torch.from_numpy(np.asarray(value, np.float32)))


def is_matrix(name: str) -> bool:
    """Whether a tensor is one of the blocks' matrices, which Muon trains; AdamW trains the rest."""
    return name.startswith("blocks|") and not name.endswith("tau")


def _key(name: str) -> str:
    """A tensor's key in the module: torch allows no dot in a parameter's name."""
    return name.replace(".", "|")


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Zero for biases and for what writes into the residual stream, uniform(+-1/sqrt(fan in)) for other matrices."""
    if name == "coupling":
        return torch.ones(())
    if name.endswith("tau"):
        return torch.full(shape, TAU_START)
    if name.endswith(("bias", ".o", ".down")):
        return torch.zeros(shape)
    if name == "embed":
        return torch.randn(shape, generator=generator) / float(EMBED_GAIN)
    bound = shape[-1] ** -0.5
    uniform: Tensor = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    return uniform
