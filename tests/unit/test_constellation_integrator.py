"""The integrator: four basins to one, without a memory, and a part that is checked."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy

from common.constants import ROLES
from common.constellation.integrator import SHAPES, Integrator, from_bytes, to_bytes
from common.errors import Rejected
from common.geometry.simplex import check_simplex, uniform


def drawn(seed, scale=0.3):
    rng = np.random.default_rng(seed)
    home = rng.dirichlet(np.ones(64))
    return Integrator({k: rng.normal(0, scale, s).astype(np.float32) for k, s in SHAPES.items()}, home)


def voices(seed, *shape):
    return np.random.default_rng(seed).dirichlet(np.full(64, 0.5), (*shape, len(ROLES)))


@pytest.mark.parametrize("shape", [(), (5,), (3, 7)])
def test_four_basins_make_one_basin_whatever_stands_before(shape):
    found = drawn(0).basin(voices(1, *shape))
    assert found.shape == (*shape, 64)
    check_simplex(found)


def test_a_basin_depends_on_its_own_token_alone():
    together, members = drawn(2), voices(3, 20)
    order = np.random.default_rng(4).permutation(20)
    assert together.basin(members)[order] == pytest.approx(together.basin(members[order]), rel=1e-12)


@pytest.mark.parametrize("place", range(4))
def test_every_member_is_heard(place):
    together, members = drawn(5), voices(6, 4)
    changed = members.copy()
    changed[:, place] = uniform()
    assert np.abs(together.basin(changed) - together.basin(members)).max() > 1e-3


def test_members_are_told_apart():
    members = voices(7, 4)
    assert not np.allclose(drawn(8).basin(members), drawn(8).basin(members[:, ::-1]))


def test_what_is_stored_comes_back_as_float16_holds_it_and_then_stays():
    made = drawn(9)
    back = from_bytes(to_bytes(made))
    assert back.home == pytest.approx(made.home, abs=1e-4)
    assert all(back.weights[k] == pytest.approx(made.weights[k], rel=2**-11, abs=1e-7) for k in SHAPES)
    assert to_bytes(back) == to_bytes(made)


def stored(**changes):
    tensors = {k: v.astype(np.float16) for k, v in drawn(10).weights.items()} | {"home": np.full(64, 1 / 64, "f2")}
    return safetensors.numpy.save({k: v for k, v in (tensors | changes).items() if v is not None})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"home": None}, "home is missing"),
        ({"home": np.full(64, 1 / 64, np.float32)}, "home is float32"),
        ({"home": np.full(63, 1 / 63, np.float16)}, r"home is float16 \(63,\)"),
        ({"home": np.full(64, 1 / 32, np.float16)}, "off_simplex"),
        ({"leave.bias": None}, "missing or unknown: leave.bias"),
        ({"extra": np.zeros(1, np.float16)}, "missing or unknown: extra"),
        ({"leave.bias": np.zeros(65, np.float16)}, r"leave.bias has shape \(65,\)"),
        ({"enter.bias": np.full(128, np.nan, np.float16)}, "enter.bias holds NaN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_are_no_integrator_are_rejected_with_what_is_wrong(change, said):
    with pytest.raises(Rejected, match=said):
        from_bytes(stored(**change))


@pytest.mark.parametrize("data", [b"", b"\x00" * 16, b"\xff" * 64, b"{}"])
def test_bytes_that_are_no_tensors_are_rejected(data):
    with pytest.raises(Rejected, match="bad_integrator"):
        from_bytes(data)


def test_a_home_off_the_simplex_is_rejected_when_made():
    with pytest.raises(Rejected, match="off_simplex"):
        replace(drawn(11), home=np.full(64, 0.1))
