import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time

import msgpack
import pytest
from broker_node import consumer
from client_edge import answer_to, edge, pieces_of
from rich.console import Console

from common.client import Reply
from common.errors import Rejected, Unavailable
from common.runtime import embedded, follower, relay, streams
from common.runtime.broker import Broker
from common.runtime.effects import ID_MAX_BYTES, Send
from common.wire.codec import pack, unpack
from common.wire.fields import MESSAGE_MAX_BYTES
from common.wire.inference import Answer, Cancel, Query, RouteStep
from common.wire.messages import DeadLetter, Heartbeat
from services.cli import ask, dead, read, route, watch
from services.cli.broker import check_there, client
from services.trainer import folder

pytestmark = pytest.mark.anyio
OUT = Console(width=120)
QIG = [sys.executable, "-m", "services.cli.app"]


def letter(body=b"m", **changed):
    fields = {"stream": streams.QUERIES, "entry": "1-1", "code": "garbage", "reason": "no map", "deliveries": 1}
    return pack(DeadLetter(**(fields | {"body": body, "at_s": 1.0} | changed)))


ASKED = {"text": "down to the sea", "deadline_s": 60.0}
READ = {"store": True, "timeout_s": 30.0}
HASTY = {"text": "down to the sea", "deadline_s": 0.5}


async def test_a_question_is_answered_and_leaves_no_key_behind(redis, broker_url, start_node):
    await start_node(consumer(edge(redis, bundle=3)))
    found = await ask._ask(broker_url, ASKED, None)
    assert (found.text, found.bundle) == (ASKED["text"], 3)
    assert await redis.keys("*qig:answers:*") == []


async def test_on_a_terminal_the_answer_appears_as_it_is_made(redis, broker_url, start_node, eventually):
    shown = Console(file=io.StringIO(), force_terminal=True, width=20)

    async def when_the_first_is_seen(piece):
        if piece.index == 1:
            await eventually(lambda: shown.file.getvalue().count("down") == 2)  # asked, and answered

    await start_node(consumer(edge(redis, when_the_first_is_seen)))
    await ask._ask(broker_url, ASKED, shown)
    assert "\x1b[2mdown to the sea\x1b[0mdown to the sea\n" in shown.file.getvalue()


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_question_is_refused_before_any_broker_is_asked(tmp_path, text):
    with pytest.raises(Rejected, match="bad_argument: the question is empty"):
        ask.run({"text": text}, timeout_s=1.0, home=tmp_path, json=False)


def test_of_a_long_prompt_the_end_is_shown():
    assert ask._prompt("x" + "y" * ask.PROMPT_SHOWN).plain == "… " + "y" * ask.PROMPT_SHOWN
    assert ask._prompt("y" * ask.PROMPT_SHOWN).plain == "y" * ask.PROMPT_SHOWN


async def test_a_text_that_begins_anew_is_told_from_the_old_one(capsys):
    query = Query(id="q-1", client="c", text="down to the sea")

    async def say(asked):
        for piece in (pieces_of(asked)[0], *pieces_of(asked, "edge-2")):
            yield piece
        yield answer_to(asked, node="edge-2")

    shown = Console(file=io.StringIO(), force_terminal=True, color_system=None)
    assert (await ask._show_pieces(Reply(query, say), shown)).node == "edge-2"
    assert "down \nanother edge took the query over, and begins anew:\ndown to the sea\n" in shown.file.getvalue()


@pytest.mark.parametrize("text", ["a\\", "\\[", "[red]", ":smile:", "x[/"])
def test_an_answer_is_shown_as_it_is(text):
    shown = Console(file=io.StringIO(), width=120)
    ask.show(answer_to(Query(id="q-1", client="c", text="-"), text=text), shown)
    assert shown.file.getvalue().startswith(f"{text}\n")


async def test_a_query_that_became_a_dead_letter_is_told_its_reason(broker_url, redis, start_node):
    async def fail(delivery, body):
        raise Rejected("garbage", "no map")

    await start_node(consumer(fail))
    with pytest.raises(Rejected, match=r"garbage: the query could not be handled: no map; see `qig dead list`"):
        await ask._ask(broker_url, ASKED, None)


