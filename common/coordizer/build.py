"""The whole pipeline: documents in, coordizer out.

Merges first, then the PLSA pass that gives its tokens meaning, then the roles' shares from the routes themselves.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.constants import ROLES, Role
from common.coordizer import basins as basins_
from common.coordizer.artifacts import FIRST_MERGE, Coordizer, Provenance, check_vocab_size
from common.coordizer.compiled import compiled
from common.coordizer.encode import Ids
from common.coordizer.refine import Pieces, refined
from common.coordizer.trace import Look, Watch, collapsed, spelled
from common.coordizer.train import LAMBDA, Training, train_words
from common.coordizer.words import Reader, Words
from common.errors import Rejected
from common.geometry.simplex import from_float16

SAMPLE_TOKENS: Final = 1 << 18  # of each role, for its cells; chosen: more moved routing by less than its noise
KEPT_WORDS: Final = 1 << 22  # of each role, for its shares of tokens; chosen: 20 MB of text
BATCH: Final = 1024  # documents that a thread reads at once; chosen: two megabytes or so
PREFIX: Final = 2048  # ids of the second spelling; chosen: the smallest kernel's, and sizes between inherit
_MERGING: Final = 0.5  # share of the progress bar; chosen from the measured times
_LEARNING: Final = 0.8


Batch = tuple[tuple[int, Role, str], ...]  # documents with their places


@dataclass(frozen=True, slots=True)
class Corpus:
    """What one pass over the documents leaves: words, provenance, and each role's texts as numbers of words."""

    words: Words
    texts: Mapping[Role, Sequence[npt.NDArray[np.int32]]]
    provenance: Provenance


