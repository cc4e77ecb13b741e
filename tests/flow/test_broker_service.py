import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pytest
from broker_node import COUNTS, consumer, count, finished
from broker_service import fetch, ready, settings
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from common.errors import Corrupt, QigError, Rejected, Unavailable
from common.runtime import embedded, http, scripts, streams
from common.runtime.connection import connect
from common.runtime.effects import Send
from common.runtime.service import Tick, Wiring, serve

pytestmark = pytest.mark.anyio
MAIN = """
from common.runtime.service import Wiring, run
from common.runtime.settings import EdgeSettings

async def build(settings, broker):
    await broker.redis.set("built", settings.node)
    return Wiring()

run("edge", EdgeSettings, build)
"""


async def test_a_service_shows_health_readiness_and_metrics(redis, broker_url, running, eventually):
    url, _ = await running(settings(broker_url, QIG_NODE="kiosk"), Wiring(consumers=[consumer(count)]))
    await eventually(lambda: ready(url))
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await eventually(lambda: redis.hexists(COUNTS, "q"))
    assert json.loads((await fetch(url + "/healthz"))[1]) == {"service": "edge", "node": "kiosk"}

    async def shows(line):
        return line in (await fetch(url + "/metrics"))[1]

    assert await shows('qig_handled_total{outcome="done",stream="qig:queries"}')
    await eventually(lambda: shows("qig_ready 1.0\n"))
    assert (await fetch(url + "/nowhere"))[0] == 404


async def test_readiness_gives_the_services_own_reason(redis, broker_url, running, eventually):
    url, _ = await running(settings(broker_url), Wiring(ready=lambda: "no bundle yet"))

    async def says_so():
        return await fetch(url + "/readyz") == (503, '{"ready": false, "reasons": {"edge": "no bundle yet"}}')

    await eventually(says_so)
    assert await says_so()
    assert "qig_ready 0.0\n" in (await fetch(url + "/metrics"))[1]


async def test_a_service_that_starts_while_the_broker_cannot_write_waits_until_it_can(
    tmp_path, running, eventually, caplog
):
    broker = await asyncio.to_thread(embedded.start, tmp_path)
    async with connect(broker.url) as redis:
        await redis.config_set("save", "3600 1")
        shutil.rmtree(tmp_path)
        await redis.bgsave()

        async def refuses():
            with suppress(ResponseError):
                return not await redis.ping()
            return True

        await eventually(refuses)
        url, end = await running(settings(broker.url), Wiring())
        await eventually(lambda: "MISCONF" in caplog.text)
        status, body = await fetch(url + "/readyz")
        assert (status, "waits for the broker" in body) == (503, True)
        await redis.config_set("stop-writes-on-bgsave-error", "no")
        await eventually(lambda: ready(url))
        await end()
    broker.process.kill()
    broker.process.wait()


async def test_a_service_waits_for_a_broker_that_is_not_there_yet(tmp_path, running, eventually):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, end = await running(settings(f"redis://127.0.0.1:{port}"), Wiring())
    status, body = await fetch(url + "/readyz")
    assert (status, "waits for the broker" in body) == (503, True)
    late = await asyncio.to_thread(embedded.start, tmp_path, port)
    await eventually(lambda: ready(url))
    await end()
    late.stop()


async def test_a_service_that_is_being_built_does_not_say_that_it_waits_for_the_broker(broker_url, eventually):
    url, stop, built = asyncio.get_running_loop().create_future(), asyncio.Event(), asyncio.Event()

    async def build(_broker):
        await built.wait()
        return Wiring()

    life = asyncio.create_task(
        serve(settings(broker_url), service="edge", build=build, check_every_s=0.05, stop=stop, on_start=url.set_result)
    )

    async def being_built():
        return "starting: is being built" in (await fetch(await url + "/readyz"))[1]

    await eventually(being_built)
    built.set()
    await eventually(lambda: ready(url.result()))
    stop.set()
    await life


async def test_a_service_whose_broker_goes_away_is_not_ready_and_recovers(tmp_path, running, eventually):
    first = embedded.start(tmp_path)
    url, end = await running(settings(first.url), Wiring(consumers=[consumer(count)]))
    await eventually(lambda: ready(url))
    first.stop()

    async def not_ready():
        return not await ready(url)

    await eventually(not_ready)
    second = await asyncio.to_thread(embedded.start, tmp_path, int(first.url.rpartition(":")[2]))
    await eventually(lambda: ready(url))
    async with connect(second.url) as redis:
        await redis.xadd(streams.QUERIES, {"__data__": b"q"})
        await eventually(lambda: finished(redis))
        assert await redis.hget(COUNTS, "q") == b"1"
    await end()
    second.stop()


