"""Train, validation and held-out, fixed for ever by content.

A document goes where its parent's digest sends it: sha256 over the whole chapter, address or poem (white space
normalised, `document.digest`), as a number, mod 100; 0-4 held-out, 5-9 validation, else train. All parts of one parent
stay together, whichever parts a slice holds; neither a seed, nor the order, nor other documents matter.

>>> part_of("04"), part_of("05"), part_of("0a")
('held_out', 'validation', 'train')
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from services.trainer.corpora.document import Document

Part = Literal["train", "validation", "held_out"]
BUCKETS: Final = 100
HELD_OUT_BELOW: Final = 5
VALIDATION_BELOW: Final = 10


@dataclass(frozen=True, slots=True)
class Split:
    """Three disjoint parts. Nothing that a model or a threshold is chosen by may look at `held_out`."""

    train: tuple[Document, ...]
    validation: tuple[Document, ...]
    held_out: tuple[Document, ...]


def part_of(parent: str) -> Part:
    """Where the documents of this parent (hex) belong."""
    bucket = int(parent, 16) % BUCKETS
    if bucket < HELD_OUT_BELOW:
        return "held_out"
    return "validation" if bucket < VALIDATION_BELOW else "train"


def split(documents: Iterable[Document]) -> Split:
    """The documents by part, each part in the order given."""
    parts: dict[Part, list[Document]] = {"train": [], "validation": [], "held_out": []}
    for document in documents:
        parts[part_of(document.parent)].append(document)
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["held_out"]))