async def test_a_question_without_any_edge_says_that_nobody_reads_it(redis, broker_url):
    with pytest.raises(Unavailable, match=r"no answer within 0\.5 s: no edge reads the queries; .*`qig up`"):
        await ask._ask(broker_url, HASTY, None)
    assert await redis.xlen(streams.QUERIES) == 1


async def test_an_edge_is_missed_however_many_heartbeats_others_have_sent_since(redis, broker_url, capsys, monkeypatch):
    monkeypatch.setattr(ask, "UNHEARD_AFTER_S", 0.0)
    for service in ["edge", *ask.HEARD_MOST * ["trainer"]]:
        age_s = 600.0 if service == "edge" else 1.0
        beat = Heartbeat(node=service, service=service, at_s=time.time() - age_s, bundle=1, ready=True)
        await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    with pytest.raises(Unavailable, match="no answer within"):
        await ask._ask(broker_url, HASTY, None)
    assert "no edge was heard of for 30 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ages_s", "said"), [([], False), ([25.0], False), ([35.0], True), ([90.0, 1.0], False)],
    ids=["no beat ever", "heard of lately", "silent", "one lives"],
)  # fmt: skip
async def test_a_question_that_waits_while_no_edge_lives_says_so_meanwhile(
    redis, broker_url, capsys, monkeypatch, ages_s, said
):
    monkeypatch.setattr(ask, "UNHEARD_AFTER_S", 0.0)
    for number, age_s in enumerate(ages_s):
        beat = Heartbeat(node=f"edge-{number}", service="edge", at_s=time.time() - age_s, bundle=1, ready=True)
        await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    with pytest.raises(Unavailable, match="no answer within"):
        await ask._ask(broker_url, HASTY, None)
    assert ("no edge was heard of for 30 s: `qig up` starts one\n" in capsys.readouterr().err) == said


async def test_watch_marks_and_explains_who_was_not_heard_of(redis):
    for node, at_s in [("edge-1", 69.0), ("edge-2", 71.0)]:
        beat = Heartbeat(node=node, service="edge", at_s=at_s, bundle=1, ready=True)
        await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    with OUT.capture() as shown:
        OUT.print(watch.view(await watch.Watcher(redis).look(100.0)))
    assert (shown.get().count("●"), shown.get().count("✗")) == (1, 2)
    assert "✗ not heard of for 30 s" in shown.get()


async def test_a_question_that_waits_behind_others_says_how_many(redis, broker_url):
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    await redis.xgroup_createconsumer(streams.QUERIES, "edge", "busy")
    with pytest.raises(Unavailable, match="1 query is waiting or in work"):
        await ask._ask(broker_url, HASTY, None)


async def test_a_question_to_no_broker_says_what_to_do():
    with pytest.raises(Unavailable, match=r"broker_away: no broker answers at redis://127\.0\.0\.1:1 .*`qig up`"):
        await ask._ask("redis://127.0.0.1:1", HASTY, None)


async def test_a_broker_that_went_away_while_a_question_waited_is_said():
    nobody = Unavailable("no_answer", "no answer within 60 s")
    message = r"broker_away: the broker at redis://127\.0\.0\.1:1 went away: .* try again once it is back"
    with pytest.raises(Unavailable, match=message):
        await ask.explained(nobody, "redis://127.0.0.1:1")


async def test_a_broker_that_goes_away_under_a_command_is_one_clear_error(tmp_path):
    running = embedded.start(tmp_path)

    async def look():
        async with client(running.url) as redis:
            await check_there(redis, running.url)
            running.stop()
            await watch.Watcher(redis).look(time.time())

    with pytest.raises(Unavailable, match=f"broker_away: the broker at {running.url} went away: "):
        await look()