def build(
    documents: Iterable[tuple[Role, str]],
    *,
    vocab_size: int = 2048,
    lam: float = LAMBDA,
    seed: int = 0,
    threads: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Coordizer:
    """Learn merges from all documents and basins from their roles.

    documents are streamed: memory holds the different words, and four million words a role of running text at most.
    vocab_size: at most so many ids; the result has fewer when the text has no more patterns. threads: the result is the
    same for any number. progress is called with the share done, in [0, 1].
    Raises Rejected("vocab_size"), Rejected("lone_surrogate"), Rejected("no_documents").
    """
    check_vocab_size(vocab_size)
    corpus = read(documents, seed, threads)
    return built(corpus, vocab_size=vocab_size, lam=lam, threads=threads, progress=progress)


def built(
    corpus: Corpus,
    *,
    vocab_size: int,
    lam: float = LAMBDA,
    threads: int = 1,
    start: npt.NDArray[np.int32] | None = None,
    watch: bool = False,
    progress: Callable[[float], None] | None = None,
    keep: Callable[[npt.NDArray[np.int32]], None] | None = None,
) -> Coordizer:
    """`build` from a corpus that was read.

    watch: follow Φ of the token stream, and put it in the manifest; raises Rejected("collapsed") when it collapsed.
    keep: is given the merges so far now and then, and start is what it kept: a stopped training goes on from there.
    """
    report = progress or (lambda _: None)
    seed = corpus.provenance.seed
    seen = Watch([corpus.texts.get(role, ()) for role in ROLES] if watch else ())

    def checkpoint(done: float, now: Callable[[], Training]) -> None:
        report(_MERGING * done)
        if seen.due(done) and (watch or keep is not None):
            training = now()
            seen.look(done, training)
            if keep is not None:
                keep(training.merges)

    training = train_words(corpus.words, vocab_size=vocab_size, lam=lam, seed=seed, start=start, checkpoint=checkpoint)
    ids = {role: [spelled(text, training) for text in texts] for role, texts in corpus.texts.items()}
    learned = basins_.plsa(
        {role: _windows(texts) for role, texts in ids.items() if texts},
        training.midpoints,
        seed=seed,
        threads=threads,
        progress=lambda done: report(_MERGING + (_LEARNING - _MERGING) * done),
    )
    stored = basins_.distinct(refined(learned, _spellings(pieces(ids), training.merges), seed))
    looks: tuple[Look, ...] = seen.looks(from_float16(stored)) if watch else ()
    if collapsed(looks):
        told = ", ".join(f"{look.phi} at {look.ids}" for look in looks)
        raise Rejected(
            "collapsed", f"Φ of the token stream can't be told from chance ({told}): another seed, or more text"
        )
    report(1.0)
    trace = tuple((look.ids, look.phi_midpoints, look.phi, look.p_value) for look in looks)
    return Coordizer(training.merges, stored, lam, corpus.provenance, trace)


def read(documents: Iterable[tuple[Role, str]], seed: int, threads: int = 1) -> Corpus:
    """One pass. Of a role with more than KEPT_WORDS every second, fourth, ... document is kept.

    The result is the same for any number of threads. Raises Rejected("lone_surrogate").
    """
    reader, digest = Reader(), hashlib.sha256()
    number, size_bytes = dict.fromkeys(ROLES, 0), dict.fromkeys(ROLES, 0)
    kept = {role: Kept() for role in ROLES}
    for role, text, found in _numbered(documents, reader, threads):
        body = text.encode()
        digest.update(f"{role} {len(body)}\n".encode() + body)
        number[role] += 1
        size_bytes[role] += len(body)
        kept[role].offer(found)
    provenance = Provenance(digest.hexdigest(), number, size_bytes, seed)
    return Corpus(reader.words(), {role: some.texts for role, some in kept.items()}, provenance)


def _numbered(
    documents: Iterable[tuple[Role, str]], reader: Reader, threads: int
) -> Iterator[tuple[Role, str, npt.NDArray[np.int32]]]:
    """Each document and the numbers of its words; at most 2 · threads batches of documents are held."""
    waiting: deque[Future[tuple[Batch, Words, list[npt.NDArray[np.int32]]]]] = deque()

    def next_() -> Iterator[tuple[Role, str, npt.NDArray[np.int32]]]:
        batch, words, found = waiting.popleft().result()
        here = reader.absorb(words)
        for (_, role, text), numbers in zip(batch, found, strict=True):
            yield role, text, here[numbers]

    placed = ((place, role, text) for place, (role, text) in enumerate(documents))
    with ThreadPoolExecutor(threads) as pool:
        for batch in iter(lambda: tuple(islice(placed, BATCH)), ()):
            waiting.append(pool.submit(_scanned, batch))
            if len(waiting) >= 2 * threads:
                yield from next_()
        while waiting:
            yield from next_()


def _scanned(batch: Batch) -> tuple[Batch, Words, list[npt.NDArray[np.int32]]]:
    reader = Reader()
    found = [reader.read(text, f"text {place}") for place, _, text in batch]
    return batch, reader.words(), found


class Kept:
    """An even choice from a stream of texts, of bounded size: when it is full, every second text goes."""

    def __init__(self, limit: int = KEPT_WORDS) -> None:
        self.texts: list[npt.NDArray[np.int32]] = []
        self._limit, self._every, self._offered, self._size = limit, 1, 0, 0

    def offer(self, text: npt.NDArray[np.int32]) -> None:
        """Keep this text, or not."""
        if self._offered % self._every == 0 and len(text):
            self.texts.append(text[: self._limit])
            self._size += len(self.texts[-1])
        self._offered += 1
        while self._size > self._limit:
            self.texts = self.texts[::2] if len(self.texts) > 1 else []
            self._every *= 2
            self._size = sum(map(len, self.texts))


def _windows(texts: Sequence[Ids]) -> basins_.Windows:
    """A role's text in windows: all of them, or every n-th, for at most SAMPLE_TOKENS tokens."""
    ids = np.concatenate(texts)
    every = -(-len(ids) // SAMPLE_TOKENS)
    window = np.arange(len(ids)) // basins_.WINDOW_TOKENS
    return basins_.windows(ids[window % every == 0] if every > 1 else ids)


def pieces(ids: Mapping[Role, Sequence[Ids]]) -> Pieces:
    """The documents of all roles behind one another. Raises Rejected("no_documents")."""
    texts = [text for role in ROLES for text in ids.get(role, ())]
    if not texts:
        raise Rejected("no_documents", "basins are learned from text: give at least one document that is not empty")
    starts = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    roles = np.repeat(np.arange(len(ROLES)), [len(ids.get(role, ())) for role in ROLES])
    return Pieces(np.concatenate(texts), starts, roles)


def _spellings(text: Pieces, merges: npt.NDArray[np.int32]) -> list[Pieces]:
    """The text as it is, and in the first PREFIX ids where there are more."""
    return [text] if FIRST_MERGE + len(merges) <= PREFIX else [text, narrowed(text, merges, PREFIX)]


def narrowed(text: Pieces, merges: npt.NDArray[np.int32], vocab_size: int) -> Pieces:
    """The same text as the first `vocab_size` ids spell it: later merges are taken apart again, and nothing else is.

    For a merge only ever joins what stood there, a token's parts are what stood there before it.
    """
    parts = [[number] for number in range(vocab_size)]
    for left, right in merges[vocab_size - FIRST_MERGE :].tolist():
        parts.append(parts[left] + parts[right])
    sizes = np.array([len(part) for part in parts])
    table = np.fromiter(chain.from_iterable(parts), np.int32, int(sizes.sum()))
    starts = np.zeros_like(text.starts)
    return Pieces(_expanded(text.ids, text.starts, np.cumsum(sizes) - sizes, sizes, table, starts), starts, text.role)


@compiled
def _expanded(ids: Any, bounds: Any, first: Any, sizes: Any, table: Any, starts: Any) -> Any:
    """Each id replaced by sizes[id] entries of the table, from first[id] on; fills the new bounds of the documents."""
    total = 0
    for document in range(len(bounds) - 1):
        for at in range(bounds[document], bounds[document + 1]):
            total += sizes[ids[at]]
        starts[document + 1] = total
    out = np.empty(total, np.int32)
    end = 0
    for i in ids:
        for k in range(sizes[i]):
            out[end] = table[first[i] + k]
            end += 1
    return out
