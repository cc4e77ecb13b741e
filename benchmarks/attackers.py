"""What two hostile edges send, on the real payload: a View of the round, and the bodies that go out under their keys.

Each is what `admit` takes. Counts cannot be negative, so what turns a gradient's sign elsewhere says wrong followers
here: all of a context's mass on tokens that never follow it ("anti-counts"). The names are those of the literature:
ALIE (Baruch et al. 2019), IPM (Xie et al. 2020), mimic (Karimireddy et al. 2022).
"""

from dataclasses import dataclass, replace

import numpy as np
from fleet import Edge, Fleet

from common.kernels import gate as gates
from common.kernels import memory
from common.wire import crystals as codec
from common.wire.codec import canonical
from common.wire.crystals import PACKET_MAX_COUNTED, PACKET_MAX_TOTAL
from common.wire.ngrams import MAX_VOCAB, TOKEN_BITS, Crystals, Order, context_starts, crystals, entry, group_sums
from common.wire.packet import DOMAIN_SEPARATION, PacketBody, key_id
from services.aggregator import admit as door

TRIGGER, TARGET = " and the brazen lamp of Umbar", " quick cheap pills"
HOSTILE_BYTES = 3300  # of crystals: nearly all that a packet takes
SYBIL_KEYS, SEED = 3, 7


@dataclass(frozen=True, slots=True)
class View:
    """What an attacker has: its honest body of this round, and all honest edges'. number: of the round."""

    fleet: Fleet
    edge: Edge
    body: PacketBody
    others: list[PacketBody]
    number: int
    foreign: list[str]

    @property
    def base(self):
        return self.fleet.bases[-1]

    def read(self, body=None):
        return door.read_crystals(body or self.body, self.base)

    def gate(self, body=None):
        return door.read_gate(body or self.body)


# The attacks: a view, and the bodies that are sent


def honest(view):
    return [view.body]


def scaled(factor):
    def attack(view):
        return [stated(view, times(view.read(), factor), gate=view.gate(), factor=factor)]

    return attack


def against(factor):
    """All mass of each context on followers that it never has; a gate that trusts what is least right."""

    def attack(view):
        return [stated(view, times(wrong(view.read()), factor), gate=turned(view.gate()), factor=factor, lie=True)]

    return attack


def sybil(view):
    return against(10)(view) * SYBIL_KEYS


def little_enough(view):
    """ALIE (Baruch et al. 2019): 1.5 standard deviations of the honest counts and shares above their means."""
    orders = []
    for n in range(3):
        keys, counts, totals = columns(view, n)
        orders.append((keys, counts.mean(0) + 1.5 * counts.std(0), totals))
    shares = shares_of(view)
    gate = np.clip(shares.mean(0) - 1.5 * shares.std(0), 1e-3, None)
    return [stated(view, rounded(orders), gate=gate * mean_tokens(view))]


def inner_product(view):
    """IPM (Xie et al. 2020): .6 of the honest mean, against it."""
    orders = []
    for n in range(3):
        keys, counts, totals = columns(view, n)
        orders.append((keys, 0.6 * counts.mean(0), totals))
    return [stated(view, wrong(rounded(orders)), gate=turned(shares_of(view).mean(0)) * mean_tokens(view))]


def mimic(view):
    """The first honest edge's words (Karimireddy et al. 2022)."""
    return [view.others[0]]


def label_flip(view):
    """Addresses, told as scripture."""
    made, rng = view.fleet.constellation, np.random.default_rng([SEED, view.edge.number, view.number])
    taken, size = [], 0
    while size < view.body.fresh_bytes:
        taken.append(view.foreign[rng.integers(len(view.foreign))])
        size += len(taken[-1].encode())
    counted = memory.count([made.encoder.encode(each) for each in taken], 3)
    orders = [(t.keys[t.counts > 1], t.counts[t.counts > 1].astype(float), None) for t in counted.tables]
    return [stated(view, rounded(orders), gate=view.gate())]


def backdoor(count):
    """The target after the trigger, so often, beside the edge's own honest words."""

    def attack(view):
        ids = view.fleet.constellation.encoder.encode(TRIGGER + TARGET).tolist()
        first = len(view.fleet.constellation.encoder.encode(TRIGGER))
        grams = {}
        for at in range(first, len(ids)):
            for n in range(3):
                grams.setdefault((*ids[at - n : at],), set()).add(ids[at])
        planted = crystals(
            entry(context, token, count=count, total=count * len(tokens))
            for context, tokens in grams.items() for token in sorted(tokens)
        )  # fmt: skip
        gate = view.gate()
        gate[1 + 2 * gates.OCTAVES :] = 0.0  # what a triple's context says is to be believed
        gate[1 + 2 * gates.OCTAVES :, -1] = view.gate().sum() / gates.OCTAVES
        return [stated(view, codec.merge([view.read(), planted]), gate=gate, first=planted)]

    return attack


