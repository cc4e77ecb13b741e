"""New territory: named alike whatever order packets come in, and opened once."""

import random

import numpy as np
import pytest
from aggregator_packets import BASES, KEYS, NODES, ROLE_BASINS, base, domain, ledger, packet, peak

from common.errors import Corrupt
from common.geometry.simplex import distance, slerp
from common.wire.fields import MAX_DOMAINS
from common.wire.packet import key_id
from services.aggregator.cut import _read
from services.aggregator.territories import (
    LINK_RADIUS_RAD,
    known_places,
    linked,
    opened_place,
    settle,
    unpack_place,
)

FAR = peak(60)


def away(basin, rad, towards=63):
    """The point `rad` from a basin on the geodesic to a far corner."""
    end = peak(towards, 0.9)
    return slerp(basin, end, rad / float(distance(basin, end)))


def waiting(*raws, bases=BASES):
    read, refused = _read(ledger(*raws), bases)
    assert not refused
    return sorted(read, key=lambda one: one.ref)


def homes(packets, current=BASES[-1], pending=None):
    members = settle(packets, current, pending or {}).members
    return {name: len(some) for name, some in members.items()}


def test_a_packet_belongs_to_the_domain_it_names_wherever_its_basin_is():
    assert homes(waiting(packet(domain="heart", kernel="heart", at=FAR))) == {"heart": 1}


def test_new_territory_is_not_given_back_to_a_domain_that_its_edge_knew():
    near_percept = away(ROLE_BASINS["percept"], 0.1)
    (name,) = homes(waiting(packet(domain=None, at=near_percept)))
    assert name.startswith("d-")
    assert len(name) == 10


@pytest.mark.parametrize(("rad", "joins"), [(0.19, True), (0.21, False)])
def test_new_territory_joins_a_domain_that_a_newer_bundle_opened_within_its_radius(rad, joins):
    current = base(7, domain("d-00c0ffee", FAR))
    raw = packet(domain=None, at=away(FAR, rad))
    found = homes(waiting(raw, bases=(*BASES[1:], current)), current)
    assert (found == {"d-00c0ffee": 1}) is joins


@pytest.mark.parametrize(("rad", "joins"), [(0.97, True), (1.03, False)])
def test_new_territory_joins_what_an_earlier_batch_opened_until_a_bundle_brings_it(rad, joins):
    pending = {"d-11111111": opened_place("d-11111111", "percept", FAR, BASES[-1])}
    found = homes(waiting(packet(domain=None, at=away(FAR, rad * LINK_RADIUS_RAD))), pending=pending)
    assert (found == {"d-11111111": 1}) is joins


def test_a_domain_that_the_bundle_has_no_more_is_new_territory_again():
    old = base(5, domain("d-22222222", FAR))
    bases = (BASES[0], old, BASES[2])
    (name,) = homes(waiting(packet(domain="d-22222222", on=old, at=FAR), bases=bases))
    assert name not in {"d-22222222", "percept"}


@pytest.mark.parametrize("heir", ["d-33333333", "percept"])
def test_a_packet_of_a_domain_that_has_ended_since_goes_to_its_heir(heir):
    old = base(5, domain("d-22222222", FAR))
    grown = domain(heir, ROLE_BASINS["percept"]).model_copy(update={"formerly": ("d-22222222",)})
    current = base(6, grown)
    raw = packet(domain="d-22222222", on=old, at=FAR)
    assert homes(waiting(raw, bases=(BASES[0], old, current)), current) == {heir: 1}


def test_the_name_of_a_domain_that_has_ended_is_not_given_again():
    (name,) = homes(waiting(packet(domain=None, at=FAR)))
    current = base(6, domain("d-33333333", peak(33)).model_copy(update={"formerly": (name,)}))
    raw = packet(domain=None, on=current, at=FAR)
    (again,) = homes(waiting(raw, bases=(current,)), current)
    assert len(again) == len(name) + 1
    assert again.startswith(name)


