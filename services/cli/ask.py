"""`qig ask`: one query through the broker, one answer back, on a stream that only this question has.

On a terminal the answer appears as it is made. Ctrl-C cancels the query at the edge that makes it.
"""

import asyncio
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError
from rich.console import Console
from rich.text import Text

from common.client import Client, Reply
from common.constants import PHI_MIN_TRANSITIONS
from common.errors import QigError, Rejected, Unavailable
from common.runtime import streams
from common.runtime.overview import lately
from common.wire.fields import QUERY_MAX_CHARS
from common.wire.inference import Answer
from common.wire.messages import Heartbeat
from services.cli.app.ending import EXIT_INTERRUPTED
from services.cli.broker import client, find_url
from services.cli.show import chance, command, console, number, plain, verbatim
from services.cli.watch import SILENT_S

UNHEARD_AFTER_S: Final = 3.0  # chosen: most questions are answered by then, and cost no look at the fleet
HEARD_MOST: Final = 64  # heartbeats looked at: the newest; an edge that lives is among a dozen of the centre's
PROMPT_SHOWN: Final = 500  # characters of a prompt's end, before the text that continues it


def run(fields: Mapping[str, object], *, timeout_s: float, home: Path, json: bool) -> int:
    """fields: of Query, but for its names. Raises Rejected when it is refused, Unavailable when nobody answers."""
    text = given(str(fields["text"]))
    if not text.strip():
        raise Rejected("bad_argument", "the question is empty: give a text, or - and one on standard input")
    if len(text) > QUERY_MAX_CHARS:
        message = f"a question has at most {QUERY_MAX_CHARS:,} characters, this one {len(text):,}"
        raise Rejected("bad_argument", f"{message}: `{command('read FILE', home)}` gives edges a long text in pieces")
    wishes = {**fields, "text": text, "deadline_s": timeout_s}
    out = console()
    live = out if out.is_terminal and not json else None
    try:
        answer = asyncio.run(_ask(find_url(home), wishes, live))
    except KeyboardInterrupt:
        sys.stderr.write("cancelled\n")
        return EXIT_INTERRUPTED
    if json:
        sys.stdout.write(answer.model_dump_json() + "\n")
    elif live:
        out.print(f"[dim]{plain(evidence(answer))}[/]")
    else:
        show(answer, out)
    return 0


def given(text: str) -> str:
    """The argument, or standard input for `-`. Raises Rejected("no_text") for what is no UTF-8."""
    return decoded(standard_input(), "standard input") if text == "-" else text


def standard_input() -> bytes:
    """All of it. Raises Rejected("no_text") where it is closed."""
    if sys.stdin is None:
        raise Rejected("no_text", "standard input is closed: give a text or a file, or a pipe for -")
    return sys.stdin.buffer.read()


def decoded(data: bytes, source: str) -> str:
    """Text of `source`. Raises Rejected("no_text") with what converts it."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        how = "if it is text, convert it first: `iconv -f latin1 -t utf8`"
        raise Rejected("no_text", f"{source} is no UTF-8 text (byte {error.start}); {how}") from None


async def _ask(url: str, wishes: Mapping[str, Any], live: Console | None) -> Answer:
    """live: where the answer's text is shown as it comes."""
    async with Client(url) as asker:
        waiting = asyncio.create_task(_warn_unheard(url))
        try:
            return await (_show_pieces(asker.stream(**wishes), live) if live else asker.ask(**wishes))
        except Unavailable as error:
            raise await explained(error, url) from None
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


async def _warn_unheard(url: str) -> None:
    """Say on standard error, once and beside the question that waits, that no edge lives which could answer it."""
    await asyncio.sleep(UNHEARD_AFTER_S)
    with suppress(RedisError, QigError):  # the question itself says what is wrong with the broker
        async with client(url) as redis:
            beats, _ = await lately(redis, streams.HEART, Heartbeat, most=HEARD_MOST)
        since_s = time.time() - SILENT_S
        if beats and not any(beat.service == "edge" and beat.at_s >= since_s for beat in beats):
            sys.stderr.write(f"no edge was heard of for {SILENT_S:.0f} s: `qig up` starts one\n")


async def explained(error: Unavailable, url: str) -> Unavailable:
    """The error, with why nobody answers if it is that."""
    return Unavailable("no_answer", f"{error.message}: {await _why(url)}") if error.code == "no_answer" else error


async def _show_pieces(reply: Reply, out: Console) -> Answer:
    waiting = out.status("waiting for the answer")
    waiting.start()
    said = False
    try:
        async for piece in reply:
            waiting.stop()
            if said and piece.index == 0:
                out.print("\n[dim]another edge took the query over, and begins anew:[/]")
            if not said:
                out.print(_prompt(reply.query.text), end="", soft_wrap=True)
            out.print(verbatim(piece.text), end="", soft_wrap=True)
            said = True
    finally:
        waiting.stop()
        if said:
            out.print()
    return reply.answer


def _prompt(text: str) -> Text:
    """What the answer continues, or the end of it."""
    shown = verbatim(text if len(text) <= PROMPT_SHOWN else f"… {text[-PROMPT_SHOWN:]}")
    shown.stylize("dim")
    return shown


async def _why(url: str) -> str:
    """What the broker knows of the edges: the likeliest cause, and what to do."""
    async with client(url) as redis:
        groups = await redis.xinfo_groups(streams.QUERIES) if await redis.exists(streams.QUERIES) else []
        if not groups or not groups[0]["consumers"]:
            return "no edge reads the queries; start the fleet with `qig up`"
        waiting = await redis.xlen(streams.QUERIES)
    what = "1 query is" if waiting == 1 else f"{waiting} queries are"
    return f"{what} waiting or in work; `qig watch` shows which edges are ready; or a longer --timeout"


def show(answer: Answer, out: Console) -> None:
    """The text, then one line of evidence."""
    if answer.text:
        out.print(verbatim(answer.text), soft_wrap=True)
    out.print(f"[dim]{plain(evidence(answer))}[/]", soft_wrap=True)


def evidence(answer: Answer) -> str:
    """Who answered, along which route, how integrated and how coupled it was, what it took, and its id."""
    route = " < ".join(f"{step.domain} {step.distance_rad:.2f}" for step in answer.route)
    parts = [
        (answer.kernel or "no kernel").upper(),
        f"route {route} rad" if route else "no route",
        "abstained: two domains are equally near" if answer.abstained else "",
        _phi(answer),
        f"κ {number(answer.kappa, '.1f')} {answer.phase or ''}".strip(),
        f"{answer.completion_tokens} tokens" if answer.finish != "read" else _reading(answer),
        f"{answer.seconds:.2f} s",
        f"bundle {answer.bundle}",
        answer.node,
        f"id {answer.query_id}",
    ]
    return " · ".join(part for part in parts if part)


def _phi(answer: Answer) -> str:
    if answer.phi is None:
        return f"Φ not known yet: {PHI_MIN_TRANSITIONS} tokens of the kernel are needed since its edge started"
    return f"Φ {answer.phi:.2f}" + ("" if answer.phi_p is None else f" (p {chance(answer.phi_p)})")


def _reading(answer: Answer) -> str:
    return f"read at {answer.prompt_bits / max(1, answer.prompt_bytes):.2f} bit/B"
