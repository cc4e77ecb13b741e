from dataclasses import replace
from pathlib import Path

import pytest

from common.constants import ROLES
from common.errors import Unavailable
from services.trainer.corpora.document import make
from services.trainer.corpora.fetch import lock
from services.trainer.corpora.selection import CAPS, load, prompts, select
from services.trainer.corpora.split import part_of

DATA = Path(__file__).parents[2] / "data"


def supply(role, source, number=20):
    return [
        replace(make(role, source, str(i), f"{role} {i} é " * 60), parent=make(role, source, "", f"{role} {i // 4}").id)
        for i in range(number)
    ]


OWNED = {"vocab": supply("vocab", "wordnet"), "heart": supply("heart", "poetry")}
CAP = {"wordnet": 2000, "poetry": 5000}


def test_a_selection_keeps_every_cap_and_fills_it():
    chosen = select(OWNED, caps=CAP)
    for role, source in (("vocab", "wordnet"), ("heart", "poetry")):
        size = sum(row.size_bytes for owner, row in chosen if owner == role)
        assert CAP[source] - 900 < size <= CAP[source]


def test_a_selection_does_not_depend_on_the_order_of_the_supply():
    assert select({role: rows[::-1] for role, rows in OWNED.items()}, caps=CAP) == select(OWNED, caps=CAP)
    assert select(OWNED, caps=CAP, seed="another") != select(OWNED, caps=CAP)


def test_a_source_without_a_cap_gives_nothing():
    assert {role for role, _ in select(OWNED, caps={"poetry": 5000})} == {"heart"}


def test_every_source_of_a_role_has_a_cap():
    assert set(CAPS) == {name for name, source in lock().items() if source.domain in ROLES}


def test_a_load_holds_one_part_only():
    loaded = {part: load(DATA, part=part) for part in ("train", "held_out")}
    for part, owned in loaded.items():
        assert all(part_of(row.parent) == part for rows in owned.values() for row in rows)
        assert all(owned.values())


@pytest.mark.parametrize("size", [32, 64, 256])
def test_prompts_begin_with_a_word_and_have_their_size(size):
    found = prompts(OWNED["heart"], size_bytes=size, number=50, seed=0)
    assert len(found) == 50
    for text in found:
        assert size - 3 <= len(text.encode()) <= size
        assert not text[0].isspace()
        assert text.split()[0] in {"heart", "é", *map(str, range(20))}


def test_prompts_are_drawn_by_their_seed():
    drawn = [prompts(OWNED["heart"], size_bytes=32, number=9, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_no_document_long_enough_is_said():
    with pytest.raises(Unavailable, match="corpus_short"):
        prompts(OWNED["heart"], size_bytes=10_000, number=1, seed=0)
