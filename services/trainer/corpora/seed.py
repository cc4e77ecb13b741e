"""Corpora from fetched archives: the small slice committed in data/, and the full ones for a cache.

The slice is spread over the whole of every source: passages are taken in an order drawn by digest, one of each
chapter, address or poem before a second of any. Validation and held-out get a tenth of it each, more than the one in
twenty they have in full, because a figure on eight documents would be noise; where a document belongs is settled by
its content alone (`split`). Nothing whose licence forbids a copy in this repository can enter it.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from common.errors import Unavailable
from services.trainer.corpora.document import Document, compress, pack
from services.trainer.corpora.duplicates import BULK_EVERY, Shingles, deduplicate, overlap, shingles
from services.trainer.corpora.extract import extract
from services.trainer.corpora.fetch import Progress, Source, cached, lock
from services.trainer.corpora.passages import MIN_BYTES
from services.trainer.corpora.split import Part, part_of

UNSEEN: Final = "unseen/scripture"
SEED: Final = "qig-seed-1"
SLICE_BYTES: Final = 330_000  # a domain's text, before compression
SHARES: Final[dict[Part, float]] = {"train": 0.8, "validation": 0.1, "held_out": 0.1}
SLICE_NEAR_LIMIT: Final = 0.05  # stricter than in bulk: there is text to spare, and the slice measures
SCRIPTURE_LIMIT: Final = (
    0.01  # of a role document's word 5-grams that also stand in scripture; nine in ten of any source have < 0.005
)
# Marked by WordNet's own glosses, or unmistakable: left out of what we publish, though not of the full corpora.
_UNFIT: Final = re.compile(
    r"\bnigg|\bethnic slur|\(offensive|\boffensive (?:term|name|word)|\bobscene term", re.IGNORECASE
)
_NOTHING: Final[Shingles] = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class Built:
    """One written file: `domain` as in its path, and what it holds."""

    domain: str
    path: Path
    documents: int
    text_bytes: int


def build_seed(cache: Path, out: Path, progress: Progress) -> list[Built]:
    """Write the slice and its manifest.json into `out`, from the archives in `cache`; the same bytes every time.

    `progress(domain, fraction)`. Raises Unavailable("missing_corpus") naming what to fetch, Corrupt on a bad archive,
    Unavailable("corpus_short") when a source cannot fill its share.
    """
    by_domain = _by_domain(source for source in lock().values() if source.may_be_committed)
    known = scripture_shingles(extract_all(by_domain[UNSEEN], cache))
    chosen: dict[str, list[Document]] = {}
    for domain, sources in by_domain.items():
        progress(domain, 0.0)
        fit = partial(is_fit, forbidden=known if domain != UNSEEN else _NOTHING)
        chosen[domain] = choose(_counted(domain, sources, cache, progress), SLICE_BYTES, SEED, fit)
        progress(domain, 1.0)
    built = [_write(domain, rows, out) for domain, rows in chosen.items()]
    entries = {domain: _entry(domain, rows, by_domain[domain], out) for domain, rows in chosen.items()}
    (out / "manifest.json").write_text(json.dumps({"seed": SEED, "domains": entries}, indent=2) + "\n")
    return built


def build_full(cache: Path, out: Path, progress: Progress) -> list[Built]:
    """Write every domain's whole corpus into `out`, without near duplicates, the roles' without scripture.

    For a cache: it holds CC BY-SA text. Verse takes a minute and 600 MB of memory. Raises as `build_seed`.
    """
    built = []
    by_domain = _by_domain(lock().values())
    known = scripture_shingles(extract_all(by_domain[UNSEEN], cache))
    for domain, sources in by_domain.items():
        progress(domain, 0.0)
        free = partial(is_free_of, known if domain != UNSEEN else _NOTHING)
        rows = deduplicate(filter(free, _counted(domain, sources, cache, progress)), every=BULK_EVERY)
        built.append(_write(domain, list(rows), out))
        progress(domain, 1.0)
    return built


def choose(
    documents: Iterable[Document], budget_bytes: int, seed: str, fit: Callable[[Document], bool]
) -> list[Document]:
    """Fit documents for `budget_bytes`, spread over the parents, no near duplicates, each part filled to its share.

    Sorted by title, then id. Raises Unavailable("corpus_short") when a part stays under half its share.
    """
    room = {part: share * budget_bytes for part, share in SHARES.items()}
    chosen: list[Document] = []
    for document in deduplicate(filter(fit, spread(documents, seed)), limit=SLICE_NEAR_LIMIT):
        part = part_of(document.parent)
        if document.size_bytes <= room[part]:
            chosen.append(document)
            room[part] -= document.size_bytes
        if max(room.values()) < MIN_BYTES:
            break
    for part, left in room.items():
        if left > SHARES[part] * budget_bytes / 2:
            raise Unavailable("corpus_short", f"{part} lacks {left:.0f} bytes of text: fetch more, or ask for less")
    return sorted(chosen, key=lambda document: (document.source, document.title, document.id))


def spread(documents: Iterable[Document], seed: str) -> Iterator[Document]:
    """In an order drawn by digest of seed and id: the first of every parent, then the second of every parent, ..."""

    def draw(document: Document) -> str:
        return hashlib.sha256(f"{seed}:{document.id}".encode()).hexdigest()

    families: defaultdict[str, list[tuple[str, Document]]] = defaultdict(list)
    for document in documents:
        families[document.parent].append((draw(document), document))
    ranked = [
        (rank, drawn, document)
        for family in families.values()
        for rank, (drawn, document) in enumerate(sorted(family, key=lambda pair: pair[0]))
    ]
    return (document for _, _, document in sorted(ranked, key=lambda row: row[:2]))


def scripture_shingles(documents: Iterable[Document]) -> Shingles:
    """Sorted distinct word 5-grams of the text that no role may have seen."""
    found: Shingles = np.unique(np.concatenate([shingles(document.text) for document in documents]))
    return found


def extract_all(sources: Iterable[Source], cache: Path) -> Iterator[Document]:
    """The documents of several fetched sources, one after the other."""
    for source in sources:
        yield from extract(source.name, cached(source, cache), source.domain.rpartition("/")[2])


def is_fit(document: Document, forbidden: Shingles) -> bool:
    """Whether it may stand in the slice: at least 1 KB, fit to publish, and free of the forbidden text."""
    return document.size_bytes >= MIN_BYTES and not _UNFIT.search(document.text) and is_free_of(forbidden, document)


def is_free_of(forbidden: Shingles, document: Document) -> bool:
    """Whether at most SCRIPTURE_LIMIT of the document's word 5-grams are among the forbidden ones."""
    return overlap(shingles(document.text), forbidden) <= SCRIPTURE_LIMIT