async def test_a_long_text_is_read_in_pieces_and_each_is_asked_for_no_answer(redis, broker_url, start_node):
    await start_node(consumer(edge(redis, finish="read", prompt_bits=6000.0, prompt_bytes=2000)))
    done = []
    found = read.reading(await read._read(broker_url, ["one two", "three four", "five"], **READ, tell=done.append))
    assert (found.texts, found.bits_per_byte, found.nodes, done) == (3, 3.0, ("edge-1",), [1, 2, 3])
    queries = [unpack(Query, fields[b"__data__"]) for _, fields in await redis.xrange(streams.QUERIES)]
    assert all((query.max_tokens, query.store) == (0, True) for query in queries)


async def test_a_text_that_nobody_reads_says_why(redis, broker_url):
    with pytest.raises(Unavailable, match=r"no answer within 0\.5 s: no edge reads the queries; .*`qig up`"):
        await read._read(broker_url, ["one", "two"], **READ | {"timeout_s": 0.5}, tell=print)


@pytest.mark.live
async def test_ctrl_c_cancels_the_question_at_its_edge(redis, broker_url, eventually):
    environ = os.environ | {"QIG_BROKER_URL": broker_url}
    process = await asyncio.create_subprocess_exec(*QIG, "ask", "hello", env=environ, stderr=subprocess.PIPE)
    await eventually(lambda: redis.xlen(streams.QUERIES), 30.0)
    process.send_signal(signal.SIGINT)
    _, said = await process.communicate()
    assert (process.returncode, said) == (130, b"cancelled\n")
    ((_, asked),) = await redis.xrange(streams.QUERIES)
    ((_, cancelled),) = await redis.xrange(streams.CANCEL)
    query, cancel = unpack(Query, asked[b"__data__"]), unpack(Cancel, cancelled[b"__data__"])
    assert (cancel.query_id, cancel.client) == (query.id, query.client)


def test_the_evidence_names_what_is_known_and_what_is_not():
    steps = tuple(
        RouteStep(domain=d, kernel=d, distance_rad=r, weight=0.5) for d, r in [("heart", 0.1), ("vocab", 0.2)]
    )
    known = {"query_id": "q", "client": "c", "node": "edge-1", "bundle": 7, "text": "t", "finish": "stop"}
    found = Answer(**known, kernel="heart", domain="heart", route=steps, kappa=62.43, phase="CRYSTAL", seconds=0.5)
    phi = "Φ not known yet: 512 tokens of the kernel are needed since its edge started"
    line = f"HEART · route heart 0.10 < vocab 0.20 rad · {phi} · κ 62.4 CRYSTAL · 0 tokens · 0.50 s"
    assert ask.evidence(found) == f"{line} · bundle 7 · edge-1 · id q"


async def test_a_replayed_letter_is_back_in_its_stream_and_gone_from_the_dead(redis, broker_url):
    name = await redis.xadd(streams.dead(streams.QUERIES), {"__data__": letter(b"one")})
    await redis.xadd(streams.dead(streams.QUERIES), {"__data__": letter(b"two")})
    assert await dead._replay(streams.QUERIES, name.decode(), broker_url) == (1, 0, {})
    assert [fields for _, fields in await redis.xrange(streams.QUERIES)] == [{b"__data__": b"one"}]
    assert [found.body for _, found in await dead._list([streams.QUERIES], broker_url)] == [b"two"]


async def test_two_who_replay_one_letter_publish_it_once(redis, broker_url):
    name = (await redis.xadd(streams.dead(streams.QUERIES), {"__data__": letter()})).decode()
    both = [dead._replay(streams.QUERIES, name, broker_url) for _ in range(2)]
    await asyncio.gather(*both, return_exceptions=True)
    assert await redis.xlen(streams.QUERIES) == 1


async def test_all_letters_are_replayed_but_those_that_came_without_a_message(redis, broker_url, monkeypatch):
    monkeypatch.setattr(follower, "FOLLOW_RECORDS", 2)
    for number in range(5):
        code = "no_body" if number == 3 else "garbage"
        await redis.xadd(streams.dead(streams.PACKETS), {"__data__": letter(b"%d" % number, code=code)})
    assert await dead._replay(streams.PACKETS, None, broker_url) == (4, 1, {})
    assert [fields[b"__data__"] for _, fields in await redis.xrange(streams.PACKETS)] == [b"0", b"1", b"2", b"4"]
    assert await redis.xlen(streams.dead(streams.PACKETS)) == 1


