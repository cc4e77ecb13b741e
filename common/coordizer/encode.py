"""Text to ids and back, through tiktoken with our merges: the ids Hugging Face tokenizers gives for the same artifact.

Any bytes go in and come back. Special tokens are never made from text, so no text can forge one; they decode to
nothing. Time is linear in the length: no run of the pattern is longer than 64 characters.
"""

import codecs
import functools
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt
import tiktoken

from common.coordizer.artifacts import SPECIALS, Coordizer, token_bytes
from common.coordizer.words import PATTERN, check_text
from common.errors import Rejected

Ids = npt.NDArray[np.int32]
KEPT: Final = 4  # vocabularies: the one that serves, a larger one on trial, and older ones that packets came over
_ESCAPED: Final = re.compile("([\udc80-\udcff]+)")  # how Python carries bytes that are no UTF-8


class Encoder:
    """Encodes and decodes with one coordizer; immutable, safe to share between threads.

    Merges alone will do: ids do not depend on basins.
    """

    def __init__(self, coordizer: Coordizer | npt.NDArray[np.int32]) -> None:
        merges = coordizer.merges if isinstance(coordizer, Coordizer) else coordizer
        table, made = _made(np.ascontiguousarray(merges, np.int32).tobytes())
        self._table: Final = table
        self._tiktoken: Final = made
        self.vocab_size: Final = len(table)

    def encode(self, text: str) -> Ids:
        """The ids of a text, (T,) int32. Raises Rejected("lone_surrogate")."""
        check_text(text, "text")
        return self._encode(text)

    def encode_bytes(self, raw: bytes) -> Ids:
        """The ids of any bytes: runs of valid UTF-8 as text, every other byte as its own id."""
        pieces = _ESCAPED.split(raw.decode("utf-8", "surrogateescape"))
        runs = [
            self._encode(piece) if number % 2 == 0 else _byte_ids(piece) for number, piece in enumerate(pieces) if piece
        ]
        return np.concatenate(runs) if runs else np.empty(0, np.int32)

    def encode_batch(self, texts: Sequence[str], threads: int = 1) -> list[Ids]:
        """`encode` of each text, in order; the result does not depend on `threads`."""
        if threads <= 1:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of these ids. Raises Rejected("unknown_token")."""
        numbers = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        if numbers and not (min(numbers) >= 0 and max(numbers) < self.vocab_size):
            wrong = next(number for number in numbers if not 0 <= number < self.vocab_size)
            raise Rejected("unknown_token", f"id {wrong} in a vocabulary of {self.vocab_size}: another coordizer's?")
        return b"".join(map(self._table.__getitem__, numbers))

    def _encode(self, text: str) -> Ids:
        return self._tiktoken.encode_to_numpy(text, allowed_special=set(), disallowed_special=()).astype(np.int32)


class StreamDecoder:
    """Ids in, text out, never half a character: an unfinished one waits for its bytes.

    Bytes that can no longer become UTF-8 come out as U+FFFD.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """The text that is complete with these ids. Raises Rejected("unknown_token")."""
        return self._utf8.decode(self._encoder.decode(ids))

    def finish(self) -> str:
        """What is left when nothing more comes: empty, or U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)


@functools.lru_cache(
    KEPT
)  # most bundles bring the vocabulary of the one before, and the pattern takes 25 ms to compile
def _made(merges: bytes) -> tuple[list[bytes], tiktoken.Encoding]:
    table = token_bytes(np.frombuffer(merges, np.int32).reshape(-1, 2))
    ranks = {token: number for number, token in enumerate(table) if token}
    return table, tiktoken.Encoding(
        "qig", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=SPECIALS, explicit_n_vocab=len(table)
    )


def _byte_ids(escaped: str) -> Ids:
    raw = escaped.encode("utf-8", "surrogateescape")
    return np.frombuffer(raw, np.uint8).astype(np.int32)
