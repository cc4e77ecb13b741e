"""What a service shows over HTTP: /healthz (the process runs), /readyz (it does its work), /metrics, and its own app.

The answers are ASGI routes of FastStream's AsgiFastStream, served by uvicorn inside the service's own task group.
FastStream's own health route is not used: it looks at the connection, and says yes while a consumer is dead.
"""

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.asgi.types import ASGIApp, Receive, Scope, Send

from common.errors import Unavailable
from common.runtime import metrics

Route = tuple[str, ASGIApp]
GRACEFUL_SHUTDOWN_S: Final = 5  # for what is still being sent once all work has ended: a reader may be asleep
_JSON: Final = {"content-type": "application/json"}


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the service handles signals: HTTP answers until the last message is done


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; at "::" it answers by IPv4 as well. Raises Unavailable("port_taken")."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named so that asyncio knows it for TCP and sends at once: else each answer on a connection that is
    # kept waits 40 ms for the client's acknowledgement of its head.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:  # else the machine's sysctl decides
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot listen on {host}:{port}: {reason}; choose another with QIG_HTTP_PORT (0 picks a free one)"
        raise Unavailable("port_taken", message) from None
    return listener


def base_url(host: str, port: int) -> str:
    """Where a service that listens there is asked.

    >>> base_url("::1", 8000)
    'http://[::1]:8000'
    """
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def routes(reasons: Callable[[], dict[str, str]], about: dict[str, Any]) -> list[Route]:
    """The three routes every service has."""

    @get
    async def healthz(_: Scope) -> AsgiResponse:
        return AsgiResponse(json.dumps(about).encode(), 200, _JSON)

    @get
    async def readyz(_: Scope) -> AsgiResponse:
        found = reasons()
        return AsgiResponse(json.dumps({"ready": not found, "reasons": found}).encode(), 503 if found else 200, _JSON)

    @get
    async def exposition(_: Scope) -> AsgiResponse:
        metrics.READY.set(0 if reasons() else 1)
        return AsgiResponse(metrics.exposition(), 200, {"content-type": metrics.CONTENT_TYPE})

    return [("/healthz", healthz), ("/readyz", readyz), ("/metrics", exposition)]


AWAY: Final = AsgiResponse(
    b'{"error":{"message":"this service starts or stops: ask again","type":"server_error","param":null,"code":"away"}}',
    503,
    _JSON | {"retry-after": "1"},
)
NOTHING: Final = AsgiResponse(b"Not Found", 404)
"""The rest of a service that shows nothing of its own."""


class Application:
    """The routes every service has, by exact path; all other requests go to `rest`, which may be set while it runs."""

    def __init__(self, listed: Sequence[Route]) -> None:
        self._own = AsgiFastStream(asgi_routes=listed, logger=None)
        self._paths = frozenset(path for path, _ in listed)
        self.rest: ASGIApp = AWAY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        app = self._own if scope["path"] in self._paths else self.rest
        await app(scope, receive, send)


def server(app: Application) -> uvicorn.Server:
    """Its server, to be run with `serve(sockets=[bind(...)])` and ended by `should_exit`."""
    # lifespan off: FastStream's would start the subscribers and end the process when the broker is away.
    return _Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
        )
    )
