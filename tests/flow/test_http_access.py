import asyncio
import time

import pytest
from edge_fleet import Publisher, settings_of
from http_edge import COMPILED_S, edge_with_client, ready

from common.errors import Rejected, Unavailable
from common.runtime import api_keys, embedded
from common.runtime.api_keys import default_path, new_key, pack
from common.runtime.rates import Rates
from common.runtime.settings import ApiSettings
from services.cli import forget
from services.cli.probe import free_port
from services.edge.app import build

pytestmark = pytest.mark.anyio
KIOSK, SHIP = new_key(b"\1" * 32), new_key(b"\2" * 32)


@pytest.fixture
def keyed(tmp_path, broker_url):
    """The settings of an edge with two keys, and a way to change them."""
    settings = settings_of(tmp_path, broker_url)
    path = default_path(settings.home)
    keys = api_keys.add(api_keys.add((), "kiosk", KIOSK, now_s=1.0), "ship", SHIP, now_s=2.0)
    path.write_bytes(pack(keys))
    return settings, lambda *names: path.write_bytes(pack([key for key in keys if key.name in names]))


def bearing(key):
    return {"authorization": f"Bearer {key}"}


async def status(http, key=None):
    return (await http.get("/v1/models", headers=bearing(key) if key else {})).status_code


async def test_only_a_key_opens_the_api_and_health_is_open(keyed, redis, eventually):
    settings, _ = keyed
    async with edge_with_client(settings) as http:
        await eventually(lambda: answers(http))
        assert [await status(http, key) for key in (None, "qig-wrong", KIOSK, SHIP)] == [401, 401, 200, 200]
        refused = await http.get("/v1/models", headers=bearing("qig-wrong"))
        assert refused.json()["error"]["code"] == "invalid_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await http.get("/healthz")).status_code == (await http.get("/metrics")).status_code == 200


async def test_a_revoked_key_is_refused_from_the_next_request_on(keyed, redis, eventually):
    settings, keep = keyed
    async with edge_with_client(settings) as http:
        await eventually(lambda: answers(http))
        assert await status(http, SHIP) == 200
        keep("kiosk")
        assert [await status(http, key) for key in (SHIP, KIOSK)] == [401, 200]


async def test_an_interaction_belongs_to_its_key(keyed, broker, micro_parts, eventually):
    settings, _ = keyed
    await Publisher(broker, settings.home).release(micro_parts)
    async with edge_with_client(settings) as http:
        await eventually(lambda: ready(http), COMPILED_S)
        body = {"model": "constellation", "prompt": "The king", "max_tokens": 1}
        name = (await http.post("/v1/completions", json=body, headers=bearing(KIOSK))).json()["id"]
        foreign = await http.delete(f"/v1/interactions/{name}", headers=bearing(SHIP))
        pretended = await http.delete(f"/v1/interactions/{name}?client=kiosk", headers=bearing(SHIP))
        own = await http.delete(f"/v1/interactions/{name}?client=kiosk", headers=bearing(KIOSK))
    assert [each.status_code for each in (foreign, pretended, own)] == [404, 403, 200]


async def test_a_running_edge_with_keys_forgets_for_whoever_shows_its_key(keyed, broker, micro_parts, eventually):
    settings, _ = keyed
    settings = settings.model_copy(update={"http_port": free_port()})
    await Publisher(broker, settings.home).release(micro_parts)
    path = settings.home / "shown.key"

    async def forgotten(key):
        path.write_text(key)
        asked = {"query_id": name, "client": "kiosk", "node": None, "home": settings.home, "json": True}
        return await asyncio.to_thread(forget.run, **asked, key_file=path)

    async with edge_with_client(settings) as http:
        await eventually(lambda: ready(http), COMPILED_S)
        body = {"model": "constellation", "prompt": "The king", "max_tokens": 1}
        name = (await http.post("/v1/completions", json=body, headers=bearing(KIOSK))).json()["id"]
        with pytest.raises(Unavailable, match="does not take this key"):
            await forgotten(SHIP)
        assert await forgotten(KIOSK) == 0
        gone = await http.delete(f"/v1/interactions/{name}", headers=bearing(KIOSK))
    assert gone.status_code == 404


