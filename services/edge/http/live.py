"""The live page at `/`: its files, and what it follows.

    GET /        the page; without JavaScript a table of the same, made anew every five seconds
    GET /page/*  its script, style and icon, as they lie in page/
    GET /live    server-sent events: one `all` with everything, then what happens (services/edge/live.py)

Nothing here tells a text, a client or an id: who may see /metrics may see it. What the page asks, it asks of
/v1/completions, with a key where keys are asked for.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from html import escape
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from services.edge.live import Live

PAUSE_S: Final = 0.25  # between two looks of a stream: what happened meanwhile goes out at once
RETRY_MS: Final = 1000
VIEWERS_MAX: Final = 64
FILES: Final = Path(__file__).parent / "page"
STILL: Final = "<!-- still -->"
# No script or style in the markup, nothing from elsewhere, and nobody frames the page.
POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
DOCUMENT_HEADERS: Final = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
STREAM_HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def with_page(api: ASGIApp, live: Live, now: Callable[[], float] = time.time) -> ASGIApp:
    """The page, and the API for every other path. now: seconds since 1970."""
    index = (FILES / "index.html").read_text(encoding="utf-8")
    viewers = 0

    async def page(_: Request) -> Response:
        live.seen(now())
        return HTMLResponse(index.replace(STILL, still(live.state(now()))), headers=DOCUMENT_HEADERS)

    async def follow(_: Request) -> Response:
        if viewers >= VIEWERS_MAX:
            return Response(f"{VIEWERS_MAX} pages follow this edge already", 503, {"retry-after": "10"})
        return StreamingResponse(counted(), media_type="text/event-stream", headers=STREAM_HEADERS)

    async def counted() -> AsyncIterator[str]:
        nonlocal viewers
        viewers += 1
        try:
            async for text in events(live, now):
                yield text
        finally:
            viewers -= 1

    shown = [Route("/", page), Route("/live", follow), Mount("/page", StaticFiles(directory=FILES))]
    return Router(shown, redirect_slashes=False, default=api)


async def events(live: Live, now: Callable[[], float]) -> AsyncIterator[str]:
    """Everything, then what happens, until the edge ends; everything anew for a reader that fell behind."""
    live.seen(now())
    told = live.state(now())
    yield f"retry: {RETRY_MS}\n" + _event("all", told)
    number = told["number"]
    while not live.ended:
        await asyncio.sleep(PAUSE_S)
        live.seen(now())
        news = live.after(number)
        if news is None:
            told = live.state(now())
            number = told["number"]
            yield _event("all", told)
        elif news:
            number = news[-1].number
            yield "".join(_event(each.kind, each.data) for each in news)


def still(told: dict[str, Any]) -> str:
    """The state as tables, for a browser without JavaScript."""
    away = told["broker"]["away"]
    broker = f"<p>The broker is away: {escape(away)}</p>" if away else ""
    kernels = [
        (name, last["phase"], _number(last["phi"], 2), _number(last["kappa"], 1))
        for name, points in told["series"].items()
        for last in [points[-1] if points else dict.fromkeys(("phase", "phi", "kappa"))]
    ]
    streams = [
        (row["stream"], row["length"], row["lag"], row["pending"], row["dead"]) for row in told["broker"]["streams"]
    ]
    nodes = [(each["node"], "yes" if each["ready"] else "no", each["bundle"]) for each in told["services"]]
    verdicts = [
        (
            each["version"],
            each["node"],
            each["verdict"],
            _number(each["probe_before"], 3) or "",
            _number(each["probe_after"], 3) or "",
        )
        for each in reversed(told["applied"])
    ]
    return (
        f"<p>{escape(told['node'])}, bundle {told['bundle']}. Asking needs JavaScript, or an OpenAI client.</p>{broker}"
        + _table("Kernels", ("kernel", "phase", "Φ", "κ"), kernels)
        + _table("Streams", ("stream", "waiting", "lag", "pending", "dead"), streams)
        + _table("Fleet", ("node", "ready", "bundle"), nodes)
        + _table("Bundles", ("bundle", "node", "verdict", "bit/B before", "bit/B after"), verdicts)
    )


def _table(title: str, head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    cells = "".join(f"<th scope=col>{escape(name)}" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(_word(cell))}" for cell in row) for row in rows)
    return f"<section><h2>{title}</h2><table><tr>{cells}{body}</table></section>"


def _word(value: object) -> str:
    return "not known" if value is None else str(value)


def _number(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _event(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
