"""The edge over HTTP: OpenAI's API, as far as small base models go. The routes, and nothing else.

Guard ─ FastAPI ─ a route ─▶ translation (pure) ─▶ queries ─▶ the edge's schedule ─▶ translation ─▶ response
"""

import json
import logging
import secrets
import time
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi import Query as Parameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.responses import Response

from common.errors import QigError, Unavailable
from common.runtime import metrics, tracing
from common.wire.inference import Answer, Query
from services.edge.answer import Serving
from services.edge.http.chat import ChatCompletion, ChatRequest, ChatShape, chat_queries
from services.edge.http.completions import (
    Completion,
    CompletionRequest,
    CompletionShape,
    completion_queries,
    prompt_texts,
)
from services.edge.http.embeddings import Embedder, EmbeddingList, EmbeddingRequest, embeddings
from services.edge.http.errors import ErrorBody, Refusal, invalid_fields, no_json, not_allowed, not_found, refusal_of
from services.edge.http.guard import Access, Guard
from services.edge.http.interactions import (
    Deleted,
    Feedback,
    FeedbackRequest,
    Keeping,
    deleted,
    owner,
    unknown,
    verdict_of,
)
from services.edge.http.models import Model, ModelList, model_list, model_of
from services.edge.http.shape import Head, Shape
from services.edge.http.stream import Answering, EventStream, Gone, answers, events, told, unless_gone

log = logging.getLogger(__name__)

CLIENT_GONE: Final = 499  # nobody hears it; in metrics it is no failure of ours
KERNEL_HEADER: Final = "x-constellation-kernel"
ABOUT: Final = "An edge of a constellation over HTTP: OpenAI's API. docs/api.md says what is different."
STREAMS: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The answer, or its stream"}
}
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": ErrorBody, "description": "No key, or none of ours"},
    404: {"model": ErrorBody, "description": "No such address, model or interaction"},
    429: {"model": ErrorBody, "description": "Too many requests of this key, or too many at once: see retry-after"},
    "4XX": {"model": ErrorBody, "description": "The request is wrong; `param` says where"},
    503: {"model": ErrorBody, "description": "No bundle has come yet, or this edge starts or stops: see retry-after"},
    "5XX": {"model": ErrorBody, "description": "A fault of ours"},
}


def application(edge: Answering, kept: Keeping, access: Access, *, created: int) -> Guard:
    """The ASGI app of an edge: every path but /healthz, /readyz and /metrics. created: seconds since 1970."""
    app = described(tracing.provider())
    app.state.edge, app.state.kept, app.state.created, app.state.embedder = edge, kept, created, Embedder()
    return Guard(app, access)


def described(tracer_provider: Any = None) -> FastAPI:
    """The routes without an edge: what they take and give. scripts/docs.py writes docs/openapi.json of it.

    tracer_provider: of whoever looks on at requests; None: nobody does.
    """
    telemetry: TelemetryConfig = {"tracer_provider": tracer_provider, "tracing": tracer_provider is not None}
    telemetry |= {"operation_spans": False, "metrics": False, "logs": False, "auto_configure": False}
    app = FastAPI(
        title="QIG Constellation",
        version="1",
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
        telemetry=telemetry,
    )
    app.include_router(router)
    for kind in (RequestValidationError, HTTPException, QigError, Refusal, Exception):
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(Gone, _gone)
    return app


def openapi() -> bytes:
    """docs/openapi.json."""
    return json.dumps(described().openapi(), indent=1, ensure_ascii=False).encode() + b"\n"


def _edge(request: Request) -> Answering:
    edge: Answering = request.app.state.edge
    return edge


def _kept(request: Request) -> Keeping:
    kept: Keeping = request.app.state.kept
    return kept


def _created(request: Request) -> int:
    created: int = request.app.state.created
    return created


def _client(request: Request) -> str:
    client: str = request.state.client  # the guard's
    return client


router = APIRouter()
Edge = Annotated[Answering, Depends(_edge)]
Kept = Annotated[Keeping, Depends(_kept)]
Created = Annotated[int, Depends(_created)]
Client = Annotated[str, Depends(_client)]
Whose = Annotated[str | None, Parameter(description="Whose it is; the asking key's own, or http where none is needed")]


