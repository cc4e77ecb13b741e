"""The trainer's text: what is trained on is never what is measured on."""

import numpy as np
import pytest

from common.constants import ROLES
from common.errors import Unavailable
from services.trainer import text
from services.trainer.corpora.document import compress, make, pack
from services.trainer.text import even


@pytest.fixture
def folder(tmp_path):
    for role in ROLES:
        rows = [make(role, "made", f"{role}-{n}", f"{role} speaks for the {n}th time") for n in range(60)]
        (tmp_path / f"{role}.jsonl.gz").write_bytes(compress(pack(rows)))
    return tmp_path


def test_every_role_has_text_to_replay_and_other_text_to_be_measured_on(folder):
    found = text.load(folder)
    assert list(found.replay) == list(found.held_out) == list(ROLES)
    for role in ROLES:
        assert found.replay[role]
        assert not set(found.replay[role]) & set(found.held_out[role])
    assert any(found.held_out.values())


def test_no_validation_text_is_replayed_or_held_out(folder):
    found = text.load(folder)
    for role in ROLES:
        validation = {document.text for document in found.corpora[role].validation}
        assert not validation & {*found.replay[role], *found.held_out[role]}
        assert len(validation) + len(found.replay[role]) + len(found.held_out[role]) == 60


def test_each_held_out_text_names_the_document_that_it_is_a_part_of(folder):
    found = text.load(folder)
    for role in ROLES:
        known = {document.text: document.parent for document in found.corpora[role].held_out}
        assert found.parents[role] == [known[each] for each in found.held_out[role]]


def test_a_missing_corpus_is_unavailable(folder):
    (folder / "heart.jsonl.gz").unlink()
    with pytest.raises(Unavailable, match="heart") as error:
        text.load(folder)
    assert error.value.code == "missing_corpus"


def test_text_over_the_limit_is_taken_evenly_from_the_whole():
    owned = [make("vocab", "made", str(n), f"{n:03} " * 100) for n in range(40)]
    size = owned[0].size_bytes
    used = even(owned, 10 * size + size // 2)
    places = [owned.index(document) for document in used]
    assert 9 <= len(used) <= 11
    assert (places[0], places[-1]) == (0, 39)
    assert max(np.diff(places)) <= 6
    assert even(owned, 1 << 30) == list(owned)
    assert even([], 100) == []
    assert even(owned, 1) == owned[:1]