async def test_what_could_not_be_carried_is_replayed_into_its_outbox_and_carried_once(redis, broker_url):
    await redis.set(streams.RETURNED, "no stream")
    await Broker(redis).commit(streams.PACKETS, [Send(streams.RETURNED, b"r", "r1")])
    await relay.drain(redis, streams.PACKETS)
    ((_, found),) = await dead._list([streams.PACKETS], broker_url)
    assert (found.stream, found.code) == (streams.outbox(streams.PACKETS), "wrong_type")
    await redis.delete(streams.RETURNED)
    assert await dead._replay(streams.PACKETS, None, broker_url) == (1, 0, {})
    await relay.drain(redis, streams.PACKETS)
    await Broker(redis).commit(streams.PACKETS, [Send(streams.RETURNED, b"r", "r1")])
    await relay.drain(redis, streams.PACKETS)
    assert [fields for _, fields in await redis.xrange(streams.RETURNED)] == [{b"__data__": b"r"}]
    assert await redis.xlen(streams.PACKETS) == await redis.xlen(streams.dead(streams.PACKETS)) == 0


async def test_the_longest_message_that_could_not_be_carried_is_replayed_whole(redis, broker_url):
    body, name = bytes(MESSAGE_MAX_BYTES), "i" * ID_MAX_BYTES
    await redis.set(streams.RETURNED, "no stream")
    await Broker(redis).commit(streams.PACKETS, [Send(streams.RETURNED, body, name)])
    await relay.drain(redis, streams.PACKETS)
    await redis.delete(streams.RETURNED)
    assert await dead._replay(streams.PACKETS, None, broker_url) == (1, 0, {})
    await relay.drain(redis, streams.PACKETS)
    assert [fields for _, fields in await redis.xrange(streams.RETURNED)] == [{b"__data__": body}]


async def test_a_letter_that_can_not_be_read_is_named_and_stops_no_other(
    redis, broker_url, tmp_path, monkeypatch, capsys
):
    letters = streams.dead(streams.PACKETS)
    cut_off = letter(b"\x83\xc4", stream=streams.outbox(streams.PACKETS), code="wrong_type")
    names = [(await redis.xadd(letters, {"__data__": body})).decode() for body in (cut_off, b"\xc1", letter(b"two"))]
    monkeypatch.setattr(dead, "find_url", lambda _: broker_url)
    assert await asyncio.to_thread(dead.replay, "packets", None, tmp_path, everything=True) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "1 published again on qig:packets" in said
    assert all(f"{name} stays: garbage:" in said for name in names[:2])
    assert [fields for _, fields in await redis.xrange(streams.PACKETS)] == [{b"__data__": b"two"}]
    assert [name.decode() for name, _ in await redis.xrange(letters)] == names[:2]


async def test_a_letter_that_can_not_be_read_is_listed_beside_the_others(
    redis, broker_url, tmp_path, monkeypatch, capsys
):
    letters = streams.dead(streams.PACKETS)
    names = [(await redis.xadd(letters, {"__data__": body})).decode() for body in (letter(b"\xff"), b"\xc1")]
    monkeypatch.setattr(dead, "find_url", lambda _: broker_url)
    await asyncio.to_thread(dead.show, None, tmp_path, json=True)
    whole, torn = map(json.loads, capsys.readouterr().out.splitlines())
    assert (whole["letter"], whole["body"]) == (names[0], "ff")
    assert (torn["letter"], torn["stream"], torn["code"]) == (names[1], streams.PACKETS, "garbage")
    assert "no msgpack value" in torn["reason"]
    await asyncio.to_thread(dead.show, None, tmp_path, json=False)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert "garbage" in shown


