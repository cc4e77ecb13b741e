import importlib.util
import sys
import time

import pytest
from redis.exceptions import ConnectionError as AwayError
from rich.console import Console

from common.errors import Unavailable
from common.runtime import overview, streams
from common.runtime.overview import StreamRow
from common.wire.codec import pack
from common.wire.messages import Applied, Heartbeat
from services.cli import glance, top
from services.cli.board import PARTS, Board
from services.cli.watch import Seen, services_table, streams_table

pytestmark = pytest.mark.anyio
OUT = Console(width=200)


def beat(at_s, phi=0.8, node="edge-1", **fields):
    told = {"phases": {"heart": "CRYSTAL"}, "phi": {"heart": phi}, "kappa": {"heart": 60.0}}
    return Heartbeat(node=node, service="edge", at_s=at_s, bundle=3, ready=True, **(told | fields))


def applied(version, verdict="applied", **fields):
    return Applied(node="edge-1", version=version, verdict=verdict, at_s=time.time(), **fields)


async def tell(redis, stream, *messages):
    for message in messages:
        await redis.xadd(stream, {"__data__": pack(message)})


def text_of(table):
    with OUT.capture() as shown:
        OUT.print(table)
    return shown.get()


def test_a_curve_ends_now_and_shows_the_last_value_of_each_minute():
    drawn = glance.curve([(0.0, 0.9), (10.0, 0.0), (895.0, 2.0), (899.0, None)], 900.0, (0.0, 1.0))
    assert (len(drawn), drawn[0], drawn[-1], drawn[1:-1].strip()) == (glance.SPARKS, "▁", "▲", "")


async def test_a_further_look_adds_what_came_since_and_forgets_what_is_old(redis):
    now_s = time.time()
    await tell(redis, streams.HEART, beat(now_s - glance.KEPT_S - 1, node="gone"), beat(now_s - 10, phi=0.1))
    await tell(redis, streams.APPLIED, applied(1))
    reader = glance.Reader(redis)
    assert [each.node for each in (await reader.look()).beats] == ["edge-1"]
    await tell(redis, streams.HEART, beat(now_s, phi=0.7))
    refused = applied(2, probe_before=2.0, probe_after=2.1, reason="[red]worse", verdict="refused")
    await tell(redis, streams.APPLIED, refused)
    seen = await reader.look()
    assert [each.phi["heart"] for each in seen.beats] == [0.1, 0.7]
    assert [each.version for each in seen.verdicts] == [1, 2]
    assert "0.70" in text_of(glance.kernels_table(seen))
    shown = text_of(glance.bundles_table(seen))
    assert "2.100" in shown
    assert "[red]worse" in shown
    assert shown.index("2.100") < shown.index("1 edge-1")
    assert all(word not in shown for word in ("not known", "–"))  # bundle 1 had nothing before it


async def test_the_first_look_reads_all_heartbeats_that_are_kept(redis, monkeypatch):
    monkeypatch.setattr(overview, "READ_MAX", 2)
    now_s = time.time()
    await tell(redis, streams.HEART, *(beat(now_s - ago_s) for ago_s in range(5, 0, -1)))
    assert len((await glance.Reader(redis).look()).beats) == 5


def fleet_of(*beats, verdicts=()):
    newest = {(each.service, each.node): each for each in beats}
    rows = tuple(StreamRow(stream, 12_345, 12_345, 12_345, 99.9, 12_345, 0, 4) for stream in streams.GROUPS)
    return glance.Glance(Seen(beats[-1].at_s, tuple(newest.values()), rows), beats, verdicts)


