import itertools
import math

import pytest
from pydantic import ValidationError

from common.wire import export
from common.wire.codec import pack, unpack
from common.wire.fields import (
    ANSWER_MAX_CHARS,
    CRYSTALS_MAX_BYTES,
    GATE_MAX_BYTES,
    MAX_BATCH_PACKETS,
    MAX_COUNT,
    MAX_DOMAINS,
    MAX_U32,
    PI_RAD,
    QUERY_MAX_CHARS,
    Value,
)
from common.wire.inference import Answer, Query, RouteStep
from common.wire.messages import (
    Applied,
    Batch,
    Bundle,
    Candidate,
    Correction,
    DeadLetter,
    DomainUpdate,
    Figure,
    Heartbeat,
    PacketRef,
    Part,
    batch_id,
    correction_id,
)

GOLDEN = {type(message): message for message in export.golden()}
STEP = RouteStep(domain="a", kernel="heart", distance_rad=0.0, weight=1.0)
REF = PacketRef(key=bytes(8), epoch=0, sequence=0)
EXAMPLES: dict[type[Value], Value] = {
    **GOLDEN,
    DomainUpdate: GOLDEN[Batch].domains[0],
    RouteStep: STEP,
    PacketRef: REF,
    Correction: Correction(batch="0" * 64, name="d-1", was=b"", now=b""),
    Part: Part(digest="0" * 64, size_bytes=0),
}
# class, field, the least it takes, the most, and a value just outside on each side (None: there is none)
BOUNDS = [
    (Query, "text", "x", "x" * QUERY_MAX_CHARS, "", "x" * (QUERY_MAX_CHARS + 1)),
    (Query, "client", "a", "a" * 64, "", "a" * 65),
    (Query, "max_tokens", 0, 1024, -1, 1025),
    (Query, "temperature", 0.0, 2.0, -0.001, 2.001),
    (Query, "seed", 0, MAX_COUNT, -1, MAX_COUNT + 1),
    (Answer, "text", "", "x" * ANSWER_MAX_CHARS, None, "x" * (ANSWER_MAX_CHARS + 1)),
    (Answer, "route", (), (STEP,) * MAX_DOMAINS, None, (STEP,) * (MAX_DOMAINS + 1)),
    (Answer, "margin_rad", 0.0, math.pi, -0.001, 3.15),
    (Answer, "phi", 0.0, 1.0, -0.001, 1.001),
    (Answer, "kappa", 0.0, 1e12, -0.001, math.inf),
    (Answer, "prompt_bits", 0.0, 1e12, -0.001, math.inf),
    (RouteStep, "distance_rad", 0.0, PI_RAD, -0.001, PI_RAD + 0.001),
    (PacketRef, "key", bytes(8), bytes(8), bytes(7), bytes(9)),
    (PacketRef, "epoch", 0, MAX_U32, -1, MAX_U32 + 1),
    (PacketRef, "sequence", 0, MAX_U32, -1, MAX_U32 + 1),
    (DomainUpdate, "basin", bytes(128), bytes(128), bytes(127), bytes(129)),
    (DomainUpdate, "crystals", b"", bytes(CRYSTALS_MAX_BYTES), None, bytes(CRYSTALS_MAX_BYTES + 1)),
    (DomainUpdate, "gate", b"", bytes(GATE_MAX_BYTES), None, bytes(GATE_MAX_BYTES + 1)),
    (Batch, "base_version", 0, MAX_COUNT, -1, MAX_COUNT + 1),
    (Part, "digest", "0" * 64, "f" * 64, "0" * 63, "0" * 65),
    (Bundle, "version", 1, MAX_COUNT, 0, MAX_COUNT + 1),
    (Bundle, "signature", bytes(64), bytes(64), bytes(63), bytes(65)),
    (Applied, "version", 1, MAX_COUNT, 0, MAX_COUNT + 1),
    (Applied, "reason", "", "x" * 512, None, "x" * 513),
    (Heartbeat, "at_s", 0.0, 1e11, -0.001, 1.1e11),
    (DeadLetter, "body", b"", bytes((1 << 20) + 1024), None, bytes((1 << 20) + 1025)),
]


def changed(cls, **fields):
    return cls.model_validate({**EXAMPLES[cls].model_dump(), **fields})


FIGURE = {"name": "a", "domain": None, "before": 2.0, "after": 1.5, "unit": "bit/B"}


@pytest.mark.parametrize(
    ("ends", "fine"),
    [
        ({"low": -0.6, "high": -0.4}, True),
        ({"low": -0.5, "high": -0.5}, True),
        ({"low": -0.4, "high": -0.6}, False),
        ({"low": -0.4}, False),
        ({"high": -0.4}, False),
        ({}, True),
    ],
)
def test_a_figure_s_interval_has_both_ends_in_their_order_or_leaves_no_trace(ends, fine):
    if not fine:
        with pytest.raises(ValidationError):
            Figure(**FIGURE, **ends)
        return
    made = Figure(**FIGURE, **ends)
    assert made.model_dump() == FIGURE | ends  # what was signed without intervals keeps its bytes
    assert Figure.model_validate(made.model_dump()) == made