@router.post("/v1/completions", response_model=Completion, responses=STREAMS)
async def complete(request: Request, edge: Edge, client: Client, body: CompletionRequest) -> Response:
    """Continue a prompt."""
    serving = _serving(edge)
    texts = prompt_texts(body.prompt, serving.constellation.encoder)
    head = _head("cmpl", body.model, serving)
    queries = completion_queries(body, texts, name=head.name, client=client)
    return await _respond(edge, request, queries, CompletionShape(head, body, texts))


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAMS)
async def chat(request: Request, edge: Edge, client: Client, body: ChatRequest) -> Response:
    """Answer a conversation: its texts, one after the other, are continued."""
    head = _head("chatcmpl", body.model, _serving(edge))
    queries = chat_queries(body, name=head.name, client=client)
    return await _respond(edge, request, queries, ChatShape(head, body))


@router.post("/v1/embeddings", response_model=EmbeddingList)
async def embed(request: Request, edge: Edge, body: EmbeddingRequest) -> Response:
    """Where texts lie: their basins."""
    constellation = _serving(edge).constellation
    embedder: Embedder = request.app.state.embedder
    work = embedder.run(
        lambda: JSONResponse(embeddings(body, constellation))
    )  # to JSON there too: it may be a megabyte
    return await unless_gone(request.receive, work)


@router.get("/v1/models")
async def models(created: Created) -> ModelList:
    """The ways to be answered."""
    return model_list(created)


@router.get("/v1/models/{name}")
async def model(name: str, created: Created) -> Model:
    """One of them."""
    return model_of(name, created)


@router.delete("/v1/interactions/{name}")
async def forget(kept: Kept, asking: Client, name: str, client: Whose = None) -> Deleted:
    """Forget a request: its text, its answer, and what they taught."""
    whose = owner(asking, client)
    done = await kept.forget(whose, name)
    if done is None:
        raise unknown(name, whose)
    return deleted(name, done)


@router.post("/v1/interactions/{name}/feedback")
async def feedback(kept: Kept, asking: Client, name: str, body: FeedbackRequest, client: Whose = None) -> Feedback:
    """Say whether an answer was any good."""
    whose = owner(asking, client)
    if not await kept.judge(whose, name, verdict_of(body)):
        raise unknown(name, whose)
    return Feedback(id=name, object="interaction.feedback", accept=body.accept)


async def _respond(edge: Answering, request: Request, queries: list[Query], shape: Shape) -> Response:
    """Asks, and answers whole or as a stream; a stream begins with its first text, so that an error before is one."""
    if not queries[0].stream:
        made: list[Answer] = await unless_gone(request.receive, answers(edge, queries))
        return JSONResponse(shape.whole(made), headers=_kernel(made[0].kernel))
    news = told(edge, queries)
    first = await unless_gone(request.receive, anext(news))
    if first is not None:
        metrics.FIRST_TEXT_SECONDS.observe(time.perf_counter() - request.state.began_s)
    return EventStream(events(first, news, shape), _kernel(first.kernel if first else None))


def _serving(edge: Answering) -> Serving:
    if edge.serving is None:
        raise Unavailable("no_bundle", "No bundle has come yet: this edge has nothing to answer with. Ask again later.")
    return edge.serving


def _head(kind: str, model: str, serving: Serving) -> Head:
    return Head(f"{kind}-{secrets.token_hex(12)}", int(time.time()), model, serving.bundle)


def _kernel(kernel: str | None) -> dict[str, str]:
    return {KERNEL_HEADER: kernel} if kernel else {}


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refusal = request.state.refusal = _refusal(request, error)
    if refusal.status == 500 and isinstance(error, QigError):  # a bug goes on to the guard, which logs it
        log.error("request %s failed: %s", request.state.request_id, error)
    framework = dict(error.headers or {}) if isinstance(error, HTTPException) else {}  # 405 says what is allowed
    return JSONResponse(refusal.body, refusal.status, headers=refusal.headers | framework)


def _refusal(request: Request, error: Exception) -> Refusal:
    if isinstance(error, RequestValidationError):
        found: list[dict[str, Any]] = list(error.errors())
        return invalid_fields(found)
    if not isinstance(error, HTTPException):
        return refusal_of(error)
    if error.status_code == 404:
        return not_found(request.method, request.url.path)
    if error.status_code == 405:
        return not_allowed(request.method, request.url.path)
    if error.status_code == 400:  # the framework could not read the body, and says no more
        return no_json()
    return Refusal(error.status_code, None, str(error.detail))
