import io
import json
import logging
import re

import pytest

from common.constants import PHASES
from common.runtime import effects, logs, metrics, retention, streams
from common.runtime.consumer import Consumer, drawn_s, retry_delay_s, wait_delay_s
from common.runtime.effects import EFFECTS_MAX, ID_MAX_BYTES, HashAdd, HashSet, Send
from common.runtime.entries import body_of
from common.runtime.health import Health
from common.wire.messages import Figure


def slot(key):
    tagged = re.search(r"\{(.+?)\}", key)
    return tagged.group(1) if tagged else key


@pytest.mark.parametrize("name", [streams.dead, streams.outbox, streams.seen, lambda s: streams.side_key(s, "ledger")])
def test_the_keys_beside_a_stream_share_its_slot(name):
    for stream in (*streams.GROUPS, streams.answers("kiosk-7")):
        assert slot(name(stream)) == slot(stream)


@pytest.mark.parametrize("client", ["", "a:b", "{x}", "a b", "-a", "x" * 65, "ä"])
def test_a_client_that_is_no_slug_gets_no_stream(client):
    with pytest.raises(ValueError, match="slug"):
        streams.answers(client)


def test_what_waits_for_a_group_is_work_and_nothing_else_is():
    kinds = {row.stream: streams.retention(row.stream).kind for row in retention.ROWS if row.stream[0] != "{"}
    assert {stream for stream, kind in kinds.items() if kind == "work"} == set(streams.GROUPS)
    assert all(streams.retention(streams.dead(stream)).kind == "letters" for stream in streams.GROUPS)


def test_every_stream_has_a_limit_and_its_place_in_the_table():
    named = {name for name in vars(streams).values() if isinstance(name, str) and name.startswith("qig:")}
    shown = {row.stream.removesuffix("CLIENT") for row in retention.ROWS}
    assert named - {streams.BLOB, streams.RATES} == {stream for stream in shown if stream[0] != "{"}
    with pytest.raises(KeyError):
        streams.retention("qig:unknown")


def test_the_table_takes_the_place_of_what_stood_between_its_marks():
    page = f"before\n{retention.MARK}old\n{retention.END}after\n"
    drawn = retention.drawn(page)
    assert drawn.startswith("before\n")
    assert drawn.endswith("after\n")
    assert "old\n" not in drawn
    assert f"| `{streams.BATCHES}` | aggregators | trainers, a group | 64 |" in drawn
    assert retention.drawn(drawn) == drawn


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (ID_MAX_BYTES, True), (ID_MAX_BYTES + 1, False)])
@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f41f"])
def test_a_message_needs_an_id_of_a_bounded_length(letter, length, fits):
    """In bytes, however many a character has."""
    name = letter * (length // len(letter.encode()))
    send = (Send(streams.BATCHES, b"", name + "x" * (length - len(name.encode()))),)
    if fits:
        effects.check(streams.PACKETS, send)
    else:
        with pytest.raises(ValueError, match="id"):
            effects.check(streams.PACKETS, send)


@pytest.mark.parametrize("key", ["ledger", "{qig:packets}ledger", streams.side_key(streams.QUERIES, "ledger")])
def test_a_key_of_another_slot_is_a_programmer_error(key):
    with pytest.raises(ValueError, match="slot"):
        effects.check(streams.PACKETS, (HashSet(key, "a", b""),))


def test_a_commit_has_a_bounded_number_of_effects():
    add = HashAdd(streams.side_key(streams.PACKETS, "n"), "n", 1)
    effects.check(streams.PACKETS, (add,) * EFFECTS_MAX)
    with pytest.raises(ValueError, match="limit"):
        effects.check(streams.PACKETS, (add,) * (EFFECTS_MAX + 1))


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({b"__data__": b""}, b""),
        ({b"__data__": b"a", b"body": b"b"}, b"a"),
        ({b"body": b"b"}, b"b"),
        ({b"body": b"b", b"other": b"c"}, None),
        ({}, None),
        ({b"__data__": b"\x89BIN\r\n\x1a\n"}, b"\x89BIN\r\n\x1a\n"),
    ],
)
def test_the_body_of_an_entry_is_found_or_none(fields, body):
    assert body_of(fields) == body


PATIENT = Consumer("s", "g", bytes, None, claim_after_s=5.0, retry_first_s=0.1)


@pytest.mark.parametrize(("deliveries", "delay_s"), [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (1000, 5.0)])
def test_a_failing_message_rests_twice_as_long_each_time_up_to_the_claim_time(deliveries, delay_s):
    assert retry_delay_s(PATIENT, deliveries) == pytest.approx(delay_s)


@pytest.mark.parametrize(
    ("age_s", "delay_s"), [(-9.0, 0.1), (0.0, 0.1), (0.2, 0.1), (1.0, 0.5), (10.0, 5.0), (1e9, 5.0)]
)
def test_a_waiting_message_rests_half_its_age_up_to_the_claim_time(age_s, delay_s):
    assert wait_delay_s(PATIENT, age_s) == pytest.approx(delay_s)


@pytest.mark.parametrize(("chance", "delay_s"), [(0.0, 2.0), (0.5, 3.0), (1.0, 4.0)])
def test_of_a_pause_the_second_half_is_drawn(chance, delay_s):
    assert drawn_s(4.0, chance) == pytest.approx(delay_s)


def test_a_part_is_well_while_it_reports_is_alive_and_has_no_problem():
    now, alive = [0.0], [True]
    health = Health(lambda: now[0])
    health.expect("reader", 5.0, lambda: alive[0])
    assert health.reasons() == {"reader": "not started"}
    health.report("reader")
    now[0] = 5.0
    assert health.reasons() == {}
    now[0] = 5.1
    assert health.reasons() == {"reader": "not seen for 5 s"}
    health.report("reader", "no broker")
    assert health.reasons() == {"reader": "no broker"}
    health.report("reader")
    alive[0] = False
    assert health.reasons() == {"reader": "dead"}


