"""Genesis from four tiny corpora: a function of the text and the seed, and a constellation that can answer."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from micro import MICRO, SENTENCES
from trainer_runs import one_thread  # noqa: F401 - a fixture

from common.constants import ROLES
from common.constellation.parts import load
from common.coordizer.build import build
from common.errors import Rejected, Unavailable
from common.geometry.means import frechet_mean
from common.geometry.simplex import distance
from common.kernels import gate
from services.trainer import curves, guards, recipe
from services.trainer.corpora.document import make
from services.trainer.corpora.split import Split
from services.trainer.recipe import Budget, genesis


def documents(role, seed, count):
    """Texts of a role's own words, in an order of their own."""
    words = SENTENCES[role].split()
    drawn = random.Random(f"{role} {seed}")
    return tuple(make(role, "made", f"{role}-{seed}-{n}", " ".join(drawn.choices(words, k=120))) for n in range(count))


CORPORA = {role: Split(documents(role, 1, 5), documents(role, 2, 2), documents(role, 3, 1)) for role in ROLES}


BUDGET = Budget(seed_steps=6, branch_steps=3, windows=4, text_bytes=1 << 20, saved_bits=0.0)


@pytest.fixture(scope="module", autouse=True)
def small_enough():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "SIZES", {"tiny": MICRO})
        patch.setattr(recipe, "BUDGETS", {"tiny": BUDGET})
        patch.setattr(recipe.integrator, "STEPS", 30)
        yield


def here(monkeypatch):
    """Branches in threads of this process: another interpreter that imports torch would cost more than all training."""
    monkeypatch.setattr(recipe, "ProcessPoolExecutor", lambda workers, **_: ThreadPoolExecutor(workers))


