"""Genesis from four tiny corpora: a function of the text and the seed, and a constellation that can answer."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from micro import MICRO, SENTENCES
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constants import ROLES
from common.constellation.parts import load
from common.kernels import gate
from services.trainer import recipe
from services.trainer.corpora.document import make
from services.trainer.corpora.split import Split
from services.trainer.recipe import Budget, genesis


def documents(role, seed, count):
    """Texts of a role's own words, in an order of their own."""
    words = SENTENCES[role].split()
    drawn = random.Random(f"{role} {seed}")
    return tuple(make(role, "made", f"{role}-{seed}-{n}", " ".join(drawn.choices(words, k=120))) for n in range(count))


CORPORA = {role: Split(documents(role, 1, 5), documents(role, 2, 2), documents(role, 3, 1)) for role in ROLES}


@pytest.fixture(scope="module")
def made():
    """The same genesis by two processes and by one thread of this one, and what was reported meanwhile."""
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "SIZES", {"tiny": MICRO})
        patch.setattr(recipe.integrator, "STEPS", 5)
        patch.setattr(recipe, "BUDGETS", {"tiny": Budget(seed_steps=6, branch_steps=3, windows=4)})
        first = genesis(CORPORA, "tiny", seed=1, workers=2, progress=lambda stage, done: said.append((stage, done)))
        # A third interpreter that imports torch would cost more than all the training here.
        patch.setattr(recipe, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))
        second = genesis(CORPORA, "tiny", seed=1, workers=1, progress=lambda *_: None)
    return first, second, said


def test_a_genesis_is_the_same_by_two_processes_and_by_one_worker_here(made):
    first, second, _ = made
    assert first.parts == second.parts
    assert first.curves == second.curves


def test_a_genesis_loads_with_a_kernel_for_every_role(made):
    constellation = load(made[0].parts)
    assert set(constellation.domains) == set(ROLES)
    ids = constellation.encoder.encode(CORPORA["heart"].held_out[0].text)
    assert np.isfinite(constellation.bits(ids, "heart"))


def test_the_gates_of_a_genesis_are_distributions_that_were_learned(made):
    for domain in load(made[0].parts).domains.values():
        assert np.allclose(domain.gate_array.sum(1), 1)
        assert (domain.gate_array >= 0).all()
        assert not np.allclose(domain.gate_array, gate.prior(2))


def test_a_genesis_has_a_curve_for_the_seed_for_every_branch_and_for_the_integrator(made):
    curves = made[0].curves
    expected = {"seed": 6, **dict.fromkeys(ROLES, 3), "integrator": 5}
    assert {name: len(points) for name, points in curves.items()} == expected
    assert len({curves[role][0].loss for role in ROLES}) == len(ROLES)


def test_the_branches_part_from_each_other(made):
    paths = [f"kernels/{role}.safetensors" for role in ROLES]
    assert len({made[0].parts[path] for path in paths}) == len(ROLES)


def test_every_stage_reports_that_it_is_done(made):
    assert {stage for stage, done in made[2] if done == 1.0} == {
        "coordizer",
        "memories",
        "seed state",
        "branches",
        "gates",
        "integrator",
    }


def test_each_role_s_text_lies_in_its_own_domain_and_radius(made):
    constellation = load(made[0].parts)
    for role in ROLES:
        found = constellation.route(constellation.basin(constellation.encoder.encode(CORPORA[role].held_out[0].text)))
        assert found.steps[0].name == role
        assert 0 < constellation.domains[role].radius_rad < 1


def test_a_branch_is_a_function_of_its_weights_and_its_plan(made):
    constellation = load(made[0].parts)
    state = constellation.states["vocab"]
    ids = np.concatenate([constellation.encoder.encode(d.text) for d in CORPORA["vocab"].train])
    basins = np.square(state.sqrt_basins)
    runs = [recipe.branch(MICRO, state.weights, ids, basins, recipe.Plan(2, 2, 5)) for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    assert all(np.array_equal(runs[0][0][k], runs[1][0][k]) for k in runs[0][0])
    assert not np.array_equal(runs[0][0]["embed"], state.weights["embed"])
