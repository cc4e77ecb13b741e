import asyncio
import io
import os
import signal

import pytest
from rich.console import Console

from services.cli import up
from services.cli.fleet import READY_TIMEOUT_S


@pytest.fixture
def tell():
    """Tells how an edge stands, look after look; the lines that were printed."""
    out, said = Console(file=io.StringIO(), width=200), {}

    def look(*reasons):
        for reason in reasons:
            up._say([up.Row("edge-1", "http://there", 7, reason, 3 if reason is None else None)], said, out)
        return [line.removeprefix("edge-1  ") for line in out.file.getvalue().splitlines()]

    return look


READY = "ready at http://there, bundle 3"


def test_a_trouble_that_lasts_is_told_when_it_begins_and_when_it_ends(tell):
    lasting = [f"relay qig:queries: not seen for {seconds} s" for seconds in range(11, 40)]
    assert tell(None, *lasting, None, None) == [READY, lasting[0], READY]


def test_an_outage_that_stops_one_part_after_the_other_is_one_trouble(tell):
    one, other = "consumer qig:queries: not seen for 5 s", "relay qig:queries: not seen for 10 s"
    assert tell(None, one, f"{one}; {other}", other, None) == [READY, one, READY]


def test_another_cause_is_told(tell):
    one = "relay qig:queries: not seen for 5 s"
    assert tell(one, f"{one}; consumer qig:queries: the broker is away: no route")[1].endswith("away: no route")


def test_troubles_that_take_turns_are_told_once_each(tell):
    one, other = "the broker is away: TimeoutError", "not seen for 11 s"
    assert tell(one, other, one, other, None) == [one, other, READY]


def test_a_trouble_that_comes_again_is_told_again(tell):
    assert tell(None, "dead", None, "dead") == [READY, "dead", READY, "dead"]


def test_an_edge_that_leaves_a_bundle_for_an_older_one_is_said_to_have_gone_back_once():
    out, bundles = Console(file=io.StringIO(), width=200), {}
    for bundle in (3, 4, None, 4, 3, 3, 5):
        up._say_gone_back([up.Row("edge-1", "http://there", 7, None, bundle)], bundles, out)
    why = "`qig bundle why 4` says why once the publisher has heard of it"
    assert out.file.getvalue().splitlines() == [f"edge-1  went back from bundle 4 to 3: {why}"]


SILENT, WAITS = "follower qig:bundles: not seen for 12 s", "edge: waits for the first bundle"
LATE, HUNG = (f"consumer qig:packets: not seen for {s:.0f} s" for s in (READY_TIMEOUT_S - 1, READY_TIMEOUT_S))
AWAY = "follower qig:bundles: the broker is away: TimeoutError"


@pytest.mark.parametrize(
    ("reason", "starting", "shown"),
    [
        (WAITS, True, up.LOADING),
        (f"{WAITS}; {SILENT}", True, up.LOADING),
        (f"{WAITS}; follower qig:bundles: not started", True, up.LOADING),
        (f"{WAITS}; {AWAY}", True, f"waits for the first bundle; {AWAY}"),
        (SILENT, True, "starting"),
        (LATE, True, "starting"),
        (HUNG, True, HUNG),
        (f"{SILENT}; {HUNG}", True, HUNG),
        (SILENT, False, SILENT),
        ("relay qig:queries: not started", True, "starting"),
    ],
)
def test_a_service_that_starts_is_said_to_start_and_an_edge_to_compile_its_first_bundle(reason, starting, shown):
    assert up._short(reason, "edge", starting=starting) == shown


@pytest.mark.parametrize(("inherited", "stops"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_stops_a_constellation_unless_nohup_started_it(inherited, stops):
    async def closed():
        stopping = asyncio.Event()
        with up._signals(stopping):
            os.kill(os.getpid(), signal.SIGHUP)
            if stops:
                await stopping.wait()
            return signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    before = signal.signal(signal.SIGHUP, inherited)
    try:
        assert asyncio.run(closed()) == stops
    finally:
        signal.signal(signal.SIGHUP, before)
