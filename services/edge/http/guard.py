"""What stands between the network and the routes.

    request ─ id ─ host ─ key ─ rate ─ body, bounded ─▶ routes ─▶ response ─ metrics
                └──────┴─────┴─────┴── refused                └─ a bug: logged, and 500 without its stack

Pure ASGI: a framework's middleware would stand between a stream and its client's disconnect.
"""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.runtime import metrics
from common.runtime.api_keys import KeyFile
from common.runtime.rates import Rates
from services.edge.http.access import allowance_headers, check_allowance, check_host, client_of
from services.edge.http.errors import Refusal, refusal_of
from services.edge.http.stream import Gone

log = logging.getLogger(__name__)

BODY_MAX_BYTES: Final = 1 << 20  # a query's text is 64 KiB of UTF-8 at most; many of them in one body are embeddings
BODY_TIMEOUT_S: Final = 30.0
DRAIN_S: Final = 5.0  # at a stop: with the queries of the stream and what is sent last, within an orchestrator's 30 s
REQUEST_ID: Final = "x-request-id"
PUBLIC: Final = frozenset({"/", "/openapi.json"})  # what a browser loads before it has a key; shows nothing of anybody
_SANE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Access:
    """keys: who may ask; needed: whether nobody may while there are none. rates: None for no limit.

    local: whether being on this machine is what lets in while there are no keys.
    """

    keys: KeyFile
    rates: Rates | None
    needed: bool
    local: bool


class Guard:
    """Wraps the routes."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        self._open += 1
        self._idle.clear()
        try:
            await self._answer(scope, receive, send)
        finally:
            self._open -= 1
            if self._open == 0:
                self._idle.set()

    async def stop(self) -> None:
        """Returns when no request is being answered, or after DRAIN_S."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d requests are not answered to their end", self._open)
        if self._access.rates:
            await self._access.rates.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope)
        state: dict[str, Any] = {"began_s": time.perf_counter(), "request_id": _request_id(given)}
        scope["state"] = state
        added = {REQUEST_ID: state["request_id"]}

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                MutableHeaders(scope=message).update(added)
            await send(message)

        try:
            if scope["path"] not in PUBLIC:
                await self._admit(given, state, added)
            body = await read_body(given, receive)
            await self._app(scope, _again(body, receive), tell)
        except Gone:
            log.debug("request %s: its client went away", state["request_id"])
        except Exception as error:
            if not isinstance(error, Refusal):
                log.exception("request %s failed", state["request_id"])
            if "status" not in state:
                state["refusal"] = refusal_of(error)
                await refuse(state["refusal"], tell)
        finally:
            _count(scope, state)

    async def _admit(self, given: Mapping[str, str], state: dict[str, Any], added: dict[str, str]) -> None:
        """Names the client in `state`; adds the headers of what it may still ask. Raises Refusal 401, 403, 429."""
        access = self._access
        keys = access.keys.keys
        if access.local and not keys:
            check_host(given.get("host"))
        state["client"] = client_of(given.get("authorization"), keys, needed=access.needed)
        allowance = await access.rates.hit(state["client"], time.time()) if access.rates else None
        if allowance is not None:
            added |= allowance_headers(allowance)  # of a refusal too
            check_allowance(allowance, state["client"])


async def read_body(given: Mapping[str, str], receive: Receive) -> bytes:
    """The whole body. Raises Refusal 413, and 408 for one that does not come; Gone."""
    if given.get("content-length", "").isdecimal() and int(given["content-length"]) > BODY_MAX_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                body += message.get("body", b"")
                if len(body) > BODY_MAX_BYTES:
                    raise _too_large()
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refusal(408, "body_timeout", f"The request's body did not come within {BODY_TIMEOUT_S:g} s.") from None


async def refuse(refusal: Refusal, send: Send) -> None:
    """The whole response of a request that is refused before it is routed."""
    body = json.dumps(refusal.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _too_large() -> Refusal:
    return Refusal(413, "request_too_large", f"The request's body is larger than {BODY_MAX_BYTES} bytes: split it.")


def _request_id(given: Mapping[str, str]) -> str:
    """The client's own, when it can stand in a header and a log; else a new one."""
    own = given.get(REQUEST_ID, "")
    return own if _SANE_ID.fullmatch(own) else f"req_{secrets.token_hex(16)}"


def _again(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body, which was read already, and then what else comes."""
    read = False

    async def replay() -> Message:
        nonlocal read
        if read:
            return await receive()
        read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _count(scope: Scope, state: Mapping[str, Any]) -> None:
    """One request in the metrics; what matches no route is one label."""
    shown = f"{state['status'] // 100}xx" if "status" in state else "none"  # none: its client went away first
    metrics.HTTP_REQUESTS.labels(getattr(scope.get("route"), "path", "other"), shown).inc()
    if "refusal" in state:
        metrics.HTTP_REFUSED.labels(state["refusal"].code or "invalid_request").inc()
