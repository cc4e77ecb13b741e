"""The text the trainer owns: the four roles' corpora, split for ever, and the passages each use of them needs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from common.constants import ROLES, Role
from common.wire.codec import canonical
from services.trainer.corpora.document import Document, documents
from services.trainer.corpora.split import Split, split

HELD_OUT_BYTES: Final = 200_000  # of each role: every candidate is read on it; 100 passages, the seed text has 17
REPLAY_BYTES: Final = 4 << 20  # of each role: more than a batch's few steps can read


@dataclass(frozen=True, slots=True)
class Text:
    """corpora: by role. held_out and replay: the texts of their held-out and training documents, evenly taken where
    there are many.
    """

    corpora: Mapping[Role, Split]

    @property
    def held_out(self) -> dict[str, list[str]]:
        """Texts that nothing is trained or chosen by, by role."""
        owned = {role: even(self.corpora[role].held_out, HELD_OUT_BYTES) for role in ROLES}
        return {role: [document.text for document in owned[role]] for role in ROLES}

    @property
    def parents(self) -> dict[str, list[str]]:
        """Of each held-out text, the document that it is a part of."""
        owned = {role: even(self.corpora[role].held_out, HELD_OUT_BYTES) for role in ROLES}
        return {role: [document.parent for document in owned[role]] for role in ROLES}

    @property
    def replay(self) -> dict[Role, list[str]]:
        """Texts that the kernels were trained on, by role."""
        owned = {role: even(self.corpora[role].train, REPLAY_BYTES) for role in ROLES}
        return {role: [document.text for document in owned[role]] for role in ROLES}

    @property
    def digest(self) -> str:
        """Sha256, in hex, of all that a candidate is made with and measured on."""
        read = (self.replay, self.held_out, self.parents)
        return hashlib.sha256(
            canonical([{role: tuple(texts) for role, texts in each.items()} for each in read])
        ).hexdigest()


def load(folder: Path) -> Text:
    """Raises Unavailable("missing_corpus"), Corrupt("corpus_file")."""
    return Text({role: split(documents(role, root=folder)) for role in ROLES})


def even(documents: Sequence[Document], limit_bytes: int) -> list[Document]:
    """All documents, or about as many as the limit holds, at least one, evenly spaced over the whole."""
    total = sum(document.size_bytes for document in documents)
    count = min(len(documents), max(1, len(documents) * limit_bytes // max(total, 1)))
    return [documents[place] for place in np.linspace(0, len(documents) - 1, count).astype(int)]
