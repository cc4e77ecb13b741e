import asyncio
import json

import pytest

from common.errors import Rejected
from common.runtime.api_keys import KeyFile
from services.edge.http import guard as guarding
from services.edge.http.guard import BODY_MAX_BYTES, Access, Guard

pytestmark = pytest.mark.anyio


@pytest.fixture
def call(tmp_path):
    """Sends a request to a guard around `app`; the status, headers and body that came back."""

    async def send_through(app, *, path="/v1/x", headers=(), chunks=(b"",), needed=False):
        guard = Guard(app, Access(KeyFile(tmp_path / "none.json"), None, needed=needed, local=False))
        scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
        left = [{"type": "http.request", "body": c, "more_body": c is not chunks[-1]} for c in chunks]
        sent = []

        async def receive():
            return left.pop(0) if left else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        await guard(scope, receive, send)
        if not sent:
            return None
        told = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], told, b"".join(each.get("body", b"") for each in sent[1:])

    return send_through


async def echo(scope, receive, send):
    """Answers with the body and the client's name."""
    body = (await receive())["body"]
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"x-client", scope["state"]["client"].encode())]}
    )
    await send({"type": "http.response.body", "body": body})


async def test_a_body_reaches_the_routes_whole(call):
    status, headers, body = await call(echo, chunks=[b"ab", b"c" * 1000, b"d"])
    assert (status, headers["x-client"], body) == (200, "http", b"ab" + b"c" * 1000 + b"d")
    assert headers["x-request-id"].startswith("req_")


async def test_a_body_at_the_limit_passes_and_one_above_it_is_refused_unread(call):
    async def never(scope, receive, send):
        raise AssertionError("a body that is too large must not be parsed")

    half = b"x" * (BODY_MAX_BYTES // 2)
    assert (await call(echo, chunks=[half, half]))[0] == 200
    for refused in (
        await call(never, chunks=[half, half + b"x", b""]),
        await call(never, headers=[(b"content-length", str(BODY_MAX_BYTES + 1).encode())]),
    ):
        assert (refused[0], json.loads(refused[2])["error"]["code"]) == (413, "request_too_large")


async def test_a_body_that_does_not_come_ends_its_request(call, monkeypatch):
    monkeypatch.setattr(guarding, "BODY_TIMEOUT_S", 0.01)
    status, _, body = await call(echo, chunks=())
    assert (status, json.loads(body)["error"]["code"]) == (408, "body_timeout")


async def test_a_bug_is_told_without_its_stack(call, caplog):
    async def fail(scope, receive, send):
        raise RuntimeError("secret")

    status, headers, body = await call(fail, headers=[(b"x-request-id", b"mine")])
    assert (status, headers["x-request-id"]) == (500, "mine")
    assert b"secret" not in body
    assert "request mine failed" in caplog.text


async def test_an_error_of_ours_is_told_as_what_it_is(call):
    async def refuse(scope, receive, send):
        raise Rejected("wrong", "because")

    status, _, body = await call(refuse)
    assert (status, json.loads(body)["error"]["message"]) == (400, "because")


async def test_what_a_browser_loads_first_needs_no_key(call):
    async def page(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page"})

    assert (await call(page, path="/", needed=True))[0] == 200
    assert (await call(page, path="/v1/models", needed=True))[0] == 401
    assert (await call(page, path="/anything", needed=True))[0] == 401


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"-x", b"a\nb", "é".encode()])
async def test_a_request_id_that_cannot_stand_in_a_log_is_replaced(call, given):
    _, headers, _ = await call(echo, headers=[(b"x-request-id", given)])
    assert headers["x-request-id"].startswith("req_")


async def test_a_stop_waits_for_what_is_being_answered_and_not_for_ever(tmp_path, monkeypatch):
    began, end = asyncio.Event(), asyncio.Event()

    async def slow(scope, receive, send):
        began.set()
        await end.wait()

    async def receive():
        return {"type": "http.request", "body": b""}

    guard = Guard(slow, Access(KeyFile(tmp_path / "none.json"), None, needed=False, local=False))
    answering = asyncio.create_task(guard({"type": "http", "path": "/", "headers": []}, receive, None))
    await began.wait()
    stopping = asyncio.create_task(guard.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    end.set()
    await asyncio.gather(stopping, answering)

    monkeypatch.setattr(guarding, "DRAIN_S", 0.01)
    end.clear()
    answering = asyncio.create_task(guard({"type": "http", "path": "/", "headers": []}, receive, None))
    await asyncio.sleep(0)
    await guard.stop()
    end.set()
    await answering
