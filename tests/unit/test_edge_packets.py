"""No state of an edge makes a packet that does not fit, or that the centre would not believe."""

from dataclasses import replace

import numpy as np
import pytest
from aggregator_packets import AT_MS, BASES, ENROLLED, KEYS, body
from hypothesis import given, settings
from hypothesis import strategies as st

from common.constants import PACKET_MAX_BYTES, ROLES
from common.constellation.priors import prior_of
from common.coordizer.artifacts import token_bytes
from common.coordizer.growth import propose
from common.kernels import gate
from common.wire.crystals import fit
from common.wire.mentions import NO_HASHES, mentions
from common.wire.ngrams import Crystals, Order, context_starts, group_sums
from common.wire.packet import PACKET_GATE_MAX_BYTES, seal
from services.aggregator.admit import admit, open_packet, read_mentions, read_merges
from services.edge.answer import Interaction
from services.edge.balance import EMPTY, Balance
from services.edge.mentions import Private
from services.edge.proposals import Growing
from services.edge.sleep import fold

NEW = "The king spake unto the people, and the people answered the king. "
CRYSTALS_MOST = 2900  # QIG_CRYSTAL_BYTES at its highest


def residue(rng, *, vocab, reach, sizes, most):
    """Crystals of any size and density: n-grams over the first `reach` tokens, counts up to `most`."""
    orders = []
    for n, size in enumerate(sizes):
        keys = np.zeros(size, np.uint64)
        for _ in range(n + 1):
            keys = keys << np.uint64(15) | rng.integers(0, min(reach, vocab), size).astype(np.uint64)
        keys = np.unique(keys)
        counts = rng.integers(1, most, len(keys), endpoint=True).astype(np.uint32)
        starts = context_starts(keys)
        sums = group_sums(counts, starts)
        counts = (
            np.minimum(counts, 2**32 // (2 * max(len(keys), 1))).astype(np.uint32) if (sums >> 32).any() else counts
        )
        totals = group_sums(counts, starts) * rng.integers(1, 4, len(starts)).astype(np.uint64)
        totals = np.minimum(totals, 2**32 - 1).astype(np.uint32)
        orders.append(Order(keys, counts, keys[starts] >> np.uint64(15), totals))
    return Crystals(tuple(orders))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab=st.sampled_from([2048, 4096, 32_768]),
    reach=st.sampled_from([1, 3, 20, 100, 2048, 32_768]),
    sizes=st.tuples(st.integers(0, 2000), st.integers(0, 6000), st.integers(0, 6000)),
    most=st.sampled_from([1, 2, 50, 10**6, 2**31]),
    budget_bytes=st.integers(0, CRYSTALS_MOST),
)
def test_whatever_n_grams_wait_the_centre_takes_what_fits(seed, vocab, reach, sizes, most, budget_bytes):
    rng = np.random.default_rng(seed)
    waiting = residue(rng, vocab=vocab, reach=reach, sizes=sizes, most=most)
    sent, blob = fit(waiting, rng.permutation(waiting.entries), vocab_size=vocab, budget_bytes=budget_bytes)
    assert len(blob) <= budget_bytes
    raw = sealed(body(crystals=blob, tokens=0))
    assert len(raw) <= PACKET_MAX_BYTES
    base = replace(BASES[-1], vocab_size=vocab)
    done = admit(open_packet(raw), enrolled=ENROLLED, replay=None, entry_ms=AT_MS, bases=(base,))
    assert done.body.crystals == blob
    assert all(np.isin(a.keys, b.keys).all() for a, b in zip(sent.orders, waiting.orders, strict=True))


def base_of(micro):
    """The newest base, with what its memories expect of a packet."""
    priors = {role: prior_of(micro.kernel(role).memories, micro.coordizer.vocab_size) for role in ROLES}
    return replace(BASES[-1], vocab_size=micro.coordizer.vocab_size, priors=priors)


def sealed(told, **terms):
    known = {"epoch": 1, "sequence": 1, "base_version": BASES[-1].version, "base": BASES[-1].prefix}
    return seal(told, signing_key=KEYS[0], at_s=AT_MS / 1000, **known | terms)


NUMBER = st.integers(0, 2**53 - 1) | st.just(2**53 - 1)
U32 = st.integers(0, 2**32 - 1) | st.just(2**32 - 1)
AMOUNT = st.floats(0, 1e300) | st.none()


@settings(max_examples=80)
@given(
    change=st.fixed_dictionaries({
        "kernel": st.sampled_from(ROLES),
        "domain": st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True) | st.just("d" * 64),
        "basin": st.binary(min_size=64, max_size=64),
        "interactions": NUMBER, "tokens": NUMBER, "fresh_bytes": NUMBER, "fresh_bits": st.floats(0, 1e300),
        "phi": st.floats(0, 1) | st.none(), "kappa": AMOUNT, "phases": st.tuples(NUMBER, NUMBER, NUMBER, NUMBER),
        "gate": st.integers(0, PACKET_GATE_MAX_BYTES).map(bytes) | st.just(bytes(PACKET_GATE_MAX_BYTES)),
        "crystals": st.integers(0, CRYSTALS_MOST).map(bytes) | st.just(bytes(CRYSTALS_MOST)),
    }),
    terms=st.fixed_dictionaries({
        "epoch": U32, "sequence": U32, "base_version": NUMBER, "base": st.binary(min_size=8, max_size=8),
    }),
)  # fmt: skip
def test_whatever_the_figures_a_packet_fits_with_room_for_fields_to_come(change, terms):
    assert len(sealed(body(**change), **terms)) <= 3500 < PACKET_MAX_BYTES


