"""What kernels hold: the shipped constellation, which is integrated, and clients that send it what is no text."""

import asyncio
import base64
import contextlib
import itertools
import random
from pathlib import Path

from live_fleet import EDGES, Live, passages, prepared, settings_for, until
from stage import PATIENCE_S, Drill

from common.constants import PHI_COLLAPSE, ROLES
from common.runtime.connection import connect
from services.cli.fleet import Fleet
from services.trainer import folder
from services.trainer.corpora import document

DATA = Path("data")
MODES = (*ROLES, "constellation")
PROMPT_CHARS = 1_000
SAID_TOKENS = 128
LOOP = "the whale " * (PROMPT_CHARS // 10)
INTEGRATED = f"count(kernel:qig_phi_ratio:avg > {PHI_COLLAPSE}) == {len(ROLES)} and count(qig_distance_rad_count > 9)"


async def play(scratch):
    home = scratch / "home"
    corpora = prepared(home, folder.read(folder.shipped(DATA)))
    async with Fleet(home) as fleet, connect(fleet.broker_url) as redis:
        settings = {node: own for node, own in settings_for(fleet, corpora).items() if node not in EDGES[1:]}
        drill = Drill("state", Live(fleet, redis, passages()), settings)
        await drill.start(*drill.settings)
        await drill.ready()
        async with drill.watched(scratch), drill.live.desk() as desk:
            async with asked(desk, text(), max_tokens=SAID_TOKENS):
                await until(lambda: drill.holds(INTEGRATED), "every kernel integrated", PATIENCE_S)
            async with asked(desk, noise(), max_tokens=0):
                await drill.fires("PhiCollapse", "NoEmergence")
            async with asked(desk, text(), max_tokens=SAID_TOKENS):
                drill.clears("PhiCollapse", "NoEmergence")
                await until(drill.is_quiet, "no alert of what came before", PATIENCE_S)
            async with asked(desk, itertools.repeat(LOOP), max_tokens=0):
                await drill.fires("KappaOutOfBand")
            async with asked(desk, itertools.repeat(LOOP), max_tokens=SAID_TOKENS, temperature=0.0):
                await drill.fires("FractureStuck")
            async with asked(desk, text(), max_tokens=SAID_TOKENS):
                drill.clears("KappaOutOfBand", "FractureStuck")
                await drill.cleared()
    return drill.left


@contextlib.asynccontextmanager
async def asked(desk, texts, **wishes):
    """One after the other, of every kernel and of all together."""

    async def ask(mode):
        while True:
            await desk.ask(next(texts), mode=mode, store=False, **wishes)

    asking = [asyncio.create_task(ask(mode)) for mode in MODES]
    try:
        yield
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


def text():
    """What the kernels' roles are asked."""
    documents = zip(*(document.documents(role, root=DATA) for role in ROLES), strict=False)
    return (each.text[:PROMPT_CHARS] for row in itertools.cycle(documents) for each in row)


def noise():
    """As a client sends it that takes a file for a text."""
    chance = random.Random(7)
    while True:
        yield base64.b64encode(chance.randbytes(PROMPT_CHARS)).decode()[:PROMPT_CHARS]
