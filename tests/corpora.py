"""Text for tests: a few real documents, so that a candidate is measured on them in tenths of a second."""

from pathlib import Path

import pytest

from common.constants import ROLES
from services.trainer import text
from services.trainer.corpora import document
from services.trainer.corpora.split import split

DATA = Path("data")


def small_corpora(root):
    """A folder with some documents of each role, of each part of the split; the folder."""
    root.mkdir()
    for role in ROLES:
        parts = split(document.documents(role, root=DATA))
        rows = [*parts.train[:2], *parts.validation[:1], *parts.held_out[:2]]
        (root / f"{role}.jsonl.gz").write_bytes(document.compress(document.pack(rows)))
    return root


@pytest.fixture(scope="session")
def small_text(tmp_path_factory):
    return text.load(small_corpora(tmp_path_factory.mktemp("text") / "corpora"))
