"""The live page without a browser: its files, its stream, and what it looks out for."""

import asyncio
import json
import re
import time

import pytest
from edge_fleet import Publisher, settings_of
from http_edge import edge_with_client, ready
from redis.asyncio import Redis

from common.runtime import streams
from common.runtime.broker import Broker
from common.wire.codec import pack
from common.wire.messages import Applied, Heartbeat
from services.edge.http import live as page
from services.edge.http.live import events
from services.edge.http.lookout import Lookout
from services.edge.live import KEPT_S, VERDICTS_MAX, WATCHED_S, Live

pytestmark = pytest.mark.anyio
OUTSIDE = re.compile(r"(?:https?:)?//[a-z0-9.]+\.[a-z]", re.IGNORECASE)


async def heard(lines, kind):
    """The data of the next event of a kind."""
    name = None
    async with asyncio.timeout(10):
        async for line in lines:
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == kind:
                return json.loads(line.removeprefix("data: "))
    raise AssertionError(f"the stream ended without {kind}")


async def test_the_page_asks_nothing_of_others_and_has_no_script_or_style_inside(http):
    answer = await http.get("/")
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    text = answer.text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", text)
    linked = re.findall(r'(?:href|src)="([^"#][^"]*)"', text)
    assert all(link.startswith("/") for link in linked)
    for link in linked:
        assert (await http.get(link)).status_code == 200, link


async def test_no_file_of_the_page_names_another_host(http):
    for file in sorted(page.FILES.iterdir()):
        answer = await http.get(f"/page/{file.name}")
        assert answer.status_code == 200
        own = file.suffix in {".html", ".css", ".js"} and not file.name.startswith("uPlot")
        assert not (own and OUTSIDE.search(file.read_text().replace("//www.w3.org/2000/svg", ""))), file.name


async def test_every_module_that_a_script_imports_is_served(http):
    for file in page.FILES.glob("*.js"):
        for name in re.findall(r'from "\./([^"]+)"', file.read_text()):
            assert (await http.get(f"/page/{name}")).status_code == 200, name


async def test_without_javascript_the_page_is_a_table_of_what_is(http, eventually):
    async def text():
        return (await http.get("/")).text

    async def whole():
        return {"applied", "qig:queries", "<td>node-1"} <= set(
            re.findall("applied|qig:queries|<td>node-1", await text())
        )

    await eventually(whole)


async def test_who_follows_is_told_everything_and_then_each_answer(http):
    async with http.stream("GET", "/live") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        told = await heard(lines, "all")
        assert (told["node"], told["bundle"]) == ("node-1", 1)
        assert len(told["map"]["names"]) == 4
        asked = {"model": "constellation", "prompt": "The king spake unto the people", "max_tokens": 3}
        made = (await http.post("/v1/completions", json=asked)).json()["constellation"]
        answer = await heard(lines, "answer")
        assert {step["domain"]: step["distance_rad"] for step in answer["route"]} == made["distances_rad"]
        assert "king" not in json.dumps(answer)


async def test_an_edge_that_stops_ends_the_streams_of_its_pages_and_does_not_wait_for_them(
    tmp_path, broker, broker_url, micro_parts, eventually
):
    settings = settings_of(tmp_path, broker_url)
    await Publisher(broker, tmp_path).release(micro_parts)
    async with edge_with_client(settings) as http:
        await eventually(lambda: ready(http))
        response = await http.send(http.build_request("GET", "/live"), stream=True)
        await heard(response.aiter_lines(), "all")
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 4.0


async def test_a_page_too_many_is_turned_away(monkeypatch, http, eventually):
    async def free():
        async with http.stream("GET", "/live") as first:
            if first.status_code != 200:
                return False
            await heard(first.aiter_lines(), "all")
            assert (await http.get("/live")).status_code == 503
            return True

    monkeypatch.setattr(page, "VIEWERS_MAX", 1)
    await eventually(free)
    await eventually(free)  # the first is gone


