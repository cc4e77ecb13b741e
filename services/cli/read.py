"""`qig read`: texts for the edges to learn from, cut into pieces of a query each; nothing is answered."""

import asyncio
import itertools
import json as codec
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from common.client import Client
from common.errors import Rejected, Unavailable
from common.runtime.settings import AggregatorSettings, EdgeSettings
from common.wire.inference import Answer
from services.cli.app.ending import EXIT_INTERRUPTED
from services.cli.ask import decoded, explained, standard_input
from services.cli.broker import find_url
from services.cli.show import command, console, plain, progress

PIECE_CHARS: Final = 2000  # chosen: an edge learns text by text, so many short ones teach more than one long one
SLEEP_AFTER_BYTES: Final = EdgeSettings.model_fields["sleep_after_bytes"].default
_LEAST_S: Final = EdgeSettings.model_fields["sleep_idle_s"].default
IDLE_S: Final = f"{_LEAST_S:g} to {3 * _LEAST_S:g} s"  # as the setting says; sleep.py would load what compiles
BATCH_PACKETS: Final = AggregatorSettings.model_fields["batch_packets"].default
BATCH_AGE_S: Final = AggregatorSettings.model_fields["batch_age_s"].default
AT_ONCE: Final = 4  # that wait at the edges
CUTS: Final = ("\n\n", "\n", " ")  # where a piece may end, the best first


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read. bits_per_byte: of all of it, as the edges knew it when they read it."""

    texts: int
    bytes: int
    bits_per_byte: float
    bundles: tuple[int, ...]
    nodes: tuple[str, ...]


def run(files: Sequence[Path], *, store: bool, timeout_s: float, home: Path, json: bool) -> int:
    """Raises Rejected for what is no text, Unavailable when nobody reads it in time."""
    texts = [piece for file in files for piece in pieces(_text(file))]
    if not texts:
        raise Rejected("bad_argument", f"there is no text in {', '.join(map(str, files))}")
    read = 0

    def count(done: int) -> None:
        nonlocal read
        read = done
        tell("read", done / len(texts))

    try:
        with progress(("read",)) as tell:
            answers = asyncio.run(
                _read(
                    find_url(home),
                    texts,
                    store=store,
                    timeout_s=timeout_s,
                    tell=count,
                )
            )
    except KeyboardInterrupt:
        sys.stderr.write(f"cancelled: {_so_far(read, len(texts), store=store)}\n")
        return EXIT_INTERRUPTED
    except (Rejected, Unavailable) as error:
        if not read:
            raise
        raise type(error)(error.code, f"{error.message}; {_so_far(read, len(texts), store=store)}") from error
    found = reading(answers)
    if json:
        sys.stdout.write(codec.dumps(asdict(found)) + "\n")
    else:
        console().print(plain("\n".join(_lines(found, store, home))), soft_wrap=True)
    return 0


def _so_far(read: int, texts: int, *, store: bool) -> str:
    return f"{read} of {texts} texts were read" + ("; what an edge has read is learned" if store else "")


def pieces(text: str, size: int = PIECE_CHARS) -> Iterator[str]:
    """The text in pieces of at most `size` characters, cut between paragraphs, else lines, else words, else anywhere;
    joined they are the text, but for pieces of white space alone.
    """
    while text:
        cut = len(text) if len(text) <= size else _cut(text[:size])
        piece, text = text[:cut], text[cut:]
        if piece.strip():
            yield piece


def _cut(head: str) -> int:
    for mark in CUTS:
        at = head.rfind(mark)
        if at > len(head) // 2:  # else pieces become too small
            return at + len(mark)
    return len(head)


def _text(file: Path) -> str:
    source = "standard input" if str(file) == "-" else str(file)
    try:
        data = standard_input() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise Unavailable("no_file", f"cannot read {source}: {error.strerror}") from None
    text = decoded(data, source)
    if "\0" in text:
        raise Rejected("no_text", f"{source} is binary, no text: byte {data.index(0)} is NUL; give a text file")
    return text


async def _read(
    url: str, texts: Sequence[str], *, store: bool, timeout_s: float, tell: Callable[[int], None]
) -> list[Answer]:
    """What the edges said of each. tell: told how many are read. Raises what kept the first of them from it."""
    places, done = asyncio.Semaphore(AT_ONCE), itertools.count(1)
    async with Client(url) as asker:

        async def one(text: str) -> Answer:
            async with places:
                answer = await asker.ask(text, max_tokens=0, store=store, deadline_s=timeout_s)
            tell(next(done))
            return answer

        asked = [asyncio.create_task(one(text)) for text in texts]
        try:
            return await asyncio.gather(*asked)
        except Unavailable as error:
            raise await explained(error, url) from None
        finally:
            for task in asked:
                task.cancel()


def reading(answers: Sequence[Answer]) -> Reading:
    """The sum of what edges said of the pieces."""
    size = sum(answer.prompt_bytes for answer in answers)
    return Reading(
        texts=len(answers),
        bytes=size,
        bits_per_byte=sum(answer.prompt_bits for answer in answers) / max(1, size),
        bundles=tuple(sorted({answer.bundle for answer in answers})),
        nodes=tuple(sorted({answer.node for answer in answers})),
    )


def _lines(found: Reading, store: bool, home: Path) -> Iterator[str]:
    bundles = ", ".join(map(str, found.bundles))
    yield (
        f"{found.bytes / 1000:.1f} KB in {found.texts} texts read at {found.bits_per_byte:.2f} bit/B"
        f" by {', '.join(found.nodes)} · bundle {bundles}"
    )
    if store:
        least = f"{SLEEP_AFTER_BYTES / 1000:g} KB"
        if found.bytes < SLEEP_AFTER_BYTES:
            read = f"{found.bytes / 1000:.1f} KB"
            yield f"{read} is too little for a sleep on its own: an edge wants {least} of new text."
        yield "What comes next, by itself (where no setting says otherwise: docs/settings.md):"
        yield f"  an edge     with {least} of new text sleeps once idle for {IDLE_S}, and sends a packet"
        yield f"  aggregator  makes a batch of {BATCH_PACKETS} packets, or of fewer {BATCH_AGE_S:g} s after the first"
        yield "  trainer     makes a candidate of it, the publisher a bundle, and each edge tries that on its own text"
        yield "See it come:"
        yield f"  {command('nodes', home)}          packets accepted, and each edge's bundle"
        yield f"  {command('bundle list', home)}    the bundles, what each changed, and where it serves"
