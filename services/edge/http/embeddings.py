"""POST /v1/embeddings: where a text lies among the 64 cells, its basin. Pure translation, and the thread it takes.

A basin is a distribution (it sums to one): compare two by their Fisher-Rao distance, or by the angle between their
square roots, which are unit vectors.
"""

import asyncio
import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final, Literal, TypeVar

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from common.constellation.constellation import Constellation
from common.errors import Unavailable
from common.kernels.memory import Ids
from common.wire.fields import QUERY_MAX_CHARS
from services.edge.http.asking import ModelName, Received, Text, check_model, check_text
from services.edge.http.errors import invalid

T = TypeVar("T")

INPUTS_MAX: Final = 2048  # OpenAI's
WAITING_MAX: Final = 16  # chosen: each has a body of 1 MiB at most

Tokens = Annotated[list[int], Field(fail_fast=True, min_length=1, max_length=QUERY_MAX_CHARS)]
Input = (
    Text
    | Annotated[list[Text], Field(fail_fast=True, min_length=1, max_length=INPUTS_MAX)]
    | Tokens
    | Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=INPUTS_MAX)]
)


class EmbeddingRequest(Received):
    """The body of POST /v1/embeddings."""

    model: ModelName = Field(description="Any of the models: a text lies in the same place for all")
    input: Input = Field(description="A text, texts, or the same as token ids of the coordizer")
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Literal[64] | None = None  # as many as cells


class Embedding(TypedDict):
    """embedding: 64 numbers that sum to one, or the same as base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(TypedDict):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(TypedDict):
    """The answer."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Embedder:
    """One thread that embeds, since a body of texts takes as long as many answers; a few requests may wait for it.

    Whatever else an edge does in threads is not held up. Belongs to the event loop.
    """

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._free = asyncio.Lock()
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """The work's result. Raises what it raises, and Unavailable("overloaded") when WAITING_MAX wait already.

        Cancelled, it is not begun; if it was, it goes on to its end, and nothing else begins before that.
        """
        if self._waiting >= WAITING_MAX:
            raise Unavailable("overloaded", f"{WAITING_MAX} requests for embeddings wait here: ask again later")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        working = asyncio.get_running_loop().run_in_executor(self._executor, work)
        working.add_done_callback(lambda _: self._free.release())
        working.add_done_callback(lambda done: done.cancelled() or done.exception())  # of one left, it is nobody's
        return await asyncio.shield(working)


def embeddings(asked: EmbeddingRequest, constellation: Constellation) -> EmbeddingList:
    """The basins of all inputs. Raises Refusal, and Rejected for a text that cannot be coordized."""
    model = check_model(asked.model)
    inputs = list(_ids(asked.input, constellation))
    basins = [constellation.basin(ids) for ids in inputs]
    read = sum(map(len, inputs))
    return EmbeddingList(
        object="list",
        data=[_embedding(index, basin, asked.encoding_format) for index, basin in enumerate(basins)],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=read, total_tokens=read),
    )


def _ids(given: Any, constellation: Constellation) -> Iterator[Ids]:
    several = isinstance(given, list) and not isinstance(given[0], int)
    for each in given if several else [given]:
        if isinstance(each, str):
            check_text(each, "input")
            yield constellation.encoder.encode(each)
        else:
            yield _known(each, constellation.encoder.vocab_size)


def _known(ids: Sequence[int], vocab_size: int) -> Ids:
    wrong = next((each for each in ids if not 0 <= each < vocab_size), None)
    if wrong is not None:
        raise invalid("input", f"token {wrong} is not one of this coordizer's {vocab_size}.", "invalid_tokens")
    return np.array(ids, np.int32)


def _embedding(index: int, basin: Any, encoding: str | None) -> Embedding:
    numbers = np.asarray(basin, "<f4")
    shown = base64.b64encode(numbers.tobytes()).decode() if encoding == "base64" else numbers.tolist()
    return Embedding(object="embedding", index=index, embedding=shown)
