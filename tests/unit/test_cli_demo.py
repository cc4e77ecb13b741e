"""The demo's story, as far as chance decides it."""

import asyncio
import random

import pytest

from common.errors import Rejected, Unavailable
from common.runtime.settings import EdgeSettings
from common.wire.messages import Figure
from services.cli import demo
from services.cli import home as places
from services.cli.demo import DATA, EDGES, ROUND_BYTES, SLEEP_AFTER_BYTES, UNSEEN
from services.trainer.corpora.document import documents
from services.trainer.corpora.split import split

STRANGE_SHARE = 0.7  # of the unseen passages that an edge takes for new territory before it knows any
LOTS = 2000


def test_a_round_gives_some_edge_enough_to_sleep_on_whatever_the_lot_of_probes_and_territories():
    share = EdgeSettings.model_fields["probe_share"].default
    passages = [len(each.text.encode()) for each in split(documents(UNSEEN, root=DATA)).train]
    chance = random.Random(1)
    for _ in range(LOTS):
        read, place = [0] * len(EDGES), 0
        while sum(passages[:place]) < ROUND_BYTES:
            if chance.random() < STRANGE_SHARE and chance.randrange(share):
                read[place % len(EDGES)] += passages[place]
            place += 1
        assert max(read) >= SLEEP_AFTER_BYTES


@pytest.mark.parametrize(("unit", "shown"), [("bit/B", "it heart 0.500 bit/B"), ("1", "it heart 0.500")])
def test_a_gate_without_a_unit_shows_none(unit, shown):
    assert demo._gate_line(Figure(name="it", domain="heart", before=None, after=0.5, unit=unit)) == shown


@pytest.mark.anyio
async def test_a_demo_takes_away_what_another_demo_has_made_and_nothing_else(tmp_path):
    home, kept = tmp_path / "demo", tmp_path / "mine" / "letter.txt"
    await demo._clear(home)
    (home / "edge.db").touch()
    await demo._clear(home)
    assert [path.name for path in home.iterdir()] == [demo.MARK]
    kept.parent.mkdir()
    await demo._clear(kept.parent)  # empty: nothing is lost
    (kept.parent / demo.MARK).unlink()
    kept.touch()
    with pytest.raises(Rejected, match=r"not_ours: .*/mine holds what no demo has made"):
        await demo._clear(kept.parent)
    assert kept.exists()
    with places.lock(home), pytest.raises(Unavailable, match="already_running"):
        await demo._clear(home)


def test_a_demo_that_is_cancelled_says_so(tmp_path, monkeypatch, capsys):
    async def cancelled(home, out):
        async with demo._told_when_cancelled(out):
            raise asyncio.CancelledError

    def ctrl_c(story):
        with pytest.raises(asyncio.CancelledError), asyncio.Runner() as runner:
            runner.run(story)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_tell", cancelled)
    monkeypatch.setattr(demo.asyncio, "run", ctrl_c)
    assert demo.run(home=tmp_path, json=False) == 130
    said = capsys.readouterr()
    assert said.out.startswith("stopping")
    assert "cancelled: nothing runs any more" in said.err
