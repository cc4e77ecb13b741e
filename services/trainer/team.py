"""Processes that train one model together: each reads its share of every batch, and all take the same step.

    torchrun --nproc-per-node 2 .venv/bin/qig train ...       rank 0 speaks and writes; all end with equal weights

What is a mean over the batch's tokens is a mean of the processes' means, because their shares are equal. What is not
(phi, a function of the whole batch's second moments) takes the mean of the moments, so that two processes train as one
on the same batch, but for rounding.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from common.errors import Rejected


@dataclass(frozen=True, slots=True)
class Team:
    """rank: 0 to size-1; device: where this process computes."""

    rank: int
    size: int
    device: torch.device

    def share(self, windows: int) -> slice:
        """This process's part of a batch of so many windows. Raises Rejected("bad_batch_size") unless all are equal."""
        if windows % self.size:
            raise Rejected("bad_batch_size", f"{windows} windows a step for {self.size} processes: choose a divisor")
        own = windows // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes, the same in each; differentiable."""
        mean: Tensor = value if self.size == 1 else _Mean.apply(value)  # type: ignore[no-untyped-call]  # torch's own
        return mean

    def together(self, model: nn.Module) -> nn.Module:
        """The model as it is called in training: its gradients are means over all processes after `backward`."""
        return model if self.size == 1 else nn.parallel.DistributedDataParallel(model)


ALONE: Final = Team(0, 1, torch.device("cpu"))


@contextmanager
def join(environ: Mapping[str, str]) -> Iterator[Team]:
    """The team that torchrun names in the environment; one process on the best device there is without it."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if "WORLD_SIZE" not in environ:
        yield Team(0, 1, device)
        return
    where = f"tcp://{environ['MASTER_ADDR']}:{environ['MASTER_PORT']}"
    size, rank = int(environ["WORLD_SIZE"]), int(environ["RANK"])
    dist.init_process_group("nccl" if cuda else "gloo", init_method=where, world_size=size, rank=rank)
    try:
        yield Team(rank, size, device)
    finally:
        dist.destroy_process_group()


class _Mean(torch.autograd.Function):
    """Mean over processes; its gradient is the sum of what all processes ask for, over their number."""

    @staticmethod
    def forward(_: torch.autograd.function.FunctionCtx, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(_: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        mean: Tensor = _Mean.apply(gradient)  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        return mean