def start(folder, **changed):
    options = {"seed": 1, "workers": 1, "progress": lambda *_: None} | changed
    return genesis(CORPORA, "tiny", folder=folder, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same genesis by two processes and by one thread of this one, and what was reported meanwhile."""
    said, folders = [], [tmp_path_factory.mktemp(name) for name in ("processes", "thread")]
    first = start(folders[0], workers=2, progress=lambda stage, done: said.append((stage, done)))
    with pytest.MonkeyPatch.context() as patch:
        here(patch)
        second = start(folders[1])
    return first, second, said, folders


def test_a_genesis_is_the_same_by_two_processes_and_by_one_worker_here(made):
    first, second, _, folders = made
    assert first == second
    assert curves.read(folders[0]) == curves.read(folders[1])


def test_a_genesis_loads_with_a_kernel_for_every_role(made):
    constellation = load(made[0])
    assert set(constellation.domains) == set(ROLES)
    ids = constellation.encoder.encode(CORPORA["heart"].held_out[0].text)
    assert np.isfinite(constellation.bits(ids, "heart"))


def test_the_gates_of_a_genesis_are_distributions_that_were_learned(made):
    for domain in load(made[0]).domains.values():
        assert np.allclose(domain.gate_array.sum(1), 1)
        assert (domain.gate_array >= 0).all()
        assert not np.allclose(domain.gate_array, gate.prior(2))


def test_a_genesis_leaves_a_curve_of_the_seed_of_every_branch_and_of_the_integrator(made):
    found = curves.read(made[3][0])
    assert {name: len(points) for name, points in found.items()} == {
        "seed": 6,
        **dict.fromkeys(ROLES, 3),
        "integrator": 30,
    }
    assert len({found[role][0].loss for role in ROLES}) == len(ROLES)


def test_the_branches_part_from_each_other(made):
    paths = [f"kernels/{role}.safetensors" for role in ROLES]
    assert len({made[0][path] for path in paths}) == len(ROLES)


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
    constellation = load(made[0])
    for role in ROLES:
        found = constellation.route(constellation.basin(constellation.encoder.encode(CORPORA[role].held_out[0].text)))
        assert found.steps[0].name == role
        assert 0 < constellation.domains[role].radius_rad < 1


def test_a_genesis_killed_among_its_branches_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    here(monkeypatch)
    whole = recipe.run

    def dies(job, name, *arguments):
        if name == "percept":
            raise KeyboardInterrupt
        return whole(job, name, *arguments)

    monkeypatch.setattr(recipe, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path)
    assert not (tmp_path / "percept.safetensors").exists()
    monkeypatch.setattr(recipe, "run", whole)
    seed = (tmp_path / "seed.jsonl").read_text()
    assert start(tmp_path) == made[0]
    assert (tmp_path / "seed.jsonl").read_text().rstrip() == seed.rstrip()  # the seed was not trained again


@pytest.mark.parametrize("changed", [{"seed": 2}, {"coordizer": "another"}])
def test_a_folder_of_another_genesis_is_refused(made, tmp_path, changed):
    if "coordizer" in changed:
        texts = [(role, document.text) for role in ROLES for document in CORPORA[role].validation]
        changed = {"coordizer": build(texts, vocab_size=MICRO.vocab, seed=1)}
    (tmp_path / "run.json").write_bytes((made[3][0] / "run.json").read_bytes())
    with pytest.raises(Rejected, match=r"holds another genesis .* delete it to train anew") as error:
        start(tmp_path, **changed)
    assert error.value.code == "other_run"


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="for checkpoints"):
        start(tmp_path / "file")


def test_a_given_coordizer_is_cut_to_the_size_and_kept(tmp_path, monkeypatch):
    here(monkeypatch)
    large = build([(role, document.text) for role in ROLES for document in CORPORA[role].train], vocab_size=340, seed=4)
    constellation = load(start(tmp_path, coordizer=large))
    assert constellation.coordizer.vocab_size == MICRO.vocab
    assert np.array_equal(constellation.coordizer.basins, large.basins[: MICRO.vocab])


def test_a_run_that_the_guards_end_stops_the_genesis_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(guards, "DIVERGENCE_FACTOR", 0.1)
    with pytest.raises(Rejected, match=r"training of seed ended at step 1: the loss .* is over") as error:
        start(tmp_path)
    assert error.value.code == "guard_stopped"
    assert curves.read(tmp_path)["seed"][-1].verdict == "RESTORE"


def test_sources_weigh_the_same_in_a_basin_whatever_their_size():
    text = recipe._Text([np.arange(3), np.arange(4), np.arange(5)], ["large", "small", "large"], [], 0)
    assert [[len(ids) for ids in own] for own in text.by_source()] == [[3, 5], [4]]


def basin_at(*cells):
    found = np.full(64, 0.2 / 64)
    found[list(cells)] += 0.8 / len(cells)
    return found


def text_of(*tokens):
    """A role's text of one document a source, the documents of one token each."""
    return recipe._Text([np.array([t], np.int32) for t in tokens], [f"source-{t}" for t in tokens], [], 0)


def test_a_role_s_centre_lies_nearer_to_the_source_that_is_nearest_to_another_role():
    # tokens 0 and 1: percept's sources; 1 shares a cell with strategy's token 2
    points = [basin_at(0), basin_at(1, 8), basin_at(8), basin_at(20), basin_at(30)]
    table = np.sqrt(np.array(points)).astype(np.float32)
    texts = {"vocab": text_of(3), "strategy": text_of(2), "percept": text_of(0, 1), "heart": text_of(4)}
    found = recipe.centres(texts, table)
    own, others = np.array(points[:2]), np.array([points[2], points[3], points[4]])
    margins = distance(own[:, None], others[None]).min(1) - distance(own, found["percept"])
    even = frechet_mean(own)
    fair = distance(own[:, None], others[None]).min(1) - distance(own, even)
    assert margins.min() > fair.min() + 0.05
    assert margins[0] == pytest.approx(margins[1], abs=0.02)
    assert distance(found["heart"], points[4]) < 1e-3