def test_every_metric_has_our_prefix_a_unit_that_says_what_it_is_and_bounded_labels():
    for name, kind, labels, text in metrics.DECLARED:
        assert name.startswith("qig_")
        assert name.endswith("_total") == (kind == "counter")
        assert not {"client", "id", "key"} & set(labels)
        assert ("node" in labels) == name.startswith("qig_node_")  # who is enrolled is bounded by hand
        assert text


def test_the_reference_names_every_metric_as_it_is_served():
    served, reference = metrics.exposition().decode(), metrics.markdown()
    for name, *_ in metrics.DECLARED:
        assert f"# HELP {name} " in served
        assert f"| `{name}` |" in reference


def test_exactly_one_phase_of_a_kernel_reads_one():
    for phase in PHASES:
        metrics.show_phase("heart", phase)
    values = [metrics.PHASE.labels("heart", phase)._value.get() for phase in PHASES]
    assert values == [0.0, 0.0, 0.0, 1.0]


def test_a_stream_label_never_names_a_client():
    assert metrics.stream_label(streams.answers("kiosk-7")) == "qig:answers"
    assert metrics.stream_label(streams.PACKETS) == streams.PACKETS


@pytest.fixture
def root_logger():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def test_a_log_line_is_json_and_names_its_message(root_logger):
    stream = io.StringIO()
    logs.configure("edge", "node-1", "info", stream)
    with logs.bound(stream="qig:queries", entry="17-0"):
        logging.getLogger("room").warning("late by %d s", 3)
    line = json.loads(stream.getvalue())
    assert (line["service"], line["level"], line["entry"], line["message"]) == (
        "edge",
        "warning",
        "17-0",
        "late by 3 s",
    )


def test_a_log_line_for_a_person_is_plain_and_carries_the_traceback(root_logger):
    stream = io.StringIO()
    stream.isatty = lambda: True
    logs.configure("edge", "node-1", "info", stream)
    try:
        1 / 0  # noqa: B018 -- the error is what is wanted
    except ZeroDivisionError:
        logging.getLogger("room").exception("broken")
    assert re.match(r"\d\d:\d\d:\d\d error   edge: broken\nTraceback", stream.getvalue())


def test_a_key_beside_a_side_key_stays_in_its_slot():
    assert streams.seen(streams.dead(streams.PACKETS)) == "{qig:packets}:dead:seen"


def test_an_unknown_phi_is_no_number_on_the_metrics_page():
    metrics.show_phi("heart", 0.8, 1e-9)
    assert 'qig_phi_ratio{kernel="heart"} 0.8' in metrics.exposition().decode()
    for _ in range(2):
        metrics.show_phi("heart", None, None)
        assert 'qig_phi_ratio{kernel="heart"}' not in metrics.exposition().decode()


def test_the_constellation_s_integration_is_no_number_while_it_is_not_known():
    for value, shown in ((None, "NaN"), (0.9, "0.9"), (None, "NaN")):
        metrics.show_constellation_phi(value, value)
        assert f"qig_constellation_phi_ratio {shown}\n" in metrics.exposition().decode()
        assert f"qig_constellation_phi_p_value {shown}\n" in metrics.exposition().decode()


def test_of_a_candidate_s_figures_those_of_a_domain_that_have_a_gauge_are_shown():
    metrics.show_figures(
        [
            Figure(name="bits_per_byte", domain="figures", before=2.0, after=1.5, unit="bit/B"),
            Figure(name="drift_rad", domain="figures", before=None, after=0.25, unit="rad"),
            Figure(name="routed", domain="figures", before=1.0, after=1.0, unit="1"),
            Figure(name="bits_per_byte", before=2.0, after=9.5, unit="bit/B"),
        ]
    )
    shown = [line for line in metrics.exposition().decode().splitlines() if '="figures"' in line or " 9.5" in line]
    assert shown == ['qig_held_out_bits_per_byte{domain="figures"} 1.5', 'qig_drift_rad{kernel="figures"} 0.25']


def test_of_a_domain_that_was_given_up_no_figure_stays():
    for domain in ("old", "new"):
        metrics.show_figures([Figure(name="bits_per_byte", domain=domain, before=2.0, after=1.5, unit="bit/B")])
    shown = [line for line in metrics.exposition().decode().splitlines() if line.startswith("qig_held_out")]
    assert shown == ['qig_held_out_bits_per_byte{domain="new"} 1.5']


def test_a_gauge_shows_only_the_domains_that_there_still_are():
    for domain in ("there", "gone"):
        metrics.SPREAD.labels(domain).set(0.1)
    for _ in range(2):
        metrics.show_only(metrics.SPREAD, {"there", "not shown yet"})
        shown = [line for line in metrics.exposition().decode().splitlines() if line.startswith("qig_spread_rad")]
        assert shown == ['qig_spread_rad{domain="there"} 0.1']
    metrics.show_only(metrics.SPREAD, ())
    assert "qig_spread_rad{" not in metrics.exposition().decode()


def test_what_is_counted_from_the_start_reads_zero_and_keeps_what_it_has_counted():
    metrics.begin(metrics.GUARD_EVENTS, ("restore-nobody",))
    assert metrics.REGISTRY.get_sample_value("qig_guard_events_total", {"guard": "restore-nobody"}) == 0.0
    metrics.GUARD_EVENTS.labels("restore-nobody").inc()
    metrics.begin(metrics.GUARD_EVENTS, ("restore-nobody",))
    assert metrics.REGISTRY.get_sample_value("qig_guard_events_total", {"guard": "restore-nobody"}) == 1.0
