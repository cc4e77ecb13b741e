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

from common.kernels.engine import BASIN_GAIN, COUPLING_SCALE, EMBED_GAIN, ROTARY_BASE
from common.kernels.spec import Spec
from common.kernels.weights import Weights, shapes

MANTISSA_BITS: Final = 5
TAU_START = math.log(12.0)  # chosen: attention logits in [-12, 12] at the start; tau is learned


class StateModel(nn.Module):
    """ids (B, T), T <= context, to logits (B, T, vocab) and basins (B, T, 64). sqrt_basins: (vocab, 64), fixed.

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
        self.register_buffer("sqrt_basins", torch.from_numpy(np.array(sqrt_basins, np.float32)))
        half = spec.head_width // 2
        angle = torch.arange(spec.context)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and basins of every place, each from the tokens up to it."""
        w = self.tensors
        x = float(EMBED_GAIN) * w["embed"][ids] + float(BASIN_GAIN) * functional.linear(
            self.sqrt_basins[ids], w["enter"]
        )
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.mixed_precision):
            for _ in range(self.spec.loops):
                for layer in range(self.spec.layers):
                    x = self._block(x, f"blocks|{layer}|")
        hidden = functional.rms_norm(x, (self.spec.width,))
        basins = torch.softmax(functional.linear(hidden, w["basin|weight"], w["basin|bias"]), -1)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=self.mixed_precision):
            direct = functional.linear(functional.linear(hidden, w["leave"]), w["embed"], w["bias"])
            overlap = functional.linear(basins.clamp_min(1e-12).sqrt(), self.sqrt_basins)
        return (direct + float(COUPLING_SCALE) * w["coupling"] * overlap).float(), basins

    def _block(self, x: Tensor, name: str) -> Tensor:
        w, (batch, tokens, width) = self.tensors, x.shape
        heads = (batch, tokens, 3, self.spec.heads, self.spec.head_width)
        q, k, v = (
            functional.linear(functional.rms_norm(x, (width,)), w[name + "qkv"]).view(heads).permute(2, 0, 3, 1, 4)
        )
        q = functional.normalize(self._rotate(q), dim=-1) * w[name + "tau"].exp()[:, None, None]
        k = functional.normalize(self._rotate(k), dim=-1)
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        x = x + functional.linear(seen.transpose(1, 2).reshape(batch, tokens, width), w[name + "o"])
        inner = functional.linear(functional.rms_norm(x, (width,)), w[name + "up"]).relu().square()
        out: Tensor = x + functional.linear(inner, w[name + "down"])
        return out

    def _rotate(self, z: Tensor) -> Tensor:
        a, b = z.chunk(2, -1)
        cos, sin = self.cos[: z.size(-2)], self.sin[: z.size(-2)]
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


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
        return torch.randn(shape, generator=generator) * 0.5
    bound = shape[-1] ** -0.5
    uniform: Tensor = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    return uniform
