"""The edge over HTTP: OpenAI's API, as far as small base models go. The routes, and nothing else.

Guard ─ FastAPI ─ a route ─▶ translation (pure) ─▶ queries ─▶ the edge's schedule ─▶ translation ─▶ response
"""

import secrets
import time
from collections.abc import Callable
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from common.errors import QigError, Unavailable
from common.wire.messages import Answer, Query
from services.edge.answer import Serving
from services.edge.http import completions, errors
from services.edge.http.chat import ChatCompletion, ChatRequest, ChatShape, chat_queries
from services.edge.http.completions import Completion, CompletionRequest, CompletionShape
from services.edge.http.guard import Guard
from services.edge.http.shape import Head, Shape
from services.edge.http.stream import Answering, EventStream, answers, events, told, unless_gone

KERNEL_HEADER: Final = "x-constellation-kernel"
ABOUT: Final = """An edge of a constellation over HTTP: OpenAI's API. See docs/api.md."""


def application(edge: Answering, *, now: Callable[[], float] = time.time) -> ASGIApp:
    """The ASGI app of an edge: every path but /healthz, /readyz and /metrics. now: seconds since 1970."""
    return Guard(routes(edge, now=now))


def routes(edge: Answering, *, now: Callable[[], float] = time.time) -> FastAPI:
    """The routes alone; scripts/docs.py writes docs/openapi.json of them."""
    app = FastAPI(title="QIG Constellation", version="1", description=ABOUT, docs_url=None, redoc_url=None)
    for kind in (RequestValidationError, HTTPException, QigError, errors.Refusal):
        app.add_exception_handler(kind, _refused)

    @app.post("/v1/completions", response_model=Completion)
    async def complete(request: Request, body: CompletionRequest) -> Response:
        serving = _serving(edge)
        texts = completions.prompt_texts(body.prompt, serving.constellation.encoder)
        head = _head("cmpl", body.model, serving, now())
        queries = completions.completion_queries(body, texts, name=head.name, client=request.state.client)
        return await _respond(edge, request, queries, CompletionShape(head, body, texts))

    @app.post("/v1/chat/completions", response_model=ChatCompletion)
    async def chat(request: Request, body: ChatRequest) -> Response:
        head = _head("chatcmpl", body.model, _serving(edge), now())
        queries = chat_queries(body, name=head.name, client=request.state.client)
        return await _respond(edge, request, queries, ChatShape(head, body))

    return app


async def _respond(edge: Answering, request: Request, queries: list[Query], shape: Shape) -> Response:
    """Asks, and answers whole or as a stream; a stream begins with its first text, so that an error before is one."""
    if not queries[0].stream:
        made: list[Answer] = await unless_gone(request.receive, answers(edge, queries))
        return JSONResponse(shape.whole(made), headers=_kernel(made[0].kernel))
    news = told(edge, queries)
    first = await unless_gone(request.receive, anext(news))
    return EventStream(events(first, news, shape), _kernel(first.kernel if first else None))


def _serving(edge: Answering) -> Serving:
    if edge.serving is None:
        raise Unavailable("no_bundle", "No bundle has come yet: this edge has nothing to answer with. Ask again later.")
    return edge.serving


def _head(kind: str, model: str, serving: Serving, now_s: float) -> Head:
    return Head(f"{kind}-{secrets.token_hex(12)}", int(now_s), model, serving.bundle)


def _kernel(kernel: str | None) -> dict[str, str]:
    return {KERNEL_HEADER: kernel} if kernel else {}


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refusal = _refusal(request, error)
    allow = {"allow": error.headers["allow"]} if isinstance(error, HTTPException) and error.headers else {}
    return JSONResponse(refusal.body, refusal.status, headers=refusal.headers | allow)


def _refusal(request: Request, error: Exception) -> errors.Refusal:
    if isinstance(error, RequestValidationError):
        found: list[dict[str, Any]] = list(error.errors())
        return errors.invalid_fields(found)
    if not isinstance(error, HTTPException):
        return errors.refusal_of(error)
    if error.status_code == 404:
        return errors.not_found(request.method, request.url.path)
    if error.status_code == 405:
        return errors.not_allowed(request.method, request.url.path)
    return errors.Refusal(error.status_code, None, str(error.detail))
