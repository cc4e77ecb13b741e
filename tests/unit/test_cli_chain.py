import dataclasses

import pytest

from common.errors import Unavailable
from common.runtime import causes
from common.wire.bundle import candidate_id
from common.wire.messages import (
    Applied,
    Batch,
    Bundle,
    Candidate,
    Correction,
    Evidence,
    PacketRef,
    Part,
    batch_id,
    correction_id,
)
from services.cli import chain, trace
from services.cli.chain import Centre
from services.publisher.fleet import Fleet, fold

REFS = tuple(PacketRef(key=bytes(8), epoch=1, sequence=n) for n in range(3))
PARTS = {"p": Part(digest="ab" * 32, size_bytes=1)}


def batch(*refs):
    return Batch(id=batch_id(refs), base_version=1, base_digest="", domains=(), packets=refs)


def candidate(name, *refs):
    return Candidate(id=name, parent=0, parent_digest="", parts=PARTS, evidence=Evidence(), packets=refs)


def bundle(name, version, *refs):
    fields = candidate(name, *refs).model_dump()
    return Bundle(**fields, version=version, released_at_s=5.0, key=bytes(8), signature=bytes(64))


def told(steps):
    return [(step.kind, step.id, step.said) for step in steps]


ONE = batch(*REFS[:2])
NAMES = tuple(map(causes.packet_name, REFS))


@pytest.mark.parametrize(
    "centre",
    [
        Centre(arriving=frozenset(REFS)),
        Centre(accepted={REFS[0]: 1.0}),
        Centre(ended={REFS[0]: "was refused"}),
        Centre(bundles=[bundle("b", 2, REFS[0])]),
    ],
)
def test_a_packet_is_known_by_whatever_is_said_of_it(centre):
    assert chain.knows(REFS[0], centre)
    assert not chain.knows(REFS[0], Centre())


def test_32_digits_are_no_packet_where_nobody_knows_one(tmp_path):
    with pytest.raises(Unavailable) as caught:
        trace.found(REFS[0].packed.hex(), tmp_path, Centre())
    assert caught.value.code == "unknown_id"
    of_a_batch = trace.found("ab" * 16, tmp_path, Centre(bundles=[bundle("ab" * 32, 2)]))
    assert [step.kind for step in of_a_batch] == ["batch", "candidate", "bundle"]


def test_a_packet_that_nobody_knows_of_says_so():
    (step,) = chain.of_packet(None, REFS[0], Centre())
    assert (step.id, step.trace_id) == (NAMES[0], causes.packet(REFS[0]).trace_id)
    assert step.said.startswith("the centre says nothing of it")


@pytest.mark.parametrize(
    ("centre", "said"),
    [
        (Centre(arriving=frozenset(REFS)), "lies in the stream, nobody has looked at it yet"),
        (Centre(arriving=frozenset(REFS), accepted={REFS[0]: 1.0}), "waits at the centre for a batch"),
        (Centre(ended={REFS[0]: "was refused, clock: late"}), "was refused, clock: late"),
    ],
)
def test_a_packet_in_no_batch_says_where_it_is(centre, said):
    assert [step.said for step in chain.of_packet(None, REFS[0], centre)] == [said]


@pytest.mark.parametrize(("where", "said"), [("waiting", "waits for a trainer"), ("dead", "came to no candidate")])
def test_a_packet_leads_to_the_batch_that_has_it(where, said):
    packet, found = chain.of_packet(None, REFS[0], Centre(batches=[(where, ONE), ("waiting", batch(REFS[2]))]))
    assert packet.said == "in a batch"
    assert (found.id, found.caused_by) == (ONE.id, NAMES[:2])
    assert found.said.startswith(f"2 packets: {said}")


def test_of_a_batch_that_is_done_the_candidate_and_the_bundles_remain():
    fleet = Fleet()
    for node, verdict in (("edge-0", "good"), ("edge-1", "applied")):
        fleet = fold(fleet, Applied(node=node, version=4, verdict=verdict, at_s=1.0))
    centre = Centre(bundles=[bundle(ONE.id, 4, *ONE.packets), bundle("other", 5, REFS[2])], fleet=fleet)
    steps = chain.of_packet(None, REFS[1], centre)
    assert told(steps[1:]) == [
        ("batch", ONE.id, "2 packets: became a candidate"),
        ("candidate", ONE.id, "was released"),
        ("bundle", "4", "1 applied, 1 good"),
    ]
    assert [step.caused_by for step in steps[1:]] == [NAMES[:2], (ONE.id,), (ONE.id,)]
    assert {step.trace_id for step in steps[1:]} == {causes.batch(ONE).trace_id}


def test_a_candidate_says_whether_it_waits_was_refused_or_was_taken_back():
    made = candidate(ONE.id, *ONE.packets)
    waits, refused = Centre(candidates=[made]), Centre(candidates=[made], refused={ONE.id: (1.0, ["worse", "drift"])})
    back = dataclasses.replace(refused, candidates=[], bundles=[bundle(ONE.id, 4, *ONE.packets)])
    assert chain.of_candidate(ONE.id, waits)[-1].said == "waits for the publisher"
    assert chain.of_candidate(ONE.id, refused)[-1].said == "was refused: worse; drift"
    assert chain.of_candidate(ONE.id, back)[-1].said == "no edge has said anything; was taken back: worse; drift"


def test_a_genesis_comes_of_no_batch_and_a_correction_of_its_own():
    correction = Correction(batch="ab" * 32, name="heart", was=b"", now=b"")
    corrects = Batch(
        id=correction_id([correction]), base_version=0, base_digest="", domains=(), packets=(),
        corrections=(correction,),
    )  # fmt: skip
    centre = Centre(bundles=[bundle("genesis-1", 1)], batches=[("waiting", corrects)])
    assert [step.kind for step in chain.of_candidate("genesis-1", centre)] == ["candidate", "bundle"]
    assert chain.of_candidate("genesis-1", centre)[0].caused_by == ()
    name = candidate_id(corrects)
    assert chain.candidates(name[:14], centre) == [name]
    assert told(chain.of_candidate(name, centre)) == [("batch", corrects.id, "waits for a trainer")]


def test_as_many_causes_as_a_batch_has_packets_are_said_and_no_more():
    refs = tuple(PacketRef(key=bytes(8), epoch=1, sequence=n) for n in range(chain.CAUSES_MAX + 1))
    (step,) = (
        one
        for one in chain.of_candidate("ab" * 32, Centre(bundles=[bundle("ab" * 32, 4, *refs)]))
        if one.kind == "batch"
    )
    assert len(step.caused_by) == chain.CAUSES_MAX
    assert step.said == f"{chain.CAUSES_MAX + 1} packets: became a candidate"
