"""A domain is a basin, its memories and its gate: each field is checked when it is read."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.constellation.domains import FORMER_MAX, MAX_COMPLAINTS, MAX_VALUES, Domain, from_json, heirs, to_json
from common.errors import Rejected
from common.geometry.simplex import uniform
from common.kernels import gate


def domain(**given_fields):
    fields = {
        "name": "d-1",
        "role": "percept",
        "memories": ("percept", "d-1"),
        "basin": tuple(uniform().tolist()),
        "radius_rad": 0.2,
        "bits_per_byte": 2.5,
        "gate": tuple(map(tuple, gate.prior(3).tolist())),
    }
    return Domain(**(fields | given_fields))


def wrong(**fields):
    """domains.json with one domain whose fields are changed on the wire."""
    (row,) = json.loads(to_json((domain(),)))
    return json.dumps([row | fields]).encode()


@settings(max_examples=25)
@given(
    st.integers(0, 99),
    st.integers(1, 4),
    st.none() | st.floats(0, 64),
    st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
)
def test_domains_survive_their_bytes(seed, memories, bits, name):
    basin = np.random.default_rng(seed).dirichlet(np.full(64, 0.3))
    one = domain(
        name=name,
        memories=tuple(f"m-{n}" for n in range(memories)),
        basin=tuple(basin.tolist()),
        bits_per_byte=bits,
        gate=tuple(map(tuple, gate.prior(1 + memories).tolist())),
    )
    (back,) = from_json(to_json((one,)))
    assert back == one
    assert np.array_equal(back.basin_array, basin)
    assert back.gate_array.shape == (gate.BUCKETS, 1 + memories)


ROW = [1 / 3] * 3
REST = [ROW] * (gate.BUCKETS - 1)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"name": "Upper"}, "name"),
        ({"name": "../up"}, "name"),
        ({"name": ""}, "name"),
        ({"role": "poet"}, "role"),
        ({"memories": []}, "memories"),
        ({"memories": ["percept"]}, "gate of d-1"),
        ({"memories": list("abcde")}, "memories"),
        ({"basin": [1 / 63] * 63}, "basin"),
        ({"basin": [0.5] * 64}, "basin"),
        ({"basin": [math.nan] * 64}, "basin"),
        ({"basin": [-1.0, 2.0] + [0.0] * 62}, "basin"),
        ({"radius_rad": -0.1}, "radius_rad"),
        ({"radius_rad": 3.2}, "radius_rad"),
        ({"radius_rad": math.nan}, "radius_rad"),
        ({"bits_per_byte": -0.1}, "bits_per_byte"),
        ({"bits_per_byte": 64.1}, "bits_per_byte"),
        ({"gate": REST}, "gate"),
        ({"gate": [[0.5, 0.5], *REST]}, "gate of d-1"),
        ({"gate": [[0.5, 0.5, 0.1], *REST]}, "gate of d-1"),
        ({"gate": [[1.5, -0.5, 0.0], *REST]}, "gate of d-1"),
        ({"gate": [[math.nan, 0.5, 0.5], *REST]}, "gate of d-1"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_wrong_field_is_named(fields, where):
    with pytest.raises(Rejected, match=where) as error:
        from_json(wrong(**fields))
    assert error.value.code == "bad_domains"


@pytest.mark.parametrize("data", [b"", b"{", b"[{}]", b"null", b'[{"name": 1}]', b"\xff"])
def test_what_is_no_list_of_domains_is_rejected(data):
    with pytest.raises(Rejected, match=r"domains\.json"):
        from_json(data)


@pytest.mark.parametrize(("more", "told"), [(0, "name"), (1, "values")])
def test_so_many_values_are_read_and_no_more(more, told):
    (row,) = json.loads(wrong())
    marks = sum(map(json.dumps([row]).count, ",:[{"))
    data = wrong(name="," * (MAX_VALUES - marks + more))
    with pytest.raises(Rejected, match=told):
        from_json(data)


@pytest.mark.parametrize(
    ("fields", "told"), [(MAX_COMPLAINTS, "Extra inputs"), (MAX_COMPLAINTS + 1, "65 fields are wrong")]
)
def test_of_many_complaints_none_is_looked_at(fields, told):
    with pytest.raises(Rejected, match=told):
        from_json(wrong(**{f"surplus{n}": n for n in range(fields)}))


def test_a_name_given_twice_is_rejected():
    with pytest.raises(Rejected, match="d-1 is there twice"):
        from_json(to_json((domain(), domain(radius_rad=0.3))))


def test_former_names_lead_to_their_heir_and_survive_their_bytes():
    given = (domain(formerly=("d-3", "d-4"), idle=7), domain(name="d-2"))
    back = from_json(to_json(given))
    assert back == given
    assert heirs(back) == {"d-3": "d-1", "d-4": "d-1"}


@pytest.mark.parametrize("formerly", [["d-1"], ["d-2"], ["d-3", "d-3"], ["d-4"]])
def test_a_name_is_one_domain_s_former_ones_too(formerly):
    rows = json.loads(to_json((domain(), domain(name="d-2", formerly=("d-4",)))))
    rows[0]["formerly"] = formerly
    with pytest.raises(Rejected, match="is there twice"):
        from_json(json.dumps(rows).encode())


@pytest.mark.parametrize(("names", "ok"), [(FORMER_MAX, True), (FORMER_MAX + 1, False)])
def test_a_domain_bears_only_so_many_former_names(names, ok):
    data = wrong(formerly=[f"d-x{n}" for n in range(names)])
    if ok:
        assert len(from_json(data)[0].formerly) == names
    else:
        with pytest.raises(Rejected):
            from_json(data)


def test_what_never_ended_anything_is_written_as_before():
    (row,) = json.loads(to_json((domain(),)))
    assert row.keys() == {"name", "role", "memories", "basin", "radius_rad", "bits_per_byte", "gate"}