@pytest.mark.parametrize(
    "body",
    [
        1,
        {},
        {"stream": b"qig:returned", "id": b"r1"},
        {"stream": b"qig:returned", "id": b"r1", "__data__": "text"},
        {"stream": b"qig:returned", "id": b"r1", "__data__": b"m", "more": {"a": b"b"}},
        {"stream": b"qig:returned", "id": b"r1", "__data__": b"m", 7: b"m"},
    ],
)
async def test_an_outbox_letter_that_holds_no_entry_stays_and_stops_no_other(redis, broker_url, body):
    outbox, letters = streams.outbox(streams.PACKETS), streams.dead(streams.PACKETS)
    name = await redis.xadd(letters, {"__data__": letter(msgpack.packb(body), stream=outbox, code="wrong_type")})
    await redis.xadd(letters, {"__data__": letter(b"two")})
    done, empty, torn = await dead._replay(streams.PACKETS, None, broker_url)
    assert (done, empty, list(torn)) == (1, 0, [name.decode()])
    assert torn[name.decode()].startswith(f"garbage: {outbox}: ")
    assert await redis.xlen(outbox) == 0


async def test_letters_for_which_there_is_no_room_stay_until_there_is(redis, broker_url, monkeypatch):
    monkeypatch.setitem(streams._KEPT, streams.PACKETS, streams.Retention(entries=2, kind="work"))
    for number in range(3):
        await redis.xadd(streams.dead(streams.PACKETS), {"__data__": letter(b"%d" % number)})
    with pytest.raises(Unavailable, match=r"stream_full: qig:packets was full after 2 of 3"):
        await dead._replay(streams.PACKETS, None, broker_url)
    assert await redis.xlen(streams.dead(streams.PACKETS)) == 1
    await redis.delete(streams.PACKETS)
    assert await dead._replay(streams.PACKETS, None, broker_url) == (1, 0, {})


async def test_letters_that_a_full_broker_does_not_take_back_stay(tmp_path):
    running = embedded.start(tmp_path)
    try:
        async with client(running.url) as redis:
            await redis.xadd(streams.dead(streams.QUERIES), {"__data__": letter()})
            await redis.config_set("maxmemory", 1)
            with pytest.raises(Unavailable, match=f"broker_full: the broker at {running.url} has no memory left"):
                await dead._replay(streams.QUERIES, None, running.url)
            assert await redis.xlen(streams.dead(streams.QUERIES)) == 1
    finally:
        running.stop()


async def test_a_letter_that_is_not_there_is_said(redis, broker_url):
    with pytest.raises(Unavailable, match="no dead letter 1-1 of qig:queries"):
        await dead._replay(streams.QUERIES, "1-1", broker_url)


@pytest.mark.parametrize(("letter_id", "everything"), [(None, False), ("1-1", True), ("nonsense", False)])
def test_a_replay_needs_one_letter_or_all(tmp_path, letter_id, everything):
    with pytest.raises(Rejected, match="bad_argument"):
        dead.replay("queries", letter_id, tmp_path, everything=everything)


@pytest.mark.parametrize(("name", "ok"), [("queries", True), ("qig:queries", True), ("bundles", False), ("", False)])
def test_a_stream_is_named_with_or_without_its_prefix(name, ok):
    if ok:
        assert dead.stream_named(name) == streams.QUERIES
    else:
        with pytest.raises(Rejected, match="queries, packets, batches, candidates"):
            dead.stream_named(name)


async def test_watch_counts_what_waits_what_is_held_and_what_is_dead(redis):
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    for number in range(3):
        await redis.xadd(streams.QUERIES, {"__data__": b"%d" % number})
    await redis.xreadgroup("edge", "e", {streams.QUERIES: ">"}, count=1)
    await redis.xadd(streams.dead(streams.QUERIES), {"__data__": letter()})
    row = (await watch.Watcher(redis).look(100.0)).streams[0]
    assert (row.stream, row.length, row.lag, row.pending, row.dead, row.consumers) == ("qig:queries", 3, 2, 1, 1, 1)
    assert row.oldest_idle_s >= 0.0


