"""A whole constellation in which every process has its own user at the broker, with no more rights than it needs."""

import asyncio
import dataclasses
from urllib.parse import urlsplit

import pytest
from live_fleet import EDGES, ROOT, live, until
from typer.testing import CliRunner

from common.client import Client
from common.runtime import access, rights, streams
from common.runtime.connection import connect
from common.runtime.settings import user_of
from services.cli.app import app

pytestmark = [pytest.mark.live, pytest.mark.anyio, pytest.mark.timeout(180)]
CLIENT = "kiosk"
COMMANDS = (
    "watch --once",
    "nodes",
    "batch list",
    "bundle list",
    "bundle why",
    "doctor",
    "ask Where? --max-tokens 1",
    "dead list",
    "dead replay --stream queries --all",
    "bundle revoke",
    "packet disown edge-2",
    "keys broker --load",
)


@pytest.fixture(scope="module")
async def lively(micro_parts, tmp_path_factory):
    async with live(tmp_path_factory.mktemp("rights") / "home", micro_parts, users=[CLIENT]) as running:
        yield running


@pytest.fixture(scope="module")
async def root(lively):
    """The broker as nobody of the fleet sees it."""
    async with connect(f"redis://{ROOT}:{ROOT}@127.0.0.1:{urlsplit(lively.fleet.broker_url).port}") as redis:
        yield redis


async def test_a_query_a_packet_a_batch_a_release_and_every_command_pass_and_nothing_is_refused(lively, root):
    services = {each.service: lively.fleet.url_of(each.service) for each in lively.fleet.members.values()}
    assert {service: user_of(url) for service, url in services.items()} == {service: service for service in services}
    async with Client(access.login(lively.home, CLIENT, lively.fleet.broker_url)) as client:
        reply = client.stream("The whale rose", max_tokens=4, deadline_s=60)
        assert "".join([piece.text async for piece in reply]) == reply.answer.text
    async with lively.desk() as desk:
        await lively.read(desk, 60)
        await until(lambda: served_by_both(lively, 2), "bundle 2 on both edges")
        await dataclasses.replace(lively, redis=root).settled()  # else another release may overtake a command
    for wrong in ({"colour": "red"}, {streams.DATA_FIELD: "no query"}):  # one without a body, one to replay
        await root.xadd(streams.QUERIES, wrong)
    await until(lambda: two_letters(root), "two dead letters")
    for words in COMMANDS:
        done = await asyncio.to_thread(CliRunner().invoke, app, [*words.split(), "--home", str(lively.home)])
        assert not isinstance(done.exception, Exception), (words, done.exception)
    refused = [(each["username"], each["object"]) for each in await root.acl_log()]
    assert refused == [(CLIENT, streams.dead(streams.QUERIES))]  # the client asks whether it may, and goes on without


async def two_letters(root):
    return await root.xlen(streams.dead(streams.QUERIES)) == 2


async def served_by_both(lively, least):
    return all([(await lively.version(node) or 0) >= least for node in EDGES])


async def test_no_log_shows_a_password(lively):
    passwords = [urlsplit(access.url_path(lively.home, user).read_text()).password for user in [*rights.ROLES, CLIENT]]
    logs = [*(lively.home / "logs").iterdir(), *(lively.home / "broker").glob("*.log"), lively.home / "broker.json"]
    assert len(logs) >= 7
    found = [path.name for path in logs for password in passwords if password in path.read_text(errors="replace")]
    assert found == []
