"""A run on disk: all that a killed run needs to go on bit for bit, in one safetensors file with a digest of its own."""

import contextlib
import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from common.errors import Corrupt, Unavailable
from services.trainer import guards
from services.trainer.model import StateModel

Snapshot = tuple[dict[str, Tensor], dict[str, str]]  # tensors under flat names, the rest as strings


@dataclass(slots=True)
class Run:
    """All that a checkpoint holds. optimisers: each with its peak rate."""

    model: StateModel
    optimisers: list[tuple[torch.optim.Optimizer, float]]
    reference: Tensor | None = None
    guard: guards.Guard = field(default_factory=guards.Guard)
    step: int = 0


def snapshot(run: Run) -> Snapshot:
    """The two halves of a safetensors file, detached from the run."""
    tensors = {f"model/{k}": v.detach().clone() for k, v in run.model.tensors.items()}
    for number, (optimiser, _) in enumerate(run.optimisers):
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{index}/{k}": torch.as_tensor(v).clone() for k, v in state.items()}
    if run.reference is not None:
        tensors["reference"] = run.reference.clone()
    return tensors, {"step": str(run.step), "guard": json.dumps(dataclasses.asdict(run.guard))}


def _digest(tensors: dict[str, Tensor], scalars: dict[str, str]) -> str:
    """Sha256 over all that a checkpoint holds: safetensors itself checks the layout only."""
    found = hashlib.sha256(f"{scalars['step']} {scalars['guard']}\n".encode())
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)}\n".encode() + tensors[name].cpu().numpy().tobytes())
    return found.hexdigest()


def restore(run: Run, tensors: dict[str, Tensor], scalars: dict[str, str]) -> None:
    """Puts the run back where the snapshot was taken."""
    with torch.no_grad():
        for name, parameter in run.model.tensors.items():
            parameter.copy_(tensors[f"model/{name}"])
    for number, (optimiser, _) in enumerate(run.optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, *where = name.split("/")
            if kind == "optimiser" and int(where[0]) == number:
                state.setdefault(int(where[1]), {})[where[2]] = value.clone()
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    reference = tensors.get("reference")
    run.reference = None if reference is None else reference.to(next(run.model.parameters()).device)
    run.step, run.guard = int(scalars["step"]), guards.Guard(**json.loads(scalars["guard"]))


def save(found: Snapshot, path: Path) -> None:
    """Atomic: a crash leaves the old file or the new one, never half of one. Raises Unavailable("checkpoint")."""
    staged = path.with_suffix(".part")
    tensors, scalars = found
    try:
        with staged.open("wb") as file:
            file.write(safetensors.torch.save(tensors, scalars | {"sha256": _digest(tensors, scalars)}))
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)  # half a file on a full disk helps nobody
        raise Unavailable(
            "checkpoint", f"can't write {path}: {error.strerror}. Free some space and run again: it resumes"
        ) from error


def load(run: Run, path: Path) -> None:
    """Restores the run from a file. Raises Unavailable("checkpoint"), Corrupt("checkpoint")."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
            scalars = file.metadata()
        _check(run, tensors, scalars)
        restore(run, tensors, scalars)
    except OSError as error:
        raise Unavailable("checkpoint", f"can't read {path}: {error.strerror}; check its permissions") from error
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise Corrupt(
            "checkpoint", f"{path} is not a checkpoint of this run ({error}): delete it to start again"
        ) from error


def _check(run: Run, tensors: dict[str, Tensor], scalars: dict[str, str]) -> None:
    """Raises ValueError unless the file is whole and of a model like this one."""
    if scalars["sha256"] != _digest(tensors, scalars):
        raise ValueError("its digest does not fit")
    for name, parameter in run.model.tensors.items():
        if (shape := tensors[f"model/{name}"].shape) != parameter.shape:
            raise ValueError(f"{name} has shape {tuple(shape)}, not {tuple(parameter.shape)}")
