"""From what a state holds to the next token's cross-entropy, without ever holding a batch's logits.

The logits of a batch are its largest tensor by far: written and read whole, they cost more than all else of a step.
Some places at a time stay in the processor's caches, and their gradient is taken while they are there (as in Liger
Kernel, Hsu et al. 2024).
"""

from typing import Any, Final

import torch
from torch import Tensor

PLACES: Final = 256  # at a time: 128 to 256 are equally fast, more leave the caches
LEAST: Final = 1e-37  # a probability's logarithm is taken of this at least


def cross_entropy(
    features: Tensor, table: Tensor, fixed: Tensor, bias: Tensor, following: Tensor, product: torch.dtype
) -> Tensor:
    """Mean nats a token of softmax([table fixed] features + bias) at the tokens `following`; differentiable once.

    features (N, K+F), table (V, K), fixed (V, F) without a gradient, F >= 0, bias (V,), following (N,) ids. product:
    the type of what is multiplied and of the logits; sums are float32.
    """
    nats: Tensor = _CrossEntropy.apply(features, table, fixed, bias, following, product)  # type: ignore[no-untyped-call]
    return nats


class _CrossEntropy(torch.autograd.Function):
    """The gradients are taken on the way forward: nothing else needs the logits."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, table: Tensor, fixed: Tensor, bias: Tensor, following: Tensor, product: torch.dtype
    ) -> Tensor:
        x, rows, shift = features.to(product), torch.cat([table, fixed], 1).to(product), bias.to(product)
        nats, d_bias, d_table = x.new_zeros((), dtype=torch.float32), torch.zeros_like(bias), torch.zeros_like(table)
        d_x, d_some = torch.empty_like(x), torch.empty_like(table, dtype=product)
        # Made once: fresh memory of this size comes from the system page by page, at the price of a product.
        logits = x.new_empty(PLACES, len(rows))
        shares = torch.empty_like(logits, dtype=torch.promote_types(product, torch.float32))
        for start in range(0, len(x), PLACES):
            some, own = x[start : start + PLACES], following[start : start + PLACES, None]
            z, p = logits[: len(some)], shares[: len(some)]
            torch.addmm(shift, some, rows.T, out=z)
            torch.softmax(z, -1, dtype=p.dtype, out=p)
            nats -= p.gather(1, own).clamp_min(LEAST).log().sum()
            error = z.copy_(p.scatter_add_(1, own, p.new_full(own.shape, -1.0)))
            torch.mm(error, rows, out=d_x[start : start + PLACES])
            d_table += torch.mm(error.T, some[:, : table.shape[1]], out=d_some)
            d_bias += error.sum(0, dtype=d_bias.dtype)
        ctx.save_for_backward(d_x, d_table, d_bias)
        return nats / len(x)

    @staticmethod
    def backward(ctx: Any, asked: Tensor) -> tuple[Tensor | None, ...]:
        d_x, d_table, d_bias = ctx.saved_tensors
        share = asked / len(d_x)
        return d_x.to(d_table.dtype) * share, d_table * share, None, d_bias * share, None, None