@pytest.mark.parametrize(
    ("cls", "field", "least", "most", "below", "above"), BOUNDS, ids=lambda x: getattr(x, "__name__", "")
)
def test_a_field_takes_its_bounds_and_nothing_beyond(cls, field, least, most, below, above):
    assert getattr(changed(cls, **{field: least}), field) == least
    assert getattr(changed(cls, **{field: most}), field) == most
    for outside in (below, above):
        if outside is not None:
            with pytest.raises(ValidationError, match=field):
                changed(cls, **{field: outside})


@pytest.mark.parametrize("cls", [Query, Answer, Batch, Candidate, Bundle, Applied, Heartbeat, DeadLetter])
def test_every_message_is_frozen_and_refuses_another_version_and_unknown_fields(cls):
    with pytest.raises(ValidationError, match="frozen"):
        EXAMPLES[cls].v = 2
    with pytest.raises(ValidationError, match="v\n"):
        changed(cls, v=2)
    with pytest.raises(ValidationError, match="extra"):
        changed(cls, surprise=1)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("cls", "field"), [(Query, "temperature"), (Answer, "phi"), (Applied, "probe_after"), (Heartbeat, "at_s")]
)
def test_no_field_takes_nan_or_infinity(cls, field, number):
    with pytest.raises(ValidationError, match=field):
        changed(cls, **{field: number})


@pytest.mark.parametrize(
    ("field", "value"), [("max_tokens", "5"), ("max_tokens", 5.0), ("max_tokens", True), ("store", 1), ("text", b"x")]
)
def test_types_are_strict(field, value):
    with pytest.raises(ValidationError, match=field):
        changed(Query, **{field: value})


def test_a_whole_number_is_taken_where_a_float_is_due():
    assert changed(Query, temperature=1).temperature == 1.0


@pytest.mark.parametrize("name", ["a:b", "a{b}", "a/b", ".a", "a b", "a\n", "ä", "*"])
def test_a_client_cannot_name_another_key_of_the_broker(name):
    with pytest.raises(ValidationError, match="client"):
        Query(text="hi", client=name)


@pytest.mark.parametrize("path", ["../x", "a/../b", "/a", "a//b", "a/", "", "a\\b", "a" * 129])
def test_a_part_cannot_leave_the_bundle(path):
    with pytest.raises(ValidationError, match="parts"):
        changed(Candidate, parts={path: {"digest": "0" * 64, "size_bytes": 1}})


def test_a_batch_is_named_by_its_packets_in_any_order():
    refs = [
        PacketRef(key=bytes([k]) * 8, epoch=e, sequence=s) for k, e, s in itertools.product((0, 255), (1, 2), (0, 9))
    ]
    assert batch_id(refs) == batch_id(refs[::-1]) != batch_id(refs[1:])
    assert changed(Batch, id=batch_id(refs), packets=tuple(reversed(refs))).packets == tuple(refs)


def test_a_batch_whose_id_is_not_that_of_its_packets_is_refused():
    with pytest.raises(ValidationError, match="not the hash"):
        changed(Batch, id="0" * 64)


def test_a_packet_cannot_count_twice_in_one_batch():
    with pytest.raises(ValidationError, match="named twice"):
        changed(Batch, id=batch_id((REF, REF)), packets=(REF, REF))


def corrections(count=1):
    told = tuple(Correction(batch="ab" * 32, name=f"d-{n}", was=b"was", now=b"now") for n in range(count))
    return {"id": correction_id(told), "corrections": told}


def test_corrections_come_in_a_batch_of_their_own_that_is_named_by_what_they_say():
    alone = {"domains": (), "packets": ()}
    whole = changed(Batch, **alone, **corrections(2))
    assert unpack(Batch, pack(whole)) == whole
    assert len({correction_id(corrections(n)["corrections"]) for n in (1, 2, 3)}) == 3
    with pytest.raises(ValidationError, match="not the hash"):
        changed(Batch, **alone, **corrections(2) | {"id": "0" * 64})
    with pytest.raises(ValidationError, match="of their own"):
        changed(Batch, **corrections(2))


def test_a_domain_cannot_be_named_twice_in_one_batch():
    with pytest.raises(ValidationError, match="domain is named twice"):
        changed(Batch, domains=(EXAMPLES[DomainUpdate],) * 2)


@pytest.mark.parametrize(
    ("count", "taken"), [(0, False), (1, True), (MAX_BATCH_PACKETS, True), (MAX_BATCH_PACKETS + 1, False)]
)
def test_a_batch_holds_1_to_256_packets(count, taken):
    refs = tuple(PacketRef(key=bytes(8), epoch=0, sequence=n) for n in range(count))
    if taken:
        assert len(changed(Batch, id=batch_id(refs), packets=refs).packets) == count
    else:
        with pytest.raises(ValidationError, match="packets"):
            changed(Batch, id=batch_id(refs), packets=refs)


@pytest.mark.parametrize(
    ("version", "parent", "taken"), [(1, 0, True), (2, 1, True), (9, 1, True), (2, 2, False), (2, 3, False)]
)
def test_versions_only_grow(version, parent, taken):
    if taken:
        assert changed(Bundle, version=version, parent=parent).parent == parent
    else:
        with pytest.raises(ValidationError, match="does not follow"):
            changed(Bundle, version=version, parent=parent)
