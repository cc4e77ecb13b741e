"""Two processes train as one on the same batch, within rounding, and end with equal weights."""

import socket
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from trainer_runs import BASINS, PLAN, TEXT, micro_model, one_thread, same, start, tensors_of  # noqa: F401

from common.errors import Rejected
from services.trainer.loop import train
from services.trainer.team import ALONE, Team, join


def member(environ, checkpoint):
    """One rank of a team: its curve, its weights, and the moment of a tensor that only it knows."""
    torch.set_num_threads(1)
    with join(environ) as team:
        model = micro_model()
        points = list(train(model, TEXT, BASINS, PLAN, team=team, checkpoint=checkpoint))
        own = torch.tensor(float(team.rank), requires_grad=True)
        mean = team.mean(own)
        (mean**2).backward()
        return points, tensors_of(model), float(mean.detach()), float(own.grad)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("team"), str(free_port())
    environs = [
        {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for rank in range(2)
    ]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        members = list(pool.map(member, environs, [folder / "0.safetensors", folder / "1.safetensors"]))
    return members, folder


def test_both_processes_end_with_the_same_weights_and_the_same_curve(pair):
    (first, second), _ = pair
    assert first[0] == second[0]
    assert same(first[1], second[1])


def test_two_processes_equal_one_of_the_same_batch_within_rounding(pair):
    (first, _), _ = pair
    model = micro_model()
    alone = list(start(model))
    # Muon orthogonalises in bfloat16: what is rounding in the first steps grows a hundredfold in 25.
    for points, loss, phi in ((4, 1e-5, 1e-4), (25, 3e-3, 1e-2)):
        assert [p.loss for p in first[0][:points]] == pytest.approx([p.loss for p in alone[:points]], abs=loss)
        assert [p.phi for p in first[0][:points]] == pytest.approx([p.phi for p in alone[:points]], abs=phi)
    for name, value in tensors_of(model).items():
        assert np.abs(value - first[1][name]).max() < 2e-2, name


def test_the_geometric_loss_sees_the_whole_batch_and_not_the_mean_of_two_halves(pair):
    halves = [list(start(micro_model(), PLAN, team=_Half(rank)))[-1].phi for rank in range(2)]
    assert abs(np.mean(halves) - pair[0][0][0][-1].phi) > 0.01


def test_only_the_first_process_writes_the_checkpoint(pair):
    assert [path.name for path in pair[1].iterdir()] == ["0.safetensors"]


def test_a_mean_over_processes_is_differentiated_as_one(pair):
    # mean of 0 and 1; d(mean^2)/d own = 2 mean / 2 asked for by both processes, so 2 mean in all
    assert [(mean, gradient) for _, _, mean, gradient in pair[0]] == [(0.5, 1.0), (0.5, 1.0)]


@pytest.mark.parametrize("windows", [1, 2, 3, 4])
def test_a_batch_that_cannot_be_shared_evenly_is_rejected(windows):
    team = Team(1, 2, torch.device("cpu"))
    if windows % 2 == 0:
        assert team.share(windows) == slice(windows // 2, windows)
        return
    with pytest.raises(Rejected, match=f"{windows} windows a step for 2 processes"):
        team.share(windows)


def test_alone_a_mean_is_the_value_itself():
    value = torch.ones(3)
    assert ALONE.mean(value) is value


def test_without_torchrun_there_is_one_process():
    with join({}) as team:
        assert (team.rank, team.size) == (0, 1)


class _Half(Team):
    """A process that reads its half of each batch and never hears of the other."""

    def __init__(self, rank):
        super().__init__(rank, 1, torch.device("cpu"))

    def share(self, windows):
        return slice(self.rank * windows // 2, (self.rank + 1) * windows // 2)
