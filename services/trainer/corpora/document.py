r"""A document, and the file that holds a domain's documents: `<root>/<domain>.jsonl.gz`, one JSON object a line.

It does not know where text comes from. Rule: a document's id is the digest of its own text, so a changed text is seen.

>>> make("heart", "verse", "lines 1-2", "Should you ask me,\nwhence these stories?").id
'63bb22450bdbccd2'
"""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from common.errors import Corrupt, Rejected, Unavailable

ID_CHARACTERS: Final = 16  # 64 bits of sha256: a collision among 10^6 documents has probability 3e-8
FILE_MAX_BYTES: Final = 512 * 2**20  # uncompressed; the largest full corpus (verse) has 130 MB
_FIELDS: Final = {"id", "parent", "source", "title", "text"}
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DOMAIN: Final = re.compile(r"[a-z0-9-]{1,64}(/[a-z0-9-]{1,64})?")


@dataclass(frozen=True, slots=True)
class Document:
    """A passage of 1 to 3 KB. `parent` is the digest of the whole chapter, address or poem it is a part of.

    `id`: 16 hex digits, `parent`: 64.
    """

    id: str
    parent: str
    domain: str
    source: str
    title: str
    text: str

    @property
    def size_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text.encode())


def digest(text: str) -> str:
    """sha256 (64 hex digits) over the UTF-8 text, every run of white space taken as one space."""
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()


def make(domain: str, source: str, title: str, text: str, *, parent: str | None = None) -> Document:
    """A document of `text`; without a parent it is its own."""
    own = digest(text)
    return Document(own[:ID_CHARACTERS], own if parent is None else parent, domain, source, title, text)


def documents(domain: str, *, root: Path) -> list[Document]:
    """Every document of `<root>/<domain>.jsonl.gz`, in file order; `domain` may name one folder (`unseen/scripture`).

    A document's own `domain` is the last part of the name.
    Raises Rejected("unknown_domain") for a name that is no slug, Unavailable("missing_corpus") without the file,
    Corrupt("corpus_file") when it cannot be read or a text does not match its id.
    """
    if not _DOMAIN.fullmatch(domain):
        raise Rejected("unknown_domain", f"domain {domain[:80]!r}: a name has only a-z, 0-9 and -, and at most one /")
    path = root / f"{domain}.jsonl.gz"
    if not path.is_file():
        raise Unavailable("missing_corpus", f"no text for domain {domain!r} at {path}: name the folder that holds it")
    return [_parse(line, domain.rpartition("/")[2], path) for line in _unpack(path).splitlines()]


def pack(rows: Iterable[Document]) -> bytes:
    """The documents as JSON lines, UTF-8, keys in a fixed order."""
    lines = (
        json.dumps(
            {"id": row.id, "parent": row.parent, "source": row.source, "title": row.title, "text": row.text},
            ensure_ascii=False,
        )
        for row in rows
    )
    return "".join(line + "\n" for line in lines).encode()


def compress(data: bytes) -> bytes:
    """Gzip with neither a name nor a time in its header: the same bytes whenever it is made with the same zlib."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as stream:
        stream.write(data)
    return buffer.getvalue()


def _unpack(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            data = stream.read(FILE_MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Corrupt("corpus_file", f"{path} is no whole gzip file ({error}): restore it or build it again") from error
    if len(data) > FILE_MAX_BYTES:
        raise Corrupt("corpus_file", f"{path} unpacks to more than {FILE_MAX_BYTES} bytes: it is not ours")
    return data


def _parse(line: bytes, domain: str, path: Path) -> Document:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise Corrupt("corpus_file", f"{path} has a line that is no JSON: restore it or build it again") from error
    if not isinstance(row, dict) or row.keys() != _FIELDS or not all(isinstance(value, str) for value in row.values()):
        raise Corrupt("corpus_file", f"{path} has a line without exactly {sorted(_FIELDS)} as text: build it again")
    if digest(row["text"])[:ID_CHARACTERS] != row["id"] or not _DIGEST.fullmatch(row["parent"]):
        raise Corrupt("corpus_file", f"{path}: document {row['id'][:16]!r} does not match its text: build it again")
    return Document(domain=domain, **row)