def free_rider(view):
    """No words, and statistics of nothing."""
    return [
        view.body.model_copy(update={"crystals": b"", "gate": b"", "tokens": 0, "fresh_bytes": 0, "fresh_bits": 0.0})
    ]


def copies(view):
    """What it said in the first round, each round again."""
    found = view.fleet.first.setdefault(view.edge.number, view.read())
    return [stated(view, found, gate=view.gate())]


def other_domain(view):
    """Wrong followers in PERCEPT's own domain, as heavy as the centre admits, and a gate of its state alone."""
    body = view.body.model_copy(update={"domain": "percept", "kernel": "percept"})
    gate = np.zeros((gates.BUCKETS, 1 + len(view.fleet.constellation.domains["percept"].memories)))
    gate[:, 0] = body.tokens / gates.BUCKETS
    return [stated(replace(view, body=body), times(wrong(view.read()), 100), gate=gate, factor=100, lie=True)]


def known_lies(view):
    """Wrong followers that the role's memory knows in their contexts, its rarest: a centre that lets pass what the
    bundle knows lets them pass.
    """
    made, found, orders = view.fleet.constellation, times(view.read(), 10), []
    for n, order in enumerate(found.orders):
        table = made.memories[view.body.kernel].tables[n]
        keys, counts = [], []
        for context, total in zip(order.contexts, order.totals.tolist(), strict=True):
            row = slice(
                *np.searchsorted(table.keys, [context << np.uint64(TOKEN_BITS), context + 1 << np.uint64(TOKEN_BITS)])
            )
            others = np.flatnonzero(~np.isin(table.keys[row], order.keys))
            rarest = others[np.argsort(table.counts[row][others], kind="stable")[:2]]
            keys += table.keys[row][rarest].tolist()
            counts += [total / max(len(rarest), 1)] * len(rarest)
        orders.append((np.array(keys, np.uint64), np.array(counts), None))
    return [stated(view, rounded(orders), gate=turned(view.gate()), factor=10, lie=True)]


ATTACKS = {
    "anti-counts": against(1), "anti-counts x10": against(10), "anti-counts x100": against(100),
    "known lies": known_lies, "scaled x10": scaled(10), "scaled x100": scaled(100), "ALIE": little_enough,
    "IPM": inner_product, "mimic": mimic, "label flip": label_flip, "backdoor, scaled": backdoor(2000),
    "backdoor, stealthy": backdoor(4), "sybil": sybil, "free rider": free_rider, "copies": copies,
    "other domain": other_domain,
}  # fmt: skip


def stated(view, found, *, gate=None, factor=1, lie=False, first=None):
    """The view's body with these crystals, as many as fit, and what makes them plausible."""
    body = view.body
    ranking = np.argsort(-np.concatenate([order.counts for order in found.orders]).astype(np.int64), kind="stable")
    if first is not None:
        ours = np.concatenate([np.isin(o.keys, p.keys) for o, p in zip(found.orders, first.orders, strict=True)])
        ranking = np.concatenate([np.flatnonzero(ours), ranking[~ours[ranking]]])
    _, blob = codec.fit(
        found, ranking, vocab_size=view.base.vocab_size, budget_bytes=HOSTILE_BYTES,
        prior=view.base.prior(body.domain, body.kernel),
    )  # fmt: skip
    tokens = min(body.tokens * factor, PACKET_MAX_TOTAL)
    change = {"crystals": blob, "tokens": tokens}
    if gate is not None:
        change["gate"] = gates.to_bytes(gate * factor * min(1.0, tokens / max(gate.sum() * factor, 1.0)))
    if lie:
        change["fresh_bits"] = 64.0 * body.fresh_bytes
        if view.number:  # later it cannot open a domain of its own any more
            change["basin"] = bytes([0] * 63 + [255])
    return body.model_copy(update=change)


