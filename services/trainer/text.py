"""The text the trainer owns: the four roles' corpora, split for ever, and the passages each use of them needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.constants import ROLES, Role
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import Split, split


@dataclass(frozen=True, slots=True)
class Text:
    """corpora: by role. held_out and replay: the texts of their held-out and training documents."""

    corpora: Mapping[Role, Split]

    @property
    def held_out(self) -> dict[str, list[str]]:
        """Texts that nothing is trained or chosen by, by role."""
        return {role: [document.text for document in self.corpora[role].held_out] for role in ROLES}

    @property
    def replay(self) -> dict[Role, list[str]]:
        """Texts that the kernels were trained on, by role."""
        return {role: [document.text for document in self.corpora[role].train] for role in ROLES}


def load(folder: Path) -> Text:
    """Raises Unavailable("missing_corpus"), Corrupt("corpus_file")."""
    return Text({role: split(documents(role, root=folder)) for role in ROLES})
