import asyncio
import dataclasses
import json
import time

import pytest
from rich.console import Console

from common.errors import Rejected, Unavailable
from common.runtime import streams
from common.runtime.effects import HashSet
from common.wire.codec import pack
from common.wire.messages import Applied, DeadLetter, Evidence, Figure
from services.cli import why
from services.publisher import refusals

pytestmark = pytest.mark.anyio
FIGURES = (
    Figure(name="bits_per_byte", domain="heart", before=2.0, after=2.1, unit="bit/B"),
    Figure(name="drift_rad", domain="heart", before=None, after=0.05, unit="rad"),
)


async def refuse(centre, name, *reasons, at_s=1.0):
    note = HashSet(streams.REFUSED, name, refusals.note(reasons, at_s))
    assert await centre.broker.commit(streams.CANDIDATES, [note])


async def bury(centre, candidate):
    letter = DeadLetter(
        stream=streams.CANDIDATES, entry="1-1", code="candidate_refused", reason="", deliveries=1,
        body=pack(candidate), at_s=1.0,
    )  # fmt: skip
    await centre.broker.redis.xadd(streams.dead(streams.CANDIDATES), {streams.DATA_FIELD: pack(letter)})


async def say(centre, node, version, verdict, reason=""):
    told = Applied(node=node, version=version, verdict=verdict, reason=reason, at_s=time.time())
    await centre.broker.produce(streams.APPLIED, pack(told), f"{node}{version}{verdict}")


async def looked(centre, name=None):
    return await why._look(name, centre.url, centre.home)


def text_of(story, width=200):
    out = Console(width=width)
    with out.capture() as shown:
        for part in why.shown(story):
            out.print(part)
    return shown.get()


async def test_of_a_release_its_figures_and_what_edges_said_of_it_are_shown(centre):
    one = await centre.release()
    two = await centre.release(2, one)
    await say(centre, "edge-0", 2, "good")
    await say(centre, "edge-1", 2, "reverted", "[red]reads worse")
    for name in ("2", two.id, None):
        story, *rest = await looked(centre, name)
        assert (story.version, story.id, rest) == (2, two.id, [])
    assert (story.edges["good"], story.edges["reverted"]) == (1, 1)
    assert story.against == ("edge-1 reverted: [red]reads worse",)
    shown = text_of(story)
    assert "bits_per_byte heart 3.0000 2.0000 -1.0000 bit/B" in " ".join(shown.split())
    narrow = text_of(story, width=40).split()
    assert [word for word in narrow if word.startswith(("3.0", "2.0"))] == ["3.0000", "2.0000"]
    assert "edges: 1 good, 1 reverted" in shown
    assert "[red]reads worse" in shown


async def test_a_release_that_was_taken_back_says_why(centre):
    one = await centre.release()
    two = await centre.release(2, one)
    await refuse(centre, two.id, "2 of 4 went back from it")
    (story,) = await looked(centre, "2")
    assert story.reasons == ("2 of 4 went back from it",)
    assert "taken back: 2 of 4 went back from it" in text_of(story)


async def test_a_refused_candidate_has_its_reasons_and_its_figures_while_its_letter_is_there(centre):
    candidate = await centre.candidate(id="c-worse", evidence=Evidence(figures=FIGURES, guards=("renew-heart",)))
    await refuse(centre, "c-worse", "bits_per_byte of heart is 5 % worse", "drift")
    await refuse(centre, "c-other", "nothing got better", at_s=2.0)
    other, bare = await looked(centre)
    assert (other.id, bare.id, bare.figures, bare.packets) == ("c-other", "c-worse", (), None)
    await bury(centre, candidate)
    (story,) = await looked(centre, "c-w")
    assert (story.version, story.reasons) == (None, ("bits_per_byte of heart is 5 % worse", "drift"))
    assert [figure["after"] for figure in story.figures] == [2.1, 0.05]
    shown = text_of(story)
    assert "refused: drift" in shown
    assert "guards that spoke: renew-heart" in shown


async def test_a_forged_release_is_not_shown(centre):
    one = await centre.release()
    forged = one.model_copy(update={"id": "forged"})
    await centre.broker.redis.xadd(streams.BUNDLES, {streams.DATA_FIELD: pack(forged)})
    (story,) = await looked(centre, "1")
    assert story.id == one.id


async def test_what_is_not_there_and_what_is_not_clear_is_said(centre):
    await refuse(centre, "c-1", "why")
    await refuse(centre, "c-2", "why")
    with pytest.raises(Unavailable, match=r"unknown_bundle.*bundle why"):
        await looked(centre, "7")
    with pytest.raises(Rejected, match=r"begins 2 ids.*c-2, c-1|begins 2 ids.*c-1, c-2"):
        await looked(centre, "c-")


async def test_of_refusals_the_newest_are_listed(centre):
    for number in range(why.SHOWN + 3):
        await refuse(centre, f"c-{number}", "why", at_s=float(number))
    found = await looked(centre)
    assert [story.id for story in found][:2] == [f"c-{why.SHOWN + 2}", f"c-{why.SHOWN + 1}"]
    assert len(found) == why.SHOWN


def test_an_interval_is_shown_where_the_figure_has_one():
    figure = FIGURES[0].model_dump(mode="json") | {"low": 0.08, "high": 0.12}
    story = why.Story("c-1", None, 1.0, (), (figure,), (), 3, {}, ())
    assert "+0.1000 +0.0800 to +0.1200" in " ".join(text_of(story).split())


def test_for_programs_it_is_a_line_a_candidate(tmp_path, broker_url, monkeypatch, capsys):
    story = why.Story("c-1", None, 1.0, ("why",), (), (), 3, {}, ())

    async def one(*_):
        return [story]

    monkeypatch.setattr(why, "_look", one)
    monkeypatch.setenv("QIG_BROKER_URL", broker_url)
    assert why.run(None, tmp_path, json=True) == 0
    wanted = json.loads(json.dumps(dataclasses.asdict(story)))
    assert json.loads(capsys.readouterr().out) == wanted


def test_a_note_that_cannot_be_read_says_so():
    assert refusals.reasons(refusals.note(["one", "two"], 1.0)) == ("one", "two")
    assert refusals.reasons(b"{}") == refusals.reasons(b"\xff") == ("its note in the broker cannot be read",)


async def test_before_anything_was_released_it_says_so(centre, monkeypatch, capsys):
    monkeypatch.setenv("QIG_BROKER_URL", centre.url)
    assert await asyncio.to_thread(why.run, None, centre.home, json=False) == 0
    assert capsys.readouterr().out == "nothing was released or refused yet\n"