async def test_an_edge_that_others_reach_does_not_start_without_keys(tmp_path, broker, broker_url):
    settings = settings_of(tmp_path, broker_url, http_host="0.0.0.0")
    with pytest.raises(Rejected, match=r"0\.0\.0\.0 is an address that others reach.*qig keys api add"):
        await build(settings, broker)


async def test_an_edge_that_others_reach_may_be_opened_on_purpose_and_keys_still_close_it(keyed, redis, eventually):
    settings, keep = keyed
    open_to_all = ApiSettings(api_open=True)
    async with edge_with_client(settings.model_copy(update={"http_host": "0.0.0.0"}), open_to_all) as http:
        await eventually(lambda: answers(http))
        assert await status(http) == 401
        keep()
        assert await status(http) == 200


async def for_hosts(http, *hosts):
    """The statuses of a request for each host."""
    return [(await http.get("/v1/models", headers={"host": host})).status_code for host in hosts]


async def test_an_edge_that_needs_no_key_answers_the_names_of_its_machine_alone(keyed, redis, eventually):
    settings, keep = keyed
    keep()
    async with edge_with_client(settings) as http:
        await eventually(lambda: answers(http))
        port = http.base_url.port
        names = (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "localhost")
        assert await for_hosts(http, *names) == [200] * 4
        assert await for_hosts(http, "evil.example", f"evil.example:{port}") == [403, 403]
        refused = await http.delete("/v1/interactions/x", headers={"host": "evil.example"})
        assert refused.json()["error"]["code"] == "unknown_host"


async def test_who_needs_a_key_or_is_kept_out_otherwise_may_come_by_any_name(keyed, redis, eventually):
    settings, keep = keyed
    async with edge_with_client(settings) as http:
        await eventually(lambda: answers(http))
        named = {"host": "edge.example", **bearing(KIOSK)}
        assert (await http.get("/v1/models", headers=named)).status_code == 200
    keep()
    async with edge_with_client(settings, ApiSettings(api_open=True)) as http:
        await eventually(lambda: answers(http))
        assert await for_hosts(http, "edge.example") == [200]


async def test_a_key_that_asks_too_often_is_told_when_to_ask_again(keyed, redis, eventually, monkeypatch):
    monkeypatch.setattr("common.runtime.rates.LOOK_TIMEOUT_S", 10.0)  # on a busy machine too each request is counted
    settings, _ = keyed
    async with edge_with_client(settings, ApiSettings(api_per_minute=2)) as http:
        await eventually(lambda: answers(http))
        first, second, third = [await http.get("/v1/models", headers=bearing(KIOSK)) for _ in range(3)]
        other = await http.get("/v1/models", headers=bearing(SHIP))
    assert [each.status_code for each in (first, second, third, other)] == [200, 200, 429, 200]
    assert [each.headers["x-ratelimit-remaining-requests"] for each in (first, second, third)] == ["1", "0", "0"]
    assert third.headers["x-ratelimit-limit-requests"] == "2"
    assert third.headers["x-ratelimit-reset-requests"].endswith("s")
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert int(third.headers["retry-after-ms"]) <= 60_000


async def test_requests_are_answered_uncounted_while_the_broker_is_away(tmp_path, monkeypatch):
    running = embedded.start(tmp_path)
    rates = Rates(running.url, per_minute=1)
    with monkeypatch.context() as patient:
        patient.setattr("common.runtime.rates.LOOK_TIMEOUT_S", 10.0)  # a busy machine counts late, and must count here
        assert (await rates.hit("kiosk", time.time())).allowed
        assert not (await rates.hit("kiosk", time.time())).allowed
    running.stop()
    began_s = time.monotonic()
    assert await rates.hit("kiosk", time.time()) is None
    assert time.monotonic() - began_s < 1
    await rates.close()


async def answers(http):
    """Whether the API itself is there: what was refused for want of a key was asked for one."""
    return (await http.get("/v1/models")).status_code != 503