@pytest.mark.parametrize("experts", range(1, 7))
def test_a_gate_of_any_number_of_experts_travels_or_stays(experts):
    data = gate.to_bytes(np.full((gate.BUCKETS, experts), 10.0))
    assert (len(data) <= PACKET_GATE_MAX_BYTES) == (experts <= 3)


@pytest.mark.parametrize("budget_bytes", [0, 9, 10, CRYSTALS_MOST])
@pytest.mark.parametrize("domain", ["heart", None])
def test_a_fold_with_any_budget_for_crystals_seals(micro, domain, budget_bytes):
    basin = micro.basin(micro.encoder.encode(NEW))
    read = Interaction("q", "c", NEW * 60, 1.0, domain, basin, 900, 60 * len(NEW), 9.0, 12.0, "FOAM")
    done = fold(micro, domain, [read], Balance(micro.memories["heart"]), crystal_bytes=budget_bytes, phi={})
    assert len(sealed(done.body)) <= PACKET_MAX_BYTES
    assert (done.carried.entries == 0) == (budget_bytes < 11)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    budget_bytes=st.integers(0, CRYSTALS_MOST),
    strict=st.booleans(),
    known=st.floats(0, 1),
    domain=st.sampled_from(["heart", None]),
)
def test_whatever_is_common_a_private_packet_fits_and_the_centre_takes_it(
    micro, seed, budget_bytes, strict, known, domain
):
    rng = np.random.default_rng(seed)
    said = "".join(rng.choice(list("abcdefgh ,.xyz"), 400)) * 3 + NEW * 20
    every = fold(micro, domain, [read_as(micro, said, domain)], EMPTY, crystal_bytes=CRYSTALS_MOST, phi={},
                 private=Private(bytes(32), NO_HASHES, NO_HASHES, strict=True)).mentioned  # fmt: skip
    private = Private(bytes(32), every[rng.random(len(every)) < known], NO_HASHES, strict=strict)
    done = fold(micro, domain, [read_as(micro, said, domain)], EMPTY, crystal_bytes=budget_bytes, phi={},
                private=private)  # fmt: skip
    assert len(done.body.crystals) + len(done.body.mentions) <= budget_bytes
    raw = sealed(done.body)
    assert len(raw) <= PACKET_MAX_BYTES
    base = base_of(micro)
    admitted = admit(open_packet(raw), enrolled=ENROLLED, replay=None, entry_ms=AT_MS, bases=(base,))
    assert read_mentions(admitted.body).tolist() == done.mentioned.tolist()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    budget_bytes=st.integers(0, CRYSTALS_MOST),
    private=st.sampled_from([None, True, False]),
    known=st.floats(0, 1),
)
def test_whatever_merges_are_proposed_the_packet_fits_and_the_centre_takes_it(
    micro, seed, budget_bytes, private, known
):
    rng = np.random.default_rng(seed)
    said = " ".join("".join(rng.choice(list("thermasion"), rng.integers(2, 7))) for _ in range(200)) * 3
    every = mentions(bytes(32), "merge", pairs_of(micro, [said]))
    growing = Growing(bytes(32), every[rng.random(len(every)) < known], NO_HASHES)
    mode = None if private is None else Private(bytes(32), growing.common, NO_HASHES, strict=private)
    done = fold(micro, "heart", [read_as(micro, said, "heart")], EMPTY, crystal_bytes=budget_bytes, phi={},
                private=mode, growing=growing)  # fmt: skip
    raw = sealed(done.body)
    assert len(raw) <= PACKET_MAX_BYTES
    assert len(done.body.crystals) <= budget_bytes
    base = base_of(micro)
    admitted = admit(open_packet(raw), enrolled=ENROLLED, replay=None, entry_ms=AT_MS, bases=(base,))
    rows = read_merges(admitted.body, base)
    assert np.isin(mentions(bytes(32), "merge", strings_of(micro, rows)), growing.common).all()
    assert (len(rows) > 0) == (len(growing.common) > 0)


def pairs_of(micro, texts):
    return strings_of(micro, propose(micro.coordizer, texts))


def strings_of(micro, rows):
    tokens = token_bytes(micro.coordizer.merges)
    return [(tokens[left], tokens[right]) for left, right, _ in rows]


def read_as(micro, text, domain):
    ids = micro.encoder.encode(text)
    return Interaction("q", "c", text, 1.0, domain, micro.basin(ids), len(ids), len(text), 9.0, 12.0, "FOAM")
