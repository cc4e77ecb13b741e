"""What stands between the network and the routes: an id for each request, a bounded body, and no stack trace.

Pure ASGI: a framework's middleware would stand between a stream and its client's disconnect.
"""

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.edge.http.errors import Refusal, refusal_of
from services.edge.http.stream import Gone

log = logging.getLogger(__name__)

BODY_MAX_BYTES: Final = 1 << 20  # the longest query is 64 KiB of UTF-8; many of them in one body are embeddings
BODY_TIMEOUT_S: Final = 30.0
REQUEST_ID: Final = "x-request-id"
_SANE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


class Guard:
    """Wraps the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        given = Headers(scope=scope)
        request_id = _request_id(given)
        begun = False

        async def tell(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            body = await read_body(given, receive)
            scope["state"] = {**scope.get("state", {}), "request_id": request_id, "client": "http"}
            await self._app(scope, _again(body, receive), tell)
        except Gone:
            log.debug("request %s: its client went away", request_id)
        except Exception as error:
            if not isinstance(error, Refusal):
                log.exception("request %s failed", request_id)
            if not begun:
                await refuse(refusal_of(error), tell)


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
