import sys
from dataclasses import replace

from numba.core.registry import CPUDispatcher

from common.kernels.memory import count
from common.wire.inference import Query
from services.edge.answer import Interaction
from services.edge.balance import EMPTY
from services.edge.generation import Generation
from services.edge.local import absorb, open_new
from services.edge.sleep import fold
from services.edge.trial import try_bundle
from services.edge.warm import warm

TEXT = "The king spake unto the people, and the people answered the king. "


def compiled():
    """What numba has compiled, or loaded, in this process: each function with the types it was asked for."""
    ours = [module for name, module in sys.modules.items() if name.startswith("common.")]
    found = {each for module in ours for each in vars(module).values() if type(each) is CPUDispatcher}
    return {(each.__module__, each.__name__, str(signature)) for each in found for signature in each.signatures}


def test_after_warming_an_edge_compiles_nothing_when_it_reads_speaks_and_tries_a_bundle(micro, micro_parts):
    warm(micro)
    before = compiled()
    for mode in ("routed", "constellation", "heart"):
        query = Query(id=mode, text=TEXT * 20, max_tokens=60, temperature=1.0, top_p=0.9, mode=mode)
        assert list(Generation(micro, query, mode))
    assert try_bundle(micro, micro_parts, [TEXT * 40]).verdict == "applied"
    assert compiled() == before
    assert any(name == "say" for _, name, _ in before)


def test_a_text_that_two_domains_answer_together_compiles_nothing_either(micro, monkeypatch):
    warm(micro)
    before = compiled()
    unsure = lambda route, *_, **__: replace(route, abstained=True)  # noqa: E731
    monkeypatch.setattr("services.edge.generation.within", unsure)
    generation = Generation(micro, Query(id="q", text=TEXT, max_tokens=40, top_p=0.9), "q")
    assert list(generation)
    assert len(generation.heard.shares) == 2
    assert compiled() == before


def test_what_an_edge_learned_by_itself_compiles_nothing_either(micro):
    warm(micro)
    residue = count([micro.encoder.encode(TEXT * 3)], 3)
    basin = micro.basin(micro.encoder.encode(TEXT))
    before = compiled()
    local = open_new(absorb(micro, micro, "heart", residue, None), residue, None, basin)
    for mode in ("routed", "constellation", "heart"):
        query = Query(id=mode, text=TEXT * 20, max_tokens=60, temperature=1.0, mode=mode)
        generation = Generation(local, query, mode)
        assert list(generation)
    assert compiled() == before


def test_a_sleep_compiles_nothing_either(micro):
    warm(micro)
    basin = micro.basin(micro.encoder.encode(TEXT))
    told = Interaction("q", "c", TEXT * 4, 1.0, "heart", basin, 60, len(TEXT) * 4, 9.0, 12.0, "FOAM")
    before = compiled()
    assert fold(micro, "heart", [told] * 2, EMPTY, crystal_bytes=300, phi={}).carried.entries
    assert compiled() == before