def test_groups_are_chains_of_near_neighbours_in_any_order_of_packets():
    chain = [away(FAR, n * 0.9 * LINK_RADIUS_RAD) for n in range(4)]
    lone = peak(33)
    raws = [packet(key=n, domain=None, at=at) for n, at in enumerate([*chain, lone])]
    groups = [[one.ref for one in group] for group in linked(waiting(*raws))]
    assert sorted(map(len, groups)) == [1, 4]
    for seed in range(5):
        random.Random(seed).shuffle(raws)
        assert [[one.ref for one in group] for group in linked(waiting(*raws))] == groups


def test_a_domain_is_opened_in_the_middle_of_its_group_with_the_role_most_packets_name():
    roles = ["heart", "vocab", "heart", "vocab", "strategy"]
    raws = [packet(key=n, domain=None, kernel=role, at=FAR) for n, role in enumerate(roles)]
    settled = settle(waiting(*raws), BASES[-1], {})
    (name,), places = settled.members, settled.places
    assert places[name].role == "vocab"  # as often as heart, and before it among the roles
    assert float(distance(places[name].basin, FAR)) < 0.02
    assert (places[name].opened, places[name].experts) == (True, 3)


def test_a_node_with_many_packets_has_one_voice_in_where_a_domain_lies_and_whose_it_is():
    honest = [packet(key=n, domain=None, kernel="percept", at=FAR) for n in range(3)]
    lies = [packet(key=3, sequence=n, domain=None, kernel="heart", at=away(FAR, 0.14)) for n in range(1, 9)]
    nodes = {**NODES, key_id(KEYS[4].verify_key): "edge-3"}  # it holds a second key
    lies.append(packet(key=4, domain=None, kernel="heart", at=away(FAR, 0.14)))
    settled = settle(waiting(*honest, *lies), BASES[-1], {}, nodes=nodes)
    (name,) = settled.members
    assert settled.places[name].role == "percept"
    assert float(distance(settled.places[name].basin, FAR)) < 0.02


@pytest.mark.parametrize(("known", "refused"), [(MAX_DOMAINS - 1, 1), (MAX_DOMAINS, 2)])
def test_when_no_more_domains_can_be_opened_new_territory_is_refused(known, refused):
    many = [domain(f"d-{n:08x}", peak(5, 0.9)) for n in range(known - 4)]
    current = base(6, *many)
    raws = [packet(on=current, key=0, domain=None, at=FAR), packet(on=current, key=1, domain=None, at=peak(33))]
    settled = settle(waiting(*raws, bases=(current,)), current, {})
    assert len(settled.crowded) == refused
    assert len(settled.places) == MAX_DOMAINS


def test_an_opened_place_survives_its_note_in_the_broker():
    place = opened_place("d-11111111", "strategy", FAR, BASES[-1])
    back, cuts = unpack_place(place.name, place.packed(7), BASES[-1])
    assert cuts == 7
    assert (back.name, back.role, back.experts, back.opened) == ("d-11111111", "strategy", 3, True)
    assert float(distance(back.basin, FAR)) < 2e-3
    assert back.packed(7) == place.packed(7)
    assert unpack_place(place.name, place.packed(7)[:-2], BASES[-1])[1] == 0


@pytest.mark.parametrize(
    "note",
    [b"", b"percept", b"percept zz", b"prophet " + b"00" * 128, b"\xff" * 264, b"percept " + b"00" * 128 + b" -1"],
)
def test_a_note_that_no_aggregator_wrote_is_corrupt(note):
    with pytest.raises(Corrupt, match="d-11111111"):
        unpack_place("d-11111111", note, BASES[-1])


def test_the_places_of_a_bundle_are_its_domains():
    place = known_places(BASES[-1])["heart"]
    assert (place.role, place.experts, place.opened, place.radius_rad) == ("heart", 2, False, 0.2)
    assert np.array_equal(place.basin, ROLE_BASINS["heart"])
