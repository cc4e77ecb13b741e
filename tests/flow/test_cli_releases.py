import asyncio
import json
import time

import pytest
from rich.console import Console

from common.runtime import overview, streams
from common.runtime.effects import HashSet
from common.trust.rings import EVERYBODY
from common.wire.codec import pack
from common.wire.messages import Figure, Heartbeat
from services.cli import releases
from services.publisher import refusals

pytestmark = pytest.mark.anyio


async def beat(centre, node, bundle, at_s=None):
    told = Heartbeat(node=node, service="edge", at_s=at_s or time.time(), bundle=bundle, ready=True)
    await centre.broker.redis.xadd(streams.HEART, {streams.DATA_FIELD: pack(told)})


def text_of(found, width=100):
    out = Console(width=width)
    with out.capture() as shown:
        out.print(releases.table(found, found[0].at_s + 119))
    return [" ".join(line.split()) for line in shown.get().splitlines()]


async def test_each_release_says_where_it_serves_what_it_changed_and_whether_it_was_taken_back(centre):
    one = await centre.release()
    two = await centre.release(2, one)
    await centre.release(3, two)
    assert await centre.broker.commit(
        streams.CANDIDATES, [HashSet(streams.REFUSED, two.id, refusals.note(("bad",), 1.0))]
    )
    for node, bundle in [("edge-0", 2), ("edge-0", 1), ("edge-1", 2)]:  # the newest of each counts
        await beat(centre, node, bundle)
    await beat(centre, "edge-2", 3, at_s=time.time() - releases.SILENT_S - 1)  # it is silent
    found = await releases._look(centre.url, centre.home)
    assert [(row.version, row.state, row.edges) for row in found] == [
        (3, "on its way", 0),
        (2, "taken back", 1),
        (1, "serving", 1),
    ]
    assert (found[0].figure, found[0].before, found[0].after, found[0].ring) == ("bits_per_byte heart", 3.0, 2.0, 1.0)
    head, *lines = text_of(found)
    assert head == "bundle ago packets open to changed most, in bits before after state"
    assert [line.split("everybody ")[1] for line in lines] == [
        "bits_per_byte heart 3.000 2.000 on its way",
        "bits_per_byte heart 3.000 2.000 taken back, on 1 edge",
        "bits_per_byte heart 3.000 2.000 on 1 edge",
    ]
    figures = [word for word in " ".join(text_of(found, width=50)).split() if word.startswith(("3.", "2."))]
    assert figures == 3 * ["3.000", "2.000"], "a figure that is cut is a wrong one"


async def test_every_edge_of_a_large_fleet_is_counted(centre, monkeypatch):
    monkeypatch.setattr(overview, "READ_MAX", 2)
    monkeypatch.setattr(overview, "BEATING", 1)
    await centre.release()
    for node in ("edge-0", "edge-1", "edge-2"):
        await beat(centre, node, 1)
    (row,) = await releases._look(centre.url, centre.home)
    assert row.edges == 3


async def test_a_release_that_brings_an_older_one_back_says_which_and_one_with_a_ring_how_far_it_is_open(centre):
    one = await centre.release()
    known = [(one.model_copy(update={"version": 3, "id": "revoke-2-to-1"}), EVERYBODY // 4), (one, EVERYBODY)]
    back, first = releases.rows(known, (), (), time.time())
    assert (back.brings_back, back.ring, first.state) == (1, 0.25, "replaced")
    assert text_of([back])[1] == "3 1 min 0 first 25% bundle 1 again on its way"


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ((("bits", 2.0, 1.9, "bit/B"), ("crystals", 8.0, 5.0, "bit/token"), ("routed", 1.0, 0.1, "1")), "crystals"),
        ((("worse", 2.0, 2.5, "bit/B"), ("better", 2.0, 1.9, "bit/B")), "worse"),
        ((("bits", None, 1.9, "bit/B"),), None),
        ((), None),
    ],
)
def test_what_changed_most_is_in_bits_and_was_measured_before_and_after(figures, name):
    made = [Figure(name=n, domain="heart", before=b, after=a, unit=u) for n, b, a, u in figures]
    found = releases.most_changed(made)
    assert (found and found.name) == name


async def test_for_programs_it_is_a_line_a_release(centre, monkeypatch, capsys):
    monkeypatch.setenv("QIG_BROKER_URL", centre.url)
    assert await asyncio.to_thread(releases.run, home=centre.home, json=False) == 0
    assert capsys.readouterr().out == "nothing was released yet\n"
    await centre.release(2, await centre.release())
    assert await asyncio.to_thread(releases.run, home=centre.home, json=True) == 0
    assert [json.loads(line)["version"] for line in capsys.readouterr().out.splitlines()] == [2, 1]