async def test_a_failing_tick_shows_in_readiness_and_runs_again(redis, broker_url, running, eventually):
    errors = [ZeroDivisionError("by nought"), Unavailable("model_loading", "not yet")]
    url, end = None, None

    async def run():
        if errors:
            raise errors.pop(0)

    url, end = await running(settings(broker_url), Wiring(ticks=[Tick("cut", 0.2, run)]))

    async def shows(text):
        return text in (await fetch(url + "/readyz"))[1]

    await eventually(lambda: shows("by nought"))
    await eventually(lambda: shows("model_loading"))
    await eventually(lambda: ready(url))
    await end()
    assert errors == []


@pytest.mark.parametrize("error", [Unavailable("broker_away", "not there"), RedisError("not there")])
async def test_a_tick_that_is_rare_runs_again_soon_where_something_was_not_there(
    redis, broker_url, running, eventually, error
):
    """Else a service whose broker is back would not be ready before its rarest tick has run."""
    errors, there = [error], asyncio.Event()

    async def run():
        if errors:
            raise errors.pop()
        await there.wait()

    url, _ = await running(settings(broker_url), Wiring(ticks=[Tick("look", 3600.0, run)]))
    await eventually(lambda: not errors)
    assert not await ready(url)
    there.set()
    await eventually(lambda: ready(url))


@pytest.mark.parametrize("error", [Unavailable("disk_full", "no space left"), Corrupt("not_a_record", "damaged")])
async def test_a_tick_that_is_frequent_rests_where_it_failed(
    redis, broker_url, running, eventually, monkeypatch, error
):
    """What it did until then, as to read the whole of the last good bundle, and what it said, comes again each time."""
    monkeypatch.setattr("common.runtime.service.BACKOFF_MAX_S", 60.0)
    ran = []

    async def wrong():
        ran.append("wrong")
        raise error

    async def well():
        ran.append("well")

    await running(settings(broker_url), Wiring(ticks=[Tick("wrong", 0.01, wrong), Tick("well", 0.01, well)]))
    await eventually(lambda: ran.count("well") > 5)
    assert ran.count("wrong") == 1


async def test_the_stop_finishes_a_tick_and_carries_the_outbox(redis, broker_url, running):
    begun, release = asyncio.Event(), asyncio.Event()

    def wiring(broker):
        async def cut():
            begun.set()
            await release.wait()
            await broker.commit(streams.PACKETS, [Send(streams.BATCHES, b"b", "b1")])

        return Wiring(ticks=[Tick("cut", 60.0, cut)], relays=[streams.PACKETS])

    _, end = await running(settings(broker_url), wiring)
    await begun.wait()
    ending = asyncio.create_task(end())
    await asyncio.sleep(0)
    release.set()
    await ending
    assert await redis.xlen(streams.BATCHES) == 1


async def test_a_taken_port_is_refused_by_name(broker_url):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        loaded = settings(broker_url, QIG_HTTP_PORT=str(taken.getsockname()[1]))
        with pytest.raises(Unavailable, match=r"port_taken.*QIG_HTTP_PORT"):
            await serve(loaded, service="edge", build=lambda _: asyncio.sleep(0, Wiring()))


async def test_an_error_in_the_factory_ends_the_service_with_that_error(redis, broker_url):
    async def build(broker):
        raise Unavailable("missing_key", "no key at x")

    with pytest.raises(QigError, match="missing_key"):
        await serve(settings(broker_url), service="edge", build=build)


async def test_a_broker_that_refuses_us_ends_the_start_without_showing_the_password(redis, broker_url):
    await redis.config_set("requirepass", "secret")
    try:
        wrong = broker_url.replace("redis://", "redis://:guess@")
        with pytest.raises(Rejected, match="broker_refused") as refused:
            await serve(settings(wrong), service="edge", build=lambda _: asyncio.sleep(0, Wiring()))
    finally:
        await redis.execute_command("AUTH", "secret")
        await redis.config_set("requirepass", "")
    assert "guess" not in str(refused.value)


async def test_a_process_ends_with_zero_on_sigterm(redis, broker_url, eventually):
    environment = {"QIG_BROKER_URL": broker_url, "QIG_HTTP_PORT": "0", "PATH": os.environ["PATH"]}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MAIN, env=environment, stderr=asyncio.subprocess.PIPE
    )
    await eventually(lambda: redis.exists("built"))
    process.send_signal(signal.SIGTERM)
    _, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert all(json.loads(line)["service"] == "edge" for line in errors.splitlines())