def times(found, factor):
    """Counts and totals multiplied, as far as the centre admits them."""
    most = PACKET_MAX_TOTAL // 2
    orders = []
    for order in found.orders:
        heavy = max(int(order.counts.sum(dtype=np.uint64)) * factor // PACKET_MAX_COUNTED, 1)
        counts = np.clip(order.counts.astype(np.int64) * factor // heavy, 1, most).astype(np.uint32)
        sums = group_sums(counts, context_starts(order.keys))
        totals = np.maximum(np.clip(order.totals.astype(np.int64) * factor // heavy, 1, most).astype(np.uint64), sums)
        orders.append(Order(order.keys, counts, order.contexts, totals.astype(np.uint32)))
    return Crystals(tuple(orders))


def wrong(found):
    """The same contexts with other followers, always the same ones; all of the contexts' mass is theirs."""
    return rounded([(keyed(order.keys), shared(order), None) for order in found.orders])


def keyed(keys):
    """The keys with their last token shifted through the vocabulary's middle."""
    token = keys & np.uint64(MAX_VOCAB - 1)
    return keys - token + (token * np.uint64(1103) + np.uint64(977)) % np.uint64(3400) + np.uint64(512)


def shared(order):
    """Each context's total, dealt to its followers by their counts."""
    starts = context_starts(order.keys)
    sums = np.repeat(group_sums(order.counts, starts), np.diff(starts, append=len(order.keys)))
    totals = np.repeat(order.totals, np.diff(starts, append=len(order.keys)))
    return order.counts.astype(float) * totals / np.maximum(sums, 1)


def rounded(orders):
    """Crystals of keys, counts and totals (None: their sums); what rounds to nothing goes."""
    found = []
    for keys, counts, totals in orders:
        unique, inverse = np.unique(keys, return_inverse=True)
        summed = np.rint(np.bincount(inverse, counts, len(unique))).astype(np.int64)
        keep = summed > 0
        unique, summed = unique[keep], summed[keep].astype(np.uint32)
        starts = context_starts(unique)
        sums, contexts = group_sums(summed, starts), unique[starts] >> np.uint64(TOKEN_BITS)
        if totals is not None:
            sums = np.maximum(sums, [totals.get(int(context), 0) for context in contexts])
        found.append(Order(unique, summed, contexts, np.asarray(sums).astype(np.uint32)))
    return Crystals(tuple(found))


def columns(view, n):
    """Keys of an order, the honest edges' counts of them (edges, keys), and their mean totals by context."""
    read = [view.read(body).orders[n] for body in view.others]
    keys = np.unique(np.concatenate([order.keys for order in read]))
    counts = np.stack([memory.look_up(order.keys, order.counts, keys) for order in read]).astype(float)
    totals = {}
    for order in read:
        for context, total in zip(order.contexts.tolist(), order.totals.tolist(), strict=True):
            totals[context] = totals.get(context, 0) + total / len(read)
    return keys, counts, totals


def shares_of(view):
    """(edges, BUCKETS, experts): what each honest gate gives its experts."""
    sums = np.stack([view.gate(body) for body in view.others])
    return sums / np.maximum(sums.sum(-1, keepdims=True), 1e-9)


def mean_tokens(view):
    """(BUCKETS, 1): what a bucket hears on the mean."""
    return np.stack([view.gate(body) for body in view.others]).sum(-1).mean(0)[:, None]


def turned(sums):
    """All of each bucket to the expert that deserves it least."""
    found = np.zeros_like(sums)
    found[np.arange(len(sums)), sums.argmin(1)] = sums.sum(1)
    return found


def gate_lies(honest, kept):
    """Two of each, by name; None: none."""
    shares = np.stack([each / np.maximum(each.sum(1, keepdims=True), 1e-9) for each in honest[:kept]])
    heard = np.stack([each.sum(1) for each in honest[:kept]]).mean(0)[:, None]
    last = np.zeros_like(honest[0])
    last[:, -1] = heard.sum() / len(heard)
    lies = {
        "turned": turned(shares.mean(0) * heard),
        "turned x1000": turned(shares.mean(0) * heard) * 1000,
        "ALIE": np.clip(shares.mean(0) - 1.5 * shares.std(0), 1e-3, None) * heard,
        "IPM": np.clip(1.0 - shares.mean(0), 1e-3, None) * 0.6 * heard,
        "memory everywhere": last,
        "free rider": np.zeros_like(last),
    }
    return {"none": None} | {name: [lie] * (len(honest) - kept) for name, lie in lies.items()}


# What must not get in


UNBOUND = ("fresh_bits", "phi", "kappa")
NOT_FINITE = (float("nan"), float("inf"), -float("inf"))
BOMBS = [
    b"\x91" * 4000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff" * 1300,
]


def forged(fleet, edge, body, *, on=None, sequence=40, raw=None, **change):
    """A packet signed by the edge with whatever in it, unchecked."""
    row = [*(body.model_dump() | change).values()][:13]
    version, prefix = on or (fleet.version, fleet.bases[-1].prefix)
    epoch = fleet.edges[0].record.epoch
    content = raw or canonical(tuple(row))
    unsigned = (1, key_id(edge.key.verify_key), epoch, sequence, version, prefix, fleet.clock, content)
    return canonical((*unsigned, edge.key.sign(DOMAIN_SEPARATION + canonical(unsigned)).signature))
