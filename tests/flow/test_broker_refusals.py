"""A broker that is there and not for us, by its users or by TLS: one clear line, no traceback, no storm of tries."""

import asyncio
import datetime as dt
import itertools
import logging
import os
import ssl
import subprocess
import sys
from contextlib import asynccontextmanager, closing, suppress
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
import trustme
from broker_node import consumer
from broker_service import fetch, ready, settings
from broker_users import REDIS, as_root, furnish, redis7, valkey
from client_edge import answer_to
from redis.exceptions import AuthenticationError

from common.client import Client
from common.errors import Rejected, Unavailable
from common.runtime import access, embedded, streams
from common.runtime.connection import BACKOFF_MAX_S, connect
from common.runtime.effects import Send
from common.runtime.heart import heart
from common.runtime.service import Wiring, serve
from common.wire.codec import pack, unpack
from common.wire.inference import Query

pytestmark = pytest.mark.anyio
YEAR = dt.timedelta(days=365)
CLIENT = "kiosk"
TLS = [
    "proxy",
    pytest.param("redis", marks=pytest.mark.skipif(REDIS is None, reason="no redis-server on this machine")),
]
SERVICE = """
from common.runtime.service import Wiring, run
from common.runtime.settings import EdgeSettings

async def build(settings, broker):
    return Wiring()

run("edge", EdgeSettings, build)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("refusals")
    furnish(home, [CLIENT])
    return home


@pytest.fixture(scope="module")
def guarded(home):
    """The address of a broker with users, without one."""
    with valkey(home) as url:
        yield url


async def refusal(url):
    """What a service that starts with this address says as it ends."""
    with pytest.raises(Rejected, match="broker_refused") as refused:
        await serve(settings(url), service="edge", build=lambda _: asyncio.sleep(0, Wiring()))
    return refused.value.message


def named(url, user, password):
    return url.replace("://", f"://{user}:{password}@")


# Users


@pytest.mark.parametrize("user", ["edge", "nobody", "default"])
async def test_a_wrong_password_or_user_ends_the_start_in_one_line(guarded, user, caplog):
    said = await refusal(named(guarded, user, "guess"))
    assert said.startswith(f"redis://{user}:***@127.0.0.1")
    assert "check user and password in QIG_BROKER_URL" in said
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_no_user_where_one_is_needed_ends_the_start(guarded):
    assert "authenticated" in await refusal(guarded)


async def test_a_user_without_the_right_to_say_hello_ends_the_start(guarded):
    async with connect(as_root(guarded)) as root:
        await root.execute_command("ACL", "SETUSER", "mute", "on", ">mute", "+auth", "+hello")
    assert "permission" in await refusal(named(guarded, "mute", "mute"))


async def test_a_refused_process_ends_with_two_and_one_line_without_the_password(guarded):
    environment = {"QIG_BROKER_URL": named(guarded, "edge", "guess"), "QIG_HTTP_PORT": "0", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", SERVICE]
    environment["QIG_LOG_LEVEL"] = "error"
    done = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("qig edge: broker_refused: redis://edge:***@127.0.0.1")
    assert done.stderr.count("\n") == 1
    assert "guess" not in done.stderr


async def test_a_running_service_whose_password_is_taken_away_says_so_and_goes_on_when_it_has_it_again(
    home, guarded, running, eventually, caplog
):
    async def answer(_delivery, body):
        return [Send(streams.answers("me"), body, body.decode())]

    own = access.login(home, "edge", guarded)
    url, _ = await running(settings(own), Wiring(consumers=[consumer(answer)]))
    await eventually(lambda: ready(url))
    async with connect(as_root(guarded)) as root:
        await root.execute_command("ACL", "SETUSER", "edge", "off")
        await root.execute_command("CLIENT", "KILL", "USER", "edge")

        async def says_so():
            status, body = await fetch(url + "/readyz")
            return status == 503 and "the broker refuses us: invalid username-password pair" in body

        await eventually(says_so, 20.0)
        await root.execute_command("ACL", "SETUSER", "edge", "on")
        await eventually(lambda: ready(url), 20.0)
        await root.xadd(streams.QUERIES, {"__data__": b"q"})
        await eventually(lambda: root.exists(streams.answers("me")))
    lines = [record for record in caplog.records if record.levelno > logging.INFO]
    assert lines
    assert not [record for record in lines if record.exc_info]
    assert urlsplit(own).password not in caplog.text
    for logger in {record.name for record in lines}:
        times = [record.created for record in lines if record.name == logger]
        assert all(later - earlier > BACKOFF_MAX_S / 2 for earlier, later in itertools.pairwise(times)), logger


async def test_a_running_service_whose_rights_are_taken_away_says_which(home, guarded, running, eventually, caplog):
    url, _ = await running(settings(access.login(home, "trainer", guarded)), Wiring(relays=[streams.BATCHES]))
    await eventually(lambda: ready(url))
    async with connect(as_root(guarded)) as root:
        await root.execute_command("ACL", "SETUSER", "trainer", "clearselectors")

        async def says_so():
            status, body = await fetch(url + "/readyz")
            return status == 503 and "the broker refuses us" in body and "permission" in body

        await eventually(says_so)
        await root.execute_command("ACL", "LOAD")
        await eventually(lambda: ready(url))
    assert not [record for record in caplog.records if record.exc_info]


async def test_after_a_rotation_both_passwords_open_and_after_its_end_the_new_one_alone(home, guarded):
    async def opens(url):
        async with connect(url, retries=0) as redis:
            try:
                return await redis.ping()
            except AuthenticationError:
                return False

    async def load():
        async with connect(access.login(home, "operator", guarded)) as operator:
            await operator.acl_load()

    old = access.login(home, "publisher", guarded)
    access.rotate(home, "publisher")
    assert await opens(old) is True
    await load()
    new = access.login(home, "publisher", guarded)
    assert (new != old, await opens(old), await opens(new)) == (True, True, True)
    access.retire(home, "publisher")
    await load()
    assert (await opens(new), await opens(old)) == (True, False)


# Clients


async def test_a_client_asks_under_a_name_of_its_users_and_is_answered(home, guarded, running, eventually):
    async def answer(_delivery, body):
        query = unpack(Query, body)
        return [Send(streams.answers(query.client), pack(answer_to(query)), query.id)]

    def wiring(broker):
        beats = heart(broker, "edge", "edge-1", bundle=lambda: 1, ready=lambda: None)
        return Wiring(consumers=[consumer(answer)], ticks=[beats])

    url, _ = await running(settings(access.login(home, "edge", guarded)), wiring)
    await eventually(lambda: ready(url))
    async with Client(access.login(home, CLIENT, guarded)) as client:
        assert (await client.ask("one two", deadline_s=10)).text == "one two"
        assert client.name.startswith(f"{CLIENT}.")
        with pytest.raises(Rejected, match="broker_refused"):
            await anext(client.watch())
    async with connect(as_root(guarded)) as root:
        assert await root.exists(streams.answers(client.name)) == 0


async def test_a_client_under_anothers_name_is_refused_at_once(home, guarded):
    with pytest.raises(Rejected, match=r"broker_refused.*USER\.anything"):
        async with Client(access.login(home, CLIENT, guarded), name="clinic"):
            pass


# TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def papers(authority, tmp_path_factory):
    """PEM files: of authorities, and of certificates with their keys."""
    folder = tmp_path_factory.mktemp("papers")

    def kept(name, *blobs):
        path = folder / f"{name}.pem"
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return path

    def certificate(name, issued):
        return kept(name, issued.private_key_pem, *issued.cert_chain_pems)

    long_ago, now = dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime.now(dt.UTC)
    return SimpleNamespace(
        authority=kept("ca", authority.cert_pem),
        stranger=kept("stranger", trustme.CA().cert_pem),
        broker=certificate("broker", authority.issue_cert("localhost", "127.0.0.1")),
        ended=certificate("ended", authority.issue_cert("127.0.0.1", not_before=long_ago, not_after=now - YEAR)),
        elsewhere=certificate("elsewhere", authority.issue_cert("broker.example")),
        edge=certificate("edge", authority.issue_cert("edge-1")),
    )


@pytest.fixture(params=TLS)
def behind_tls(request, home, guarded, papers):
    """Start a broker that shows a certificate, and may want one; its address, without what a client needs to know."""
    return lambda shown, wants="no": (proxied if request.param == "proxy" else redis_with)(
        home, guarded, papers, shown, wants
    )


@asynccontextmanager
async def proxied(_home, guarded, papers, shown, wants):
    """The broker that comes with the package, behind what ends TLS for it."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=papers.authority)
    context.load_cert_chain(shown)
    context.verify_mode = ssl.CERT_REQUIRED if wants == "yes" else ssl.CERT_NONE
    tasks = set()

    async def pipe(reader, writer):
        with closing(writer), suppress(OSError):  # whoever refuses hangs up: that is what is looked at
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()

    async def carry(reader, writer):
        tasks.add(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", urlsplit(guarded).port)
        await asyncio.gather(pipe(reader, back), pipe(there, writer))

    server = await asyncio.start_server(carry, "127.0.0.1", 0, ssl=context)
    try:
        yield f"rediss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def redis_with(home, _guarded, papers, shown, wants):
    port = embedded._free_port()
    files = ["--tls-cert-file", shown, "--tls-key-file", shown, "--tls-ca-cert-file", papers.authority]
    with redis7(home, "--tls-port", str(port), "--tls-auth-clients", wants, *map(str, files)):
        yield f"rediss://127.0.0.1:{port}"


@pytest.mark.parametrize("wants", ["no", "yes"])
async def test_a_service_works_by_tls_and_shows_its_own_certificate_where_one_is_wanted(
    home, behind_tls, papers, running, eventually, wants
):
    async with behind_tls(papers.broker, wants) as address:
        own = f"&ssl_certfile={papers.edge}&ssl_keyfile={papers.edge}" if wants == "yes" else ""
        url = f"{access.login(home, 'edge', address)}?ssl_ca_certs={papers.authority}{own}"
        at, end = await running(settings(url), Wiring(consumers=[consumer(lambda *_: asyncio.sleep(0, []))]))
        await eventually(lambda: ready(at))
        async with connect(url) as redis:
            assert await redis.ping()
        await end()


REFUSED = {
    "a certificate that has ended": ("ended", "authority", "certificate has expired"),
    "a certificate of an authority that we do not know": ("broker", "stranger", "certificate"),
    "a certificate for another name": ("elsewhere", "authority", "127.0.0.1"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_without_trust_in_each_other_the_start_ends_in_one_line(home, behind_tls, papers, what, caplog):
    shown, believed, why = REFUSED[what]
    async with behind_tls(getattr(papers, shown)) as address:
        url = f"{access.login(home, 'edge', address)}?ssl_ca_certs={getattr(papers, believed)}"
        said = await refusal(url)
    assert said.startswith("no TLS with rediss://edge:***@127.0.0.1")
    assert why in said
    assert [record for record in caplog.records if record.levelno > logging.INFO and record.name != "asyncio"] == []


async def test_where_a_certificate_of_ours_is_wanted_and_none_is_shown_that_is_said(
    home, behind_tls, papers, eventually, caplog
):
    """If the reason arrives before the connection's end, the start ends; else the other side may as well be starting,
    and each try says what it may be.
    """
    async with behind_tls(papers.broker, "yes") as address:
        url, stop = f"{access.login(home, 'edge', address)}?ssl_ca_certs={papers.authority}", asyncio.Event()
        life = asyncio.create_task(
            serve(settings(url), service="edge", build=lambda _: asyncio.sleep(0, Wiring()), stop=stop)
        )
        await eventually(lambda: life.done() or "it wants a certificate of ours" in caplog.text)
        stop.set()
        (ended,) = await asyncio.gather(life, return_exceptions=True)
        assert ended is None or (isinstance(ended, Rejected) and "CERTIFICATE_REQUIRED" in ended.message)


@pytest.mark.parametrize("name", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
def test_a_file_that_is_not_there_is_named(name):
    with pytest.raises(Rejected, match=f"bad_setting: {name}=/nowhere"):
        connect(f"rediss://broker:6379?{name}=/nowhere")


# Nobody there


async def test_an_unknown_host_is_waited_for_with_a_line_a_try(running, eventually, caplog):
    url, _ = await running(settings("redis://broker.invalid:6379"), Wiring())
    await eventually(lambda: "no broker at redis://broker.invalid:6379 yet" in caplog.text)
    assert (await fetch(url + "/readyz"))[0] == 503
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_client_of_an_unknown_host_is_told_at_once():
    with pytest.raises(Unavailable, match=r"broker_away.*broker\.invalid"):
        async with Client("redis://broker.invalid:6379"):
            pass