async def test_who_fell_behind_is_told_everything_anew(monkeypatch):
    monkeypatch.setattr(page, "PAUSE_S", 0.001)
    live = Live("edge-1")
    told = page.events(live, lambda: 1.0)
    assert (await anext(told)).startswith("retry: 1000\nevent: all\n")
    live.looked([], 1.0)
    live.looked([], 2.0)
    news = await anext(told)
    assert news.count("event: broker\n") == 2
    for _ in range(1000):
        live.looked([], 3.0)
    assert (await anext(told)).startswith("event: all\n")
    live.ended = True
    assert [each async for each in told] == []


# The lookout


async def tell(redis, stream, message):
    await redis.xadd(stream, {"__data__": pack(message)})


def beat(node, at_s):
    return Heartbeat(node=node, service="edge", at_s=at_s, bundle=1, ready=True)


async def test_the_lookout_tells_each_verdict_once_and_of_each_service_the_newest_beat(redis, broker):
    live, now_s = Live("edge-1"), time.time()
    live.seen(now_s)
    lookout = Lookout(live, broker)
    for told in (beat("gone", now_s - KEPT_S - 10), beat("edge-2", now_s - 5), beat("edge-2", now_s)):
        await tell(redis, streams.HEART, told)
    await tell(redis, streams.APPLIED, Applied(node="edge-2", version=1, verdict="applied", at_s=now_s))
    await lookout.look()
    await lookout.look()
    assert [event.kind for event in live.after(0)] == ["beat", "applied", "broker", "broker"]
    told = live.state(now_s)
    assert [(each["node"], each["at_s"]) for each in told["services"]] == [("edge-2", now_s)]
    assert len(told["broker"]["streams"]) == 4


async def test_the_lookout_asks_the_broker_nothing_while_nobody_looks_at_the_page(redis, broker):
    live, now_s = Live("edge-1"), 1_000.0
    lookout = Lookout(live, broker, now=lambda: now_s)
    for number in range(3):
        await tell(redis, streams.HEART, beat(f"edge-{number}", now_s))
    await redis.config_resetstat()
    await lookout.look()
    assert "cmdstat_xrevrange" not in await redis.info("commandstats")
    live.seen(now_s)
    await lookout.look()
    assert len(live.state(now_s)["services"]) == 3
    now_s += WATCHED_S
    told = live.newest
    await lookout.look()
    assert live.newest == told
    assert live.state(now_s)["services"] == []


async def test_who_comes_after_a_while_is_told_the_newest_verdicts_and_no_older_ones(redis, broker):
    live, now_s = Live("edge-1"), 1_000.0
    lookout = Lookout(live, broker, now=lambda: now_s)
    for version in range(1, 300):
        if version == 5:
            live.seen(now_s)
            await lookout.look()
            now_s += WATCHED_S
            await lookout.look()
        await tell(redis, streams.APPLIED, Applied(node="edge-2", version=version, verdict="applied", at_s=now_s))
    live.seen(now_s)
    await lookout.look()
    assert [each["version"] for each in live.state(now_s)["applied"]] == list(range(300 - VERDICTS_MAX, 300))


async def test_who_looks_at_the_page_is_seen():
    live = Live("edge-1")
    assert not live.watched(0.0)
    told = events(live, lambda: 50.0)
    await anext(told)
    assert live.watched(50.0 + WATCHED_S - 0.1)
    assert not live.watched(50.0 + WATCHED_S)
    assert not live.watched(50.0 - WATCHED_S)  # a clock that was set back
    await told.aclose()


async def test_a_broker_that_does_not_answer_is_told_and_so_is_its_return(broker):
    live = Live("edge-1")
    live.seen(time.time())
    lookout = Lookout(live, Broker(Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1)))
    await lookout.look()
    assert "127.0.0.1:1" in live.state(1.0)["broker"]["away"]
    lookout._broker = broker
    await lookout.look()
    assert live.state(1.0)["broker"]["away"] is None