def _counted(domain: str, sources: list[Source], cache: Path, progress: Progress) -> Iterator[Document]:
    """The sources' documents, reporting how much of their text has passed."""
    total = sum(source.text_bytes for source in sources)
    passed = reported = 0
    for document in extract_all(sources, cache):
        yield document
        passed += document.size_bytes
        if passed - reported > total // 100:
            progress(domain, min(0.99, passed / total))
            reported = passed


def _by_domain(sources: Iterable[Source]) -> dict[str, list[Source]]:
    grouped: defaultdict[str, list[Source]] = defaultdict(list)
    for source in sources:
        grouped[source.domain].append(source)
    return dict(grouped)


def _write(domain: str, rows: list[Document], out: Path) -> Built:
    path = out / f"{domain}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(compress(pack(rows)))
    return Built(domain, path, len(rows), sum(row.size_bytes for row in rows))


def _entry(domain: str, rows: list[Document], sources: list[Source], out: Path) -> dict[str, Any]:
    """The manifest's record of one file: digests, sizes and provenance."""
    data = (out / f"{domain}.jsonl.gz").read_bytes()
    return {
        "file": f"{domain}.jsonl.gz",
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha256_unpacked": hashlib.sha256(pack(rows)).hexdigest(),
        "documents": len(rows),
        "text_bytes": sum(row.size_bytes for row in rows),
        "parts": _parts(rows),
        "sources": [_provenance(source) for source in sources],
    }


def _parts(rows: Iterable[Document]) -> Mapping[Part, Mapping[str, int]]:
    counts: Counter[Part] = Counter()
    sizes: Counter[Part] = Counter()
    for row in rows:
        counts[part_of(row.parent)] += 1
        sizes[part_of(row.parent)] += row.size_bytes
    return {part: {"documents": counts[part], "text_bytes": sizes[part]} for part in SHARES}


def _provenance(source: Source) -> dict[str, str]:
    return {
        "work": source.work,
        "licence": source.licence,
        "package": f"{source.registry}:{source.package}@{source.version}",
        "archive_sha256": source.sha256,
    }