async def test_of_a_stream_of_which_nobody_holds_anything_its_consumers_are_counted_and_not_listed(redis):
    await redis.xgroup_create(streams.QUERIES, "edge", id="0", mkstream=True)
    for number in range(3):
        await redis.xgroup_createconsumer(streams.QUERIES, "edge", f"edge-{number}")
    await redis.config_resetstat()
    row = (await watch.Watcher(redis).look(100.0)).streams[0]
    assert (row.consumers, row.pending, row.oldest_idle_s) == (3, 0, 0.0)
    assert "cmdstat_xinfo|consumers" not in await redis.info("commandstats")


async def test_watch_reads_what_came_since_it_looked_last(redis, monkeypatch):
    async def beat(node):
        told = Heartbeat(node=node, service="edge", at_s=99.0, bundle=1, ready=True)
        await redis.xadd(streams.HEART, {"__data__": pack(told)})

    watcher = watch.Watcher(redis)
    await beat("edge-1")
    assert [each.node for each in (await watcher.look(100.0)).services] == ["edge-1"]
    await beat("edge-2")

    def again(*_, **__):
        raise AssertionError("what it has read is read again")

    monkeypatch.setattr(type(redis), "xrevrange", again)
    assert [each.node for each in (await watcher.look(100.0)).services] == ["edge-1", "edge-2"]


async def test_watch_shows_the_newest_beat_of_each_service_and_passes_what_is_none(redis):
    for node, bundle in [("edge-1", 1), ("edge-2", 1), ("edge-1", 2)]:
        beat = Heartbeat(node=node, service="edge", at_s=99.0, bundle=bundle, ready=True, phi={"heart": None})
        await redis.xadd(streams.HEART, {"__data__": pack(beat)})
    await redis.xadd(streams.HEART, {"__data__": b"garbage"})
    seen = await watch.Watcher(redis).look(100.0)
    assert [(beat.node, beat.bundle) for beat in seen.services] == [("edge-1", 2), ("edge-2", 1)]
    assert len(json.loads(watch.as_json(seen))["streams"]) == 4
    with OUT.capture() as shown:
        OUT.print(watch.view(seen))
    assert "not known" in shown.get()


def qig(*line, **environ):
    kept = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"} | environ
    return subprocess.run([*QIG, *line], capture_output=True, text=True, check=False, env=kept, timeout=60)


def test_a_route_is_shown_for_people_and_for_programs(tmp_path, micro_parts, capsys):
    folder.write(micro_parts, tmp_path / "genesis")
    where = {"genesis": None, "home": tmp_path, "coordizer": None, "data": tmp_path}
    assert route.run(text="the rain returns", json=False, **where) == 0
    assert "HRT" in capsys.readouterr().out
    route.run(text="the rain returns", json=True, **where)
    told = json.loads(capsys.readouterr().out)
    assert sum(step["weight"] for step in told["route"]) == pytest.approx(1.0)


def test_a_home_without_a_constellation_is_one_line_with_what_to_do(tmp_path):
    done = qig("validate", "--genesis", str(tmp_path / "genesis"))
    assert (done.returncode, done.stdout) == (3, "")
    assert f"error: no constellation at {tmp_path}/genesis: `qig train` makes one" in done.stderr


@pytest.mark.live
async def test_ctrl_c_stops_a_constellation_in_good_order(tmp_path, micro_parts):
    folder.write(micro_parts, tmp_path / "genesis")
    line = [*QIG, "up", "--edges", "1", "--port", "0", "--home", str(tmp_path)]
    process = await asyncio.create_subprocess_exec(*line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said = b""
    while b"ready at" not in said:
        said += await asyncio.wait_for(process.stdout.readline(), 60)
    assert said.startswith(f"home    {tmp_path}, made now, with new keys\nbroker  redis://".encode())
    process.send_signal(signal.SIGINT)
    rest, _ = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, b"stopped; the state is kept" in rest) == (0, True)