def test_a_figure_that_one_edge_knows_stands_beside_its_curve_though_another_does_not_know_it():
    seen = fleet_of(beat(890.0, phi=0.77), beat(900.0, phi=None, node="edge-2"))
    (row,) = [line for line in text_of(glance.kernels_table(seen)).splitlines() if "heart" in line]
    assert "0.77" in row
    assert "–" not in row
    fleet = text_of(services_table(seen.seen))
    assert "– not known yet: Φ needs 512 tokens since its edge's start" in fleet
    silent = beat(900.0, node="edge-2").model_copy(update={"phases": {}, "phi": {}, "kappa": {}})
    assert "not known" not in text_of(services_table(fleet_of(beat(900.0), silent).seen))


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_no_heading_and_no_figure_is_cut_and_long_names_fold(columns):
    domain = {"phases": {"strategy": "FRACTURE"}, "phi": {"strategy": None}, "kappa": {"strategy": 9999.9}}
    long = "a-clinic-far-down-the-river-with-a-name"
    beats = [beat(900.0, node=node, fresh_bytes=65_536).model_copy(update=domain) for node in ("edge-12", long)]
    beats.append(Heartbeat(node="aggregator", service="aggregator", at_s=890.0, bundle=12, ready=True))
    why = {"probe_before": 12.345, "probe_after": 12.456, "reason": "worse on the own text than the bundle before it"}
    seen = fleet_of(*beats, verdicts=(applied(12, "refused", **why),))
    tables = (glance.kernels_table(seen), services_table(seen.seen), streams_table(seen.seen))
    room = Console(width=columns - 5)  # a border, a space and a bar to scroll with
    for table in (*tables, glance.bundles_table(seen)):
        with room.capture() as shown:
            room.print(table)
        drawn = " ".join(shown.get().split())
        assert "…" not in drawn
        assert all(str(column.header) in drawn for column in table.columns)


async def test_on_80_columns_every_part_has_its_right_border():
    seen = fleet_of(*(beat(900.0, node=f"edge-{n}") for n in range(20)))

    async def look():
        return seen

    board = Board(look, 60.0)
    async with board.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert [board.query_one(f"#{name}").region.right for name in PARTS] == [79] * len(PARTS)  # 79: the scroll bar


async def test_the_board_shows_all_four_parts_a_broker_that_goes_away_and_its_return(redis, eventually):
    await tell(redis, streams.HEART, beat(time.time()))
    reader, away = glance.Reader(redis), False

    async def look():
        if away:
            raise AwayError("refused")
        return await reader.look()

    board = Board(look, 0.02)
    async with board.run_test(size=(120, 50)) as pilot:
        await pilot.pause()
        shown = {name: text_of(board.query_one(f"#{name}").content) for name in PARTS}
        assert "CRYSTAL" in shown["kernels"]
        assert "edge-1" in shown["fleet"]
        assert "qig:queries" in shown["streams"]
        assert "no bundle was tried yet" in shown["bundles"]
        news = board.query_one("#news")
        away = True
        await eventually(lambda: news.display)
        assert "refused" in str(news.content)
        away = False
        await eventually(lambda: not news.display)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_space_holds_the_board_and_q_ends_it(redis, key):
    looks = []

    async def look():
        looks.append(1)
        return await glance.Reader(redis).look()

    board = Board(look, 60.0)
    async with board.run_test() as pilot:
        await pilot.press("space")
        await board.look()
        assert (board.sub_title, len(looks)) == ("paused", 1)
        await pilot.press("space")
        await board.look()
        assert (board.sub_title, len(looks)) == ("", 2)
        await pilot.press(key)
        assert board.return_code == 0


def test_without_textual_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=r"pip install textual==8\.2\.8") as raised:
        top.run(every_s=1.0, home=tmp_path)
    assert raised.value.code == "no_textual"


def test_without_a_broker_it_says_how_to_start_one(tmp_path, monkeypatch):
    monkeypatch.delenv("QIG_BROKER_URL", raising=False)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(Unavailable, match="qig up"):
        top.run(every_s=1.0, home=tmp_path)


@pytest.mark.parametrize("piped", ["stdin", "stdout"])
def test_without_a_terminal_it_names_the_command_that_needs_none(tmp_path, monkeypatch, piped):
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(getattr(sys, stream), "isatty", lambda stream=stream: stream != piped)
    with pytest.raises(Unavailable, match=r"no_terminal.*qig watch --once"):
        top.run(every_s=1.0, home=tmp_path)