async def test_an_unknown_setting_is_one_line_and_exit_code_two():
    environment = {"QIG_BROKER_URL": "redis://x", "QIG_SLEEP_MAXS": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", MAIN]
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "qig edge: unknown_setting: QIG_SLEEP_MAXS is no setting: did you mean QIG_SLEEP_MAX_S?\n"


async def test_what_is_answered_on_a_kept_connection_leaves_at_once():
    sent_at_once = asyncio.get_running_loop().create_future()

    def accepted(_, writer):
        sent_at_once.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = http.bind("127.0.0.1", 0)
    async with await asyncio.start_server(accepted, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await sent_at_once
        writer.close()
        await writer.wait_closed()


@pytest.mark.skipif(not socket.has_ipv6, reason="this Python was built without IPv6")
async def test_what_listens_everywhere_is_reached_by_either_ip():
    with http.bind("::", 0) as listener:
        port = listener.getsockname()[1]
        async with await asyncio.start_server(lambda _, writer: writer.close(), sock=listener):
            for address in ("127.0.0.1", "::1"):
                reader, writer = await asyncio.open_connection(address, port)
                assert await reader.read() == b""
                writer.close()
                await writer.wait_closed()


async def test_the_replica_is_a_part_of_the_consumer_s_name(redis, broker_url, running, eventually):
    url, _ = await running(
        settings(broker_url, QIG_NODE="kiosk", QIG_REPLICA="0b1f"), Wiring(consumers=[consumer(count)])
    )
    await eventually(lambda: ready(url))

    async def is_known():
        found = await redis.xinfo_consumers(streams.QUERIES, streams.GROUPS[streams.QUERIES])
        return {each["name"].decode().rpartition(".")[0] for each in found} == {"kiosk.0b1f"}

    await eventually(is_known)


async def test_an_app_of_its_own_answers_all_other_paths_while_it_works(redis, broker_url, running, eventually):
    async def own(scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    url, _ = await running(settings(broker_url), Wiring(app=own))
    await eventually(lambda: ready(url))
    assert await fetch(url + "/any/where") == (200, "/any/where")
    assert (await fetch(url + "/healthz"))[0] == 200


async def test_paths_of_a_service_that_waits_for_its_broker_are_away(running):
    url, _ = await running(settings("redis://127.0.0.1:1"), Wiring())
    status, body = await fetch(url + "/v1/models")
    assert (status, json.loads(body)["error"]["code"]) == (503, "away")


async def test_a_broker_that_goes_away_again_while_a_service_begins_is_waited_for(
    redis, broker_url, running, eventually, monkeypatch
):
    has_slots, back = scripts.has_slots, asyncio.Event()

    async def away(redis):
        if back.is_set():
            return await has_slots(redis)
        raise RedisConnectionError("connection refused")

    monkeypatch.setattr(scripts, "has_slots", away)
    url, end = await running(settings(broker_url), Wiring(consumers=[consumer(count)]))

    async def waits():
        return "starting: waits for the broker" in (await fetch(url + "/readyz"))[1]

    await eventually(waits)
    back.set()
    await eventually(lambda: ready(url))
    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    await eventually(lambda: finished(redis))
    await end()


async def test_a_service_that_begins_while_its_broker_is_silent_is_stopped_at_once(redis, broker_url, monkeypatch):
    asked, stop = asyncio.Event(), asyncio.Event()

    async def silent(_):
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(scripts, "has_slots", silent)
    life = asyncio.create_task(serve(settings(broker_url), service="edge", build=None, stop=stop))
    async with asyncio.timeout(10):
        await asked.wait()
        stop.set()
        await life


async def test_a_stop_waits_for_what_does_not_end_no_longer_than_it_may(redis, broker_url, running, monkeypatch):
    """As what is asked of a broker that is silent: killed instead, an edge would say that its bundle had ended it."""
    monkeypatch.setattr("common.runtime.service.FINISH_S", 0.2)
    begun, ended = asyncio.Barrier(3), []

    async def endless(*_):
        await begun.wait()
        await asyncio.Event().wait()

    async def last():
        ended.append("in good order")

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    wiring = Wiring(consumers=[consumer(endless)], ticks=[Tick("tick", 60.0, endless)], stop=last)
    _, end = await running(settings(broker_url), wiring)
    async with asyncio.timeout(10):
        await begun.wait()
        await end()
    assert ended == ["in good order"]


async def test_a_service_that_fails_leaves_no_task_and_no_connection(redis, broker_url, eventually):
    begun, stop, others = asyncio.Event(), asyncio.Event(), asyncio.all_tasks()
    before = len(await redis.client_list())

    async def handle(delivery, body):
        begun.set()
        await asyncio.Event().wait()

    def fail():
        raise ZeroDivisionError

    async def build(_broker):
        return Wiring(consumers=[consumer(handle)], stopping=fail)

    await redis.xadd(streams.QUERIES, {"__data__": b"q"})
    life = asyncio.create_task(serve(settings(broker_url), service="edge", build=build, check_every_s=0.05, stop=stop))
    await asyncio.wait_for(begun.wait(), 10)
    stop.set()
    with pytest.raises(ExceptionGroup):
        await life
    assert asyncio.all_tasks() - others <= {life}

    async def alone():
        return len(await redis.client_list()) <= before

    await eventually(alone)
