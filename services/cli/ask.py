"""`qig ask`: one query through the broker, one answer back, on a stream that only this question has."""

import asyncio
import secrets
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from common.errors import Rejected, Unavailable
from common.runtime import scripts, streams
from common.runtime.entries import body_of
from common.runtime.settings import redacted
from common.wire.codec import pack, unpack, validated
from common.wire.messages import Answer, DeadLetter, Query
from services.cli.broker import check_there, client, find_url
from services.cli.show import console, number, plain

LOOK_EVERY_S: Final = 0.5
DEAD_LOOKED_AT: Final = 64  # a query's own dead letter is among the newest


def run(fields: Mapping[str, object], *, timeout_s: float, home: Path, json: bool) -> int:
    """fields: of Query, but for its names. Raises Rejected when it is refused, Unavailable when nobody answers."""
    name = f"ask-{secrets.token_hex(8)}"
    text = given(str(fields["text"]))
    query = validated(Query, {**fields, "text": text, "id": name, "client": name})
    out = console()
    answer = asyncio.run(_ask(query, find_url(home), timeout_s, out))
    if answer.problem is not None:
        raise Rejected(answer.problem.code, answer.problem.message)
    if json:
        sys.stdout.write(answer.model_dump_json() + "\n")
    else:
        show(answer, out)
    return 0


def given(text: str) -> str:
    """The argument, or standard input for `-`."""
    return sys.stdin.read() if text == "-" else text


async def _ask(query: Query, url: str, timeout_s: float, out: Console) -> Answer:
    assert query.id is not None
    async with client(url) as redis:
        await check_there(redis, url)
        try:
            entry = await scripts.publish(redis, streams.QUERIES, pack(query), query.id)
            assert entry is not None, "the id is new"
            with out.status("waiting for the answer") if out.is_terminal else nullcontext():
                answer = await _wait(redis, query.client, entry, timeout_s)
        except RedisError as error:
            message = f"the broker at {redacted(url)} went away while the answer was made ({error}): ask again"
            raise Unavailable("broker_away", message) from None
        await redis.delete(streams.answers(query.client), streams.seen(streams.answers(query.client)))
    return answer


async def _wait(redis: Redis, reader: str, entry: str, timeout_s: float) -> Answer:
    """The answer; raises the reason when the query became a dead letter, or Unavailable at the end of the time."""
    deadline = time.monotonic() + timeout_s
    while (left_s := deadline - time.monotonic()) > 0:
        block_ms = max(1, int(1000 * min(LOOK_EVERY_S, left_s)))
        found = cast("Any", await redis.xread({streams.answers(reader): "0"}, count=1, block=block_ms))
        if found:
            body = body_of(found[0][1][0][1])
            return unpack(Answer, body or b"")
        await _raise_if_dead(redis, entry)
    raise Unavailable("no_answer", f"no answer within {timeout_s:g} s: {await _why(redis)}")


async def _raise_if_dead(redis: Redis, entry: str) -> None:
    rows = cast("list[Any]", await redis.xrevrange(streams.dead(streams.QUERIES), count=DEAD_LOOKED_AT))
    for _, fields in rows:
        letter = unpack(DeadLetter, body_of(fields) or b"")
        if letter.entry == entry:
            raise Rejected(letter.code, f"the query could not be handled: {letter.reason}; see `qig dead list`")


async def _why(redis: Redis) -> str:
    """What the broker knows of the edges: the likeliest cause, and what to do."""
    groups = await redis.xinfo_groups(streams.QUERIES) if await redis.exists(streams.QUERIES) else []
    if not groups or not groups[0]["consumers"]:
        return "no edge reads the queries; start the fleet with `qig up`, and it will answer this one too"
    waiting = await redis.xlen(streams.QUERIES)
    return f"{waiting} queries are waiting or in work; `qig watch` shows which edges are ready; or a longer --timeout"


def show(answer: Answer, out: Console) -> None:
    """The text, then one line of evidence."""
    if answer.text:
        out.print(plain(answer.text))
    out.print(f"[dim]{plain(evidence(answer))}[/]")


def evidence(answer: Answer) -> str:
    """Who answered, along which route, how integrated and how coupled it was, and what it took."""
    route = " < ".join(f"{step.domain} {step.distance_rad:.2f}" for step in answer.route)
    phi = number(answer.phi) + ("" if answer.phi_p is None else f" (p {answer.phi_p:.2g})")
    parts = [
        (answer.kernel or "no kernel").upper(),
        f"route {route} rad" if route else "no route",
        "abstained: two domains are equally near" if answer.abstained else "",
        f"Φ {phi}",
        f"κ {number(answer.kappa, '.1f')} {answer.phase or ''}".strip(),
        f"{answer.completion_tokens} tokens" if answer.finish != "read" else _reading(answer),
        f"{answer.seconds:.2f} s",
        f"bundle {answer.bundle}",
        answer.node,
    ]
    return " · ".join(part for part in parts if part)


def _reading(answer: Answer) -> str:
    return f"read at {answer.prompt_bits / max(1, answer.prompt_bytes):.2f} bit/B"
