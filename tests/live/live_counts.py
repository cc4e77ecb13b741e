"""What was counted, exactly: each packet once, and the newest memories hold what the packets carried, nothing else."""

import dataclasses

import numpy as np

from common.constellation import parts as bundle_parts
from common.geometry.simplex import distance
from common.kernels import memory
from common.kernels.memory import Memory, Table
from common.runtime import streams
from common.wire import crystals, packet
from common.wire.ngrams import capped, implied
from services.aggregator.admit import read_crystals
from services.aggregator.bases import base_of, expects
from services.aggregator.merge import MAX_DOMAIN_ENTRIES, levelled
from services.aggregator.territories import read_basin

MASS_CAP = 1_000  # below what a sleep counts: the cap is part of the sum


async def check_counts(lively, refused=()):
    """Each packet is in exactly one bundle, and the newest memories hold what the packets carried and nothing else.
    refused: codes of the dead letters that there may be.
    """
    bundles = await lively.bundles()
    merged = [ref.packed for bundle in bundles for ref in bundle.packets]
    raws = {packet.open_envelope(raw).ref.packed: raw for raw, _ in lively.sent()}
    assert len(merged) == len(set(merged))
    assert set(merged) == set(raws)
    letters = [letter for stream in streams.GROUPS for letter in await lively.letters(stream)]
    assert [letter for letter in letters if letter.code not in refused] == []
    await check_memories(lively, bundles, raws)


async def check_memories(lively, bundles, raws):
    """The newest memories hold what the packets of `bundles` carried, and nothing else. raws: packets by name."""
    wanted = await expected_memories(lively, bundles, raws)
    found = bundle_parts.load(await lively.parts(bundles[-1])).memories
    assert set(found) > {"vocab", "strategy", "percept", "heart"}
    assert {name: described(each) for name, each in found.items()} == {n: described(m) for n, m in wanted.items()}


async def expected_memories(lively, bundles, raws):
    """The genesis' memories and, bundle by bundle, what its packets carried: under the cap, added, rounded once."""
    parts = await lively.parts(bundles[0])
    wanted = dict(bundle_parts.load(parts).memories)
    bases = {bundle.version: await base(lively, bundle) for bundle in bundles}
    for bundle in bundles:
        for name, group in members(bundle, raws, bases).items():
            light = [capped(implied(read_crystals(body, at)), MASS_CAP) for body, at in group]
            update = read_from_batch(levelled(crystals.merge(light)), bases[bundle.version].vocab_size)
            wanted[name] = memory.merge([wanted[name], update] if name in wanted else [update])
    return wanted


async def base(lively, bundle):
    parts = await lively.parts(bundle)
    base = base_of(
        bundle,
        domains=parts[bundle_parts.DOMAINS],
        kernel=parts[bundle_parts.kernel_path("vocab")],
        merges=parts["coordizer/merge_rules.json"],
    )
    priors = {
        name: expects([parts[bundle_parts.memory_path(each)] for each in domain.memories], base.vocab_size)
        for name, domain in base.domains.items()
    }
    return dataclasses.replace(base, priors=priors)


def members(bundle, raws, bases):
    """The bodies that a bundle's packets carried, with their bases, by the domain whose memory took them."""
    found = {}
    for ref in bundle.packets:
        envelope = packet.open_envelope(raws[ref.packed])
        body, at = packet._from_row(packet.PacketBody, envelope.body), bases[envelope.base_version]
        found.setdefault(body.domain or opened_near(body, at, bases[bundle.version]), []).append((body, at))
    return found


def opened_near(body, at, current):
    """Where new territory went: the nearest domain that the packet's base did not know."""
    new = [domain for name, domain in current.domains.items() if name not in at.domains]
    return min(new, key=lambda domain: float(distance(read_basin(body), domain.basin_array))).name


def read_from_batch(found, vocab_size):
    """As the trainer has it: through the batch's coder."""
    read = crystals.decode(crystals.encode(found, vocab_size), vocab_size, MAX_DOMAIN_ENTRIES)
    return Memory(tuple(Table.of(each.keys, each.counts, each.contexts, each.totals) for each in read.orders))


def described(found):
    """Mass first, so that a difference reads well; then every count."""
    tables = [t for t in found.tables if len(t.keys)]
    return found.tokens, [tuple(map(np.ndarray.tolist, (t.keys, t.counts, t.contexts, t.totals))) for t in tables]
