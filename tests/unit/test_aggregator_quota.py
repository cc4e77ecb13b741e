import pytest
from aggregator_packets import AT_MS, BASES, KEYS, NODES, base, domain, ledger, packet, peak

from common.errors import Rejected
from common.wire.packet import key_id
from services.aggregator.cut import Fleet, Limits, cut, due
from services.aggregator.quorum import ENROLLED_LEAST
from services.aggregator.quota import NODE_TERRITORIES, check_waiting

LIMITS = Limits(packets=8, age_s=60.0, mass_cap=100_000)
IDS = [key_id(key.verify_key) for key in KEYS]
FEW = {key: NODES[key] for key in IDS[: ENROLLED_LEAST - 1]}


def cut_of(*raws, founded=None, nodes=NODES, bases=BASES):
    return cut(ledger(*raws), bases=bases, pending={}, limits=LIMITS, fleet=Fleet(nodes, founded or {}))


# Packets


@pytest.mark.parametrize(("waiting", "refused"), [(3, False), (4, True), (5, True)])
def test_of_a_node_so_many_packets_may_wait(waiting, refused):
    if not refused:
        check_waiting("edge-1", waiting, 4)
        return
    with pytest.raises(Rejected, match=r"too_many_packets.*edge-1.*QIG_NODE_PACKETS"):
        check_waiting("edge-1", waiting, 4)


def waiting(*keys):
    return {IDS[key] + bytes(7) + bytes([n]): AT_MS for n, key in enumerate(keys)}


@pytest.mark.parametrize(
    ("others", "expected"), [([1, 2, 3], False), ([1, 2, 3, 4], True), ([1, 1, 1, 1], True), ([1, 2, 3, 4, 5], True)]
)
def test_one_node_is_half_of_what_makes_a_batch_due(others, expected):
    assert due(waiting(*[0] * 20, *others), AT_MS, LIMITS, NODES) is expected


def test_a_node_of_several_keys_is_one():
    of_one = NODES | {IDS[1]: NODES[IDS[0]]}
    assert not due(waiting(*[0] * 20, *[1] * 20), AT_MS, LIMITS, of_one)
    assert due(waiting(*[0] * 20, *[1] * 20), AT_MS, LIMITS, NODES)


def test_where_few_are_enrolled_one_node_may_make_a_batch_due():
    assert due(waiting(*[0] * 8), AT_MS, LIMITS, FEW)
    assert not due(waiting(*[0] * 7), AT_MS, LIMITS, FEW)


def test_what_one_node_sends_is_due_by_age_all_the_same():
    assert due(waiting(0), AT_MS + 60_000, LIMITS, NODES)


def test_a_packet_whose_key_is_enrolled_no_more_is_refused_alone():
    found = cut_of(packet(key=0), packet(key=1), nodes={key: node for key, node in NODES.items() if key != IDS[0]})
    assert [(one.code, one.ref[:8]) for one in found.refused] == [("unknown_key", IDS[0])]
    assert [ref.key for ref in found.batch.packets] == [IDS[1]]


def test_where_nobody_is_enrolled_any_more_nothing_is_taken():
    assert (cut_of(packet(key=0), nodes={}).batch, len(cut_of(packet(key=0), nodes={}).refused)) == (None, 1)


# Territories


def many(number, node="edge-0"):
    return {f"d-{n:08x}": node for n in range(number)}


def known(names):
    """A bundle with these domains, none near another."""
    return base(6, *(domain(name, peak(n % 60, 0.9)) for n, name in enumerate(names)))


@pytest.mark.parametrize(
    ("founded", "refused"), [(NODE_TERRITORIES - 1, []), (NODE_TERRITORIES, [IDS[0]]), (NODE_TERRITORIES + 1, [IDS[0]])]
)
def test_a_node_may_open_so_many_domains_that_no_other_brings_text_of(founded, refused):
    current = known(many(founded))
    raws = [packet(key=n, domain=None, at=peak(61 + n), on=current) for n in range(2)]
    found = cut_of(*raws, founded=many(founded), bases=(current,))
    assert [(one.code, one.ref[:8]) for one in found.refused] == [("too_many_territories", key) for key in refused]
    assert set(found.founded.values()) == {"edge-0", "edge-1"}


def test_one_cut_opens_no_more_for_a_node_than_many_do():
    raws = [packet(key=0, sequence=n, domain=None, at=peak(n + 30, 0.9)) for n in range(NODE_TERRITORIES + 3)]
    found = cut_of(*raws)
    assert (len(found.opened), len(found.refused)) == (NODE_TERRITORIES, 3)


def test_where_few_are_enrolled_a_node_opens_what_it_needs():
    raws = [packet(key=0, sequence=n, domain=None, at=peak(n + 30, 0.9)) for n in range(NODE_TERRITORIES + 3)]
    assert len(cut_of(*raws, nodes=FEW).opened) == NODE_TERRITORIES + 3


def test_a_domain_that_two_nodes_open_is_nobody_s():
    found = cut_of(*[packet(key=n, domain=None, at=peak(60)) for n in range(2)])
    assert (len(found.opened), found.founded) == (1, {})


def test_a_domain_that_a_second_node_brings_text_of_is_nobody_s_any_more():
    current = known(many(2))
    own, other = (packet(key=n, domain="d-00000001", on=current) for n in (0, 1))
    assert cut_of(own, founded=many(2), bases=(current,)).founded == many(2)
    assert cut_of(own, other, founded=many(2), bases=(current,)).founded == many(1)
    assert cut_of(other, founded=many(2), bases=(current,)).founded == many(1)


def test_a_domain_that_has_ended_makes_room():
    assert cut_of(packet(key=1, on=known(many(2))), founded=many(3), bases=(known(many(2)),)).founded == many(2)
