"""A constellation as parts: what loads can answer, and what does not is named."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from micro import MICRO

from common.constants import ROLES
from common.constellation import parts as room
from common.constellation.parts import HOMES, domains_part, homes_part, integrator_part, kernel_part, load, memory_part
from common.errors import Corrupt, QigError, Rejected
from common.geometry.simplex import uniform
from common.kernels import memory, weights
from common.kernels.spec import Spec

PATHS = [
    *(f"coordizer/{name}" for name in ("vocab.json", "merge_rules.json", "basin_coords.npy", "manifest.json")),
    *(f"kernels/{role}.safetensors" for role in ROLES),
    *(f"memories/{role}.bin" for role in ROLES),
    "domains.json",
    "homes.npy",
    "integrator.safetensors",
]


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_the_parts_of_a_constellation_are_the_ones_the_layout_draws(micro_parts):
    assert sorted(micro_parts) == sorted(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_a_missing_part_is_named(micro_parts, path):
    with pytest.raises(Rejected, match=path.rpartition("/")[2]):
        load({p: data for p, data in micro_parts.items() if p != path})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("damage", [b"", b"\x00", b"PK\x03\x04 not a zip", b"[" * 3000, b"{}", b"\xff" * 200])
def test_a_part_that_is_something_else_is_named(micro_parts, path, damage):
    with pytest.raises(QigError, match=path.rpartition("/")[2]):
        load({**micro_parts, path: damage})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kept", [1, 100, -2])
def test_a_truncated_part_is_named(micro_parts, path, kept):
    with pytest.raises(QigError, match=path.rpartition("/")[2]):
        load({**micro_parts, path: micro_parts[path][:kept]})


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(PATHS), st.floats(0, 0.999), st.integers(1, 255))
def test_a_flipped_byte_loads_or_is_refused_but_never_crashes(micro_parts, path, where, flip):
    data = bytearray(micro_parts[path])
    data[int(where * len(data))] ^= flip
    said = ""
    try:
        load({**micro_parts, path: bytes(data)})
    except QigError as error:
        said = error.message
    assert not said or path.rpartition("/")[2] in said


def test_a_coordizer_that_is_not_what_its_manifest_promises_is_corrupt(micro_parts):
    path = "coordizer/merge_rules.json"
    with pytest.raises(Corrupt, match=r"merge_rules\.json"):
        load({**micro_parts, path: micro_parts[path] + b" "})


@pytest.mark.parametrize(
    "array",
    [
        np.full((3, 64), 1 / 64),
        np.full((4, 64), 1 / 64, np.float32),
        np.full((4, 64), 0.5),
        np.full((4, 64), np.nan),
        np.asfortranarray(np.full((4, 64), 1 / 64)),
    ],
    ids=["shape", "type", "sum", "nan", "order"],
)
def test_homes_that_are_no_four_basins_are_rejected(micro_parts, array):
    with pytest.raises(Rejected, match=r"part homes\.npy"):
        load({**micro_parts, HOMES: npy(array)})


def test_homes_with_a_forged_shape_allocate_nothing(micro_parts):
    forged = micro_parts[HOMES].replace(b"(4, 64)", b"(4, 6400000000)".ljust(7))
    with pytest.raises(Rejected, match=r"part homes\.npy"):
        load({**micro_parts, HOMES: forged})


def test_a_state_that_holds_nan_is_rejected_by_name(micro_parts):
    spec, tensors = weights.from_bytes(micro_parts["kernels/percept.safetensors"])
    raw = micro_parts["kernels/percept.safetensors"]
    half = np.frombuffer(raw[-2:], np.float16)
    assert np.isfinite(half).all()
    assert spec == MICRO
    assert tensors
    with pytest.raises(Rejected, match=r"part kernels/percept\.safetensors.* NaN"):
        load({**micro_parts, "kernels/percept.safetensors": raw[:-2] + np.float16(np.nan).tobytes()})


def test_states_of_different_vocabularies_are_rejected(micro_parts):
    other = Spec("micro", vocab=300, width=24, layers=1, loops=2, heads=2, context=32)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in weights.shapes(other).items()}
    with pytest.raises(Rejected, match=r"vocabularies \[300, 320\]"):
        load(micro_parts | kernel_part("heart", other, tensors))


def test_a_memory_with_a_token_outside_the_vocabulary_is_rejected_by_name(micro_parts):
    beyond = memory.count([np.array([MICRO.vocab], np.int32)])
    with pytest.raises(Rejected, match=r"part memories/vocab\.bin.* 320"):
        load(micro_parts | memory_part("vocab", beyond))


def test_loading_and_writing_again_gives_the_same_bytes(micro, micro_parts):
    again = room.coordizer_parts(micro.coordizer) | domains_part(micro.domains) | homes_part(micro.homes)
    again |= integrator_part(micro.integrator)
    for role in ROLES:
        again |= kernel_part(role, micro.states[role].spec, micro.states[role].weights)
        again |= memory_part(role, micro.memories[role])
    assert again == dict(micro_parts)


def test_what_is_the_same_as_in_one_that_is_known_is_taken_from_it_and_nothing_else(micro, micro_parts):
    state, counted = micro.states["heart"], memory.count([np.array([5, 6, 7, 5, 6], np.int32)])
    half = {name: np.asarray(each / 2) for name, each in state.weights.items()}
    parts = micro_parts | kernel_part("heart", state.spec, half) | memory_part("vocab", counted)
    found = load(parts, micro)
    assert {role for role in ROLES if found.states[role] is micro.states[role]} == {*ROLES} - {"heart"}
    assert {name for name in ROLES if found.memories[name] is micro.memories[name]} == {*ROLES} - {"vocab"}
    assert found.encoder is micro.encoder
    again = memory_part("vocab", found.memories["vocab"]) | kernel_part(
        "heart", state.spec, found.states["heart"].weights
    )
    assert again == {path: parts[path] for path in again}


def test_a_state_that_differs_in_the_sign_of_a_zero_is_another_state(micro, micro_parts):
    state = micro.states["heart"]
    zeros = {name: np.zeros_like(each) for name, each in state.weights.items()}
    known = load(micro_parts | kernel_part("heart", state.spec, zeros))
    negative = {name: np.asarray(-each) for name, each in zeros.items()}
    other = load(micro_parts | kernel_part("heart", state.spec, negative), known)
    assert other.states["heart"] is not known.states["heart"]
    assert other.states["vocab"] is known.states["vocab"]


def test_a_state_over_other_tokens_is_another_state(micro, micro_parts):
    basins = np.ascontiguousarray(micro.coordizer.basins[:, ::-1])
    other = room.coordizer_parts(replace(micro.coordizer, basins=basins))
    found = load(micro_parts | other, micro)
    assert not any(found.states[role] is micro.states[role] for role in ROLES)
    assert all(found.memories[name] is micro.memories[name] for name in ROLES)


def test_equal_weights_give_equal_bytes_each_time(micro):
    state = micro.states["vocab"]
    assert len({kernel_part("vocab", state.spec, state.weights)["kernels/vocab.safetensors"] for _ in range(8)}) == 1


def test_homes_come_back_in_the_order_of_the_roles(micro_parts):
    homes = {role: np.roll(np.eye(64)[0] * 0.5 + uniform() * 0.5, n) for n, role in enumerate(ROLES)}
    back = load(micro_parts | homes_part(homes)).homes
    assert all(np.array_equal(back[role], homes[role]) for role in ROLES)
