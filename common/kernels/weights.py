"""State weights as plain arrays: names, shapes, and their safetensors form.

The names are those of the torch module in services/trainer, so that a trained state crosses over without a table of
renamings.
"""

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from common.constants import CELLS
from common.errors import Rejected
from common.kernels.spec import Spec

Weights = Mapping[str, npt.NDArray[np.float32]]

HEADER_MAX_BYTES: Final = 64 * 1024  # chosen: three times what the names and shapes of the deepest state take
_SPEC_FIELDS: Final = ("vocab", "width", "layers", "loops", "heads", "context")


def shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Every tensor of a state and its shape. A block holds qkv, o (attention) and up, down (a squared-ReLU MLP)."""
    d = spec.width
    block = {"qkv": (3 * d, d), "o": (d, d), "up": (4 * d, d), "down": (d, 4 * d), "tau": (spec.heads,)}
    tensors: dict[str, tuple[int, ...]] = {
        "embed": (spec.vocab, d),
        "enter": (d, CELLS),
        "basin.weight": (CELLS, d),
        "basin.bias": (CELLS,),
        "leave": (d, d),
        "bias": (spec.vocab,),
        "coupling": (),
    }
    for layer in range(spec.layers):
        tensors |= {f"blocks.{layer}.{name}": shape for name, shape in block.items()}
    return tensors


def to_bytes(spec: Spec, weights: Weights) -> bytes:
    """Safetensors with float16 tensors (relative rounding error 2^-11) and the spec in the metadata.

    Deterministic: equal weights give equal bytes, in every process.
    """
    check(spec, weights)
    metadata = {"size": spec.size} | {name: str(getattr(spec, name)) for name in _SPEC_FIELDS}
    return _ordered(safetensors.numpy.save({k: weights[k].astype(np.float16) for k in sorted(weights)}, metadata))


def from_bytes(data: bytes) -> tuple[Spec, dict[str, npt.NDArray[np.float32]]]:
    """The inverse of `to_bytes`, as float32. Raises Rejected("bad_weights") on anything that is not a state."""
    try:
        metadata = _metadata(data)
        spec = Spec(metadata["size"], **{name: int(metadata[name]) for name in _SPEC_FIELDS})
        weights = {k: np.asarray(v, np.float32) for k, v in safetensors.numpy.load(data).items()}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise Rejected("bad_weights", f"{len(data)} bytes are not a state's safetensors: {error}") from error
    check(spec, weights)
    return spec, weights


def check(spec: Spec, weights: Weights) -> None:
    """Raises Rejected unless the tensors are exactly those of `spec`, in shape, and finite."""
    expected = shapes(spec)
    if set(weights) != set(expected):
        odd = sorted(set(weights) ^ set(expected))
        raise Rejected("bad_weights", f"tensors missing or unknown for size {spec.size}: {', '.join(odd[:4])}")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise Rejected(
                "bad_weights", f"tensor {name} has shape {weights[name].shape}; size {spec.size} needs {shape}"
            )
        if not np.isfinite(weights[name]).all():
            raise Rejected("bad_weights", f"tensor {name} holds NaN or infinity: the training that made it diverged")


def _ordered(data: bytes) -> bytes:
    """The same file with its header's keys sorted: safetensors writes metadata in an order that changes by the call."""
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True, separators=(",", ":")).encode()
    return data[:8] + header.ljust(start - 8) + data[start:]


def _metadata(data: bytes) -> dict[str, str]:
    """The safetensors header's metadata: an 8-byte length, then JSON (format specification, safetensors 0.x)."""
    size = int.from_bytes(data[:8], "little")
    if size > min(len(data) - 8, HEADER_MAX_BYTES):
        raise ValueError(f"a header of {size} bytes; {HEADER_MAX_BYTES} are allowed, and no more than there are")
    header = json.loads(data[8 : 8 + size])
    metadata: dict[str, str] = header["__metadata__"]
    if not all(isinstance(value, str) for value in metadata.values()):
        raise TypeError("metadata that is no text")  # an int of Infinity were another error than those of text
    return metadata
