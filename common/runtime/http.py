"""What a service shows over HTTP: /healthz (the process runs), /readyz (it does its work), /metrics.

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
from faststream.asgi.types import ASGIApp, Scope

from common.errors import Unavailable
from common.runtime import metrics

Route = tuple[str, ASGIApp]
_JSON: Final = {"content-type": "application/json"}


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # the service handles signals: HTTP answers until the last message is done


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Unavailable("port_taken")."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot listen on {host}:{port}: {reason}; choose another with QIG_HTTP_PORT (0 picks a free one)"
        raise Unavailable("port_taken", message) from None
    return listener


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
        return AsgiResponse(metrics.exposition(), 200, {"content-type": metrics.CONTENT_TYPE})

    return [("/healthz", healthz), ("/readyz", readyz), ("/metrics", exposition)]


def application(listed: Sequence[Route]) -> AsgiFastStream:
    """The ASGI application of these routes; `mount` adds more while it runs."""
    return AsgiFastStream(asgi_routes=listed, logger=None)


def server(app: AsgiFastStream) -> uvicorn.Server:
    """Its server, to be run with `serve(sockets=[bind(...)])` and ended by `should_exit`."""
    # lifespan off: FastStream's would start the subscribers and end the process when the broker is away.
    return _Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
