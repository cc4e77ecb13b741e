"""The record and the pure rooms together: a fold on disk, a settlement, a domain's end, a text forgotten or judged;
each at once.

Knows no broker. The shell sees to it that no two of them overlap: all read residues and write them.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from common.constants import ROLES, Role
from common.constellation.constellation import Constellation
from common.constellation.domains import heirs
from common.geometry.means import frechet_mean
from common.wire import basin as basins
from common.wire.codec import pack
from common.wire.mentions import MAX_MENTIONS, decode
from common.wire.messages import Bundle, Common, PacketRef
from common.wire.packet import base_prefix
from services.edge.answer import UNKNOWN, Gauges, Serving
from services.edge.balance import Balance, total
from services.edge.local import absorb, open_new, tune
from services.edge.mentions import Private, check_told
from services.edge.proposals import Growing
from services.edge.record import FOLD_MAX_BYTES, Domain, Fresh, Kept, Packet, Record, Settling, Verdict
from services.edge.sleep import Folded, Rhythm, due, fold, overdue, settle, turn_of
from services.edge.unlearning import Left, Unlearned, unlearn, withdrawable
from services.edge.vocabulary import merges_of, translate

TERRITORY_MIN_BYTES: Final = 4096  # chosen: of 4 KB of one domain's text 3 % look strange, of 1 KB 7 % (territory.py)
_WORST: Final = ("none", "taken", "kept")  # of Forgotten.counts, the last


def due_domains(
    record: Record,
    serving: Serving,
    rhythm: Rhythm,
    *,
    asked_s: float,
    now_s: float,
    crowded: bool = False,
    awake_s: float = 0.0,
) -> list[Domain]:
    """The domains whose fresh text is to be folded now. A domain that the bundle does not know waits for one that does.

    asked_s: when the edge was last asked anything in this life; the record knows of lives before. crowded, awake_s:
    see `due`.
    """
    # The nearest to now, not the last: what was asked before a clock was set back lies in the future.
    last_s = min((asked_s, record.texts.last_at_s()), key=lambda at_s: abs(now_s - at_s))
    away = {packet.domain for packet in record.packets("pending", "sent")}

    def sleeps(fresh: Fresh) -> bool:
        own, in_flight = rhythm.of(serving.node, fresh.domain), fresh.domain in away
        said = due(now_s, fresh, last_s, own, in_flight=in_flight, crowded=crowded, awake_s=awake_s)
        return said == "sleep"

    known: tuple[Domain, ...] = (None, *serving.constellation.domains)
    return [fresh.domain for fresh in record.texts.fresh() if fresh.domain in known and sleeps(fresh)]


def fold_domain(  # noqa: PLR0913 -- what was read, what is known, and what may leave
    record: Record,
    serving: Serving,
    domain: Domain,
    *,
    gauges: Gauges,
    crystal_bytes: int,
    now_s: float,
    max_bytes: int = FOLD_MAX_BYTES,
    private: Private | None = None,
    growing: Growing | None = None,
) -> Folded:
    """Counts a domain's oldest fresh text and leaves a pending packet, both or neither.

    What answers does not know of it yet: see `relearned`. max_bytes: of text, where the fold ends; what is left waits
    for the next.
    """
    waiting = record.texts.unfolded(domain, max_bytes)
    done = fold(
        serving.constellation,
        domain,
        [each for _, each in waiting],
        record.balance(domain),
        crystal_bytes=crystal_bytes,
        phi=_phi(gauges),
        turn=turn_of(serving.node, domain, record.sequence),
        accepted=record.texts.accepted(domain),
        local=serving.local,
        private=private,
        growing=growing,
    )
    packet = Packet(
        sequence=record.sequence,
        domain=domain,
        status="pending",
        at_s=now_s,
        base_version=serving.bundle,
        base=base_prefix(serving.digest),
        basin=done.body.basin,
        body=pack(done.body),
        counts=done.carried,
    )
    folded = {row: ids for (row, _), ids in zip(waiting, done.ids, strict=True)}
    tuned = tune(record.tuned(domain), done.gate, done.heard)
    record.slept(folded, done.balance, packet, tuned, done.mentioned)
    return done


def relearned(record: Record, serving: Serving, domains: Iterable[Domain] | None = None) -> Serving:
    """`serving` with what the record holds in its local constellation.

    domains: those whose counts or gates have changed; None: all, beginning from the bundle's.
    """
    base = serving.constellation
    local = base if domains is None else serving.answering
    for domain in record.learned() if domains is None else domains:
        residue, tuned = record.residue(domain), record.tuned(domain)
        if domain is None:
            places = [basins.from_bytes8(each) for each in record.basins(None)]
            local = open_new(local, residue, tuned, frechet_mean(np.stack(places)) if places else None)
        else:
            local = absorb(local, base, domain, residue, tuned)
    return replace(serving, local=None if local is base else local)


def follow_vocabulary(record: Record, serving: Serving) -> bool:
    """Brings all that the record has counted into the vocabulary that `serving` has; whether anything had to be done.

    Before anything else is done with the record under a bundle that is new here. Doing it twice is doing it once.
    """
    merges, before = merges_of(serving.constellation), record.merges
    if before == merges:
        return False
    if before is None:  # nothing was counted yet, or by a release that knew one vocabulary only
        record.translate(merges, ids={}, taken={}, balances={}, counts={})
        return False
    packets = record.packets("pending", "sent", "lost", "acknowledged", "taken_back")
    found = translate(serving.constellation, before, record.texts.counted(), record.balances(), packets)
    record.translate(merges, ids=found.ids, taken=found.taken, balances=found.balances, counts=found.counts)
    return True


def go_home(record: Record, serving: Serving, rhythm: Rhythm) -> int:
    """Gives a due handful of strange texts to their nearest domains: what stays away is a territory; how many went.

    Less than TERRITORY_MIN_BYTES (or what this edge sleeps on, if that is less) after the longest interval is not.
    """
    waiting = record.texts.unfolded(None)
    if sum(each.size_bytes for _, each in waiting) >= min(TERRITORY_MIN_BYTES, rhythm.after_bytes):
        return 0
    record.texts.move({row: serving.constellation.route(each.basin).steps[0].name for row, each in waiting})
    return len(waiting)


def rehome(record: Record, serving: Serving) -> list[Domain]:
    """Gives what is kept under the names of domains that have ended to their heirs, each at once; those heirs.

    That is the domain that bears the name now; of a name that nobody bears any more, the one nearest its packets. A
    name that only a newer bundle knows (an older one serves after damage) waits.
    """
    known = serving.constellation.domains
    gone, found = heirs(known.values()), []
    for name in record.domains():
        heir = None if name in known else gone.get(name) or _nearest(record, serving, name)
        if heir is not None:
            record.inherit(name, heir, total([record.balance(heir), record.balance(name)]))
            found.append(heir)
    return list(dict.fromkeys(found))


def _nearest(record: Record, serving: Serving, name: str) -> str | None:
    based_on = record.based_on(name)
    if based_on is None or based_on > serving.bundle:
        return None
    places = np.stack([basins.from_bytes8(each) for each in record.basins(name)])
    return serving.constellation.route(frechet_mean(places)).steps[0].name


def settle_bundle(
    record: Record, serving: Serving, bundle: Bundle, *, key: bytes, entry_id: str | None, now_s: float
) -> tuple[int, ...]:
    """Takes what a bundle's packets carried out of the residues, and moves the cursor; the sequences it named.

    entry_id: the bundle's, None: the cursor stays, and it will be settled again. Whether the bundle is used here does
    not matter: the centre has the counts. Doing it twice is doing it once.
    """
    settled = settle(
        serving.constellation,
        bundle.packets,
        own=(key, record.epoch),
        packets=record.packets("pending", "sent", "lost"),
        balances=record.balances(),
        waiting=record.texts.unfolded(None),
    )
    record.settle(
        settled.acknowledged,
        settled.balances,
        settled.moved,
        opened=settled.opened,
        by=_settling(bundle),
        cursor=entry_id,
        at_s=now_s,
    )
    return settled.acknowledged


def unsettle(record: Record, bundle: Bundle, listed: Mapping[int, str], *, key: bytes) -> tuple[int, ...]:
    """Gives back what was settled by releases that are none any more: the list goes beyond them, and names others or
    nothing in their place; a broker was restored from an older copy. The sequences of the packets, which go out again
    under their names: where the centre has one all the same, it takes it for what it is.

    bundle: which is being dealt with; what it names stays settled. listed: as `Trust.listed`.
    """
    named = {ref.sequence for ref in bundle.packets if (ref.key, ref.epoch) == (key, record.epoch)}
    known = range(min(listed, default=0), max(listed, default=0) + 1)
    gone = {
        sequence
        for sequence, by in record.settlings().items()
        if by.version in known and listed.get(by.version) != by.release
    }
    if not gone:
        return ()
    balances: dict[Domain, Balance] = {}
    for packet in record.packets("acknowledged"):
        if packet.sequence in gone - named:
            before = balances.get(packet.domain, record.balance(packet.domain))
            balances[packet.domain] = before.seen(packet.counts)
    record.unsettle(sorted(gone - named), balances, sorted(gone & named), _settling(bundle))
    return tuple(sorted(gone - named))


def reopen(record: Record, constellation: Constellation) -> list[str]:
    """Makes new territory again of the domains that `constellation` neither knows nor knows an heir of: a release that
    is none any more had opened them. Their names.
    """
    known = {*constellation.domains, *heirs(constellation.domains.values())}
    names = [name for name in record.domains() if name not in known]
    for name in names:
        record.inherit(name, None, total([record.balance(None), record.balance(name)]))
    return names


def _settling(bundle: Bundle) -> Settling:
    return Settling(bundle.version, hashlib.sha256(pack(bundle)).hexdigest())


def take_back(
    record: Record, refs: Iterable[PacketRef], *, key: bytes, entry_id: str | None, now_s: float, undone: bool = False
) -> tuple[int, ...]:
    """Waits no longer for the packets among `refs` that are this edge's; their sequences. The residue has their counts
    still. undone: a release that had them is taken back; those that it settled are in the residue again, and whoever
    meets it only afterwards settles nothing by it. entry_id: of the entry that named them, from which the next start
    reads on.
    """
    own = {ref.sequence for ref in refs if (ref.key, ref.epoch) == (key, record.epoch)}
    away = [packet for packet in record.packets("pending", "sent") if packet.raw is not None]
    away += record.packets("lost") if undone else []
    settled = record.packets("acknowledged") if undone else []
    back = [packet for packet in settled if packet.sequence in own]
    balances: dict[Domain, Balance] = {}
    for packet in back:
        before = balances.get(packet.domain, record.balance(packet.domain))
        balances[packet.domain] = before.seen(packet.counts)
    lost = sorted(packet.sequence for packet in [*away, *back] if packet.sequence in own)
    status: Literal["lost", "taken_back"] = "taken_back" if undone else "lost"
    record.lose(lost, balances=balances, cursor=entry_id, at_s=now_s, status=status)
    return tuple(lost)


def hear_common(
    record: Record, told: Common, *, key: bytes, own: bytes, entry_id: str, now_s: float
) -> tuple[int, ...]:
    """Keeps what is common from now on, and settles the packets that only mentioned; their sequences.

    One that carries counts is not settled by this, whoever says so: a bundle brings them back. Doing it twice is doing
    it once. own: see `decoys`. Raises Rejected("bad_mentions"), Corrupt("false_common"); then nothing is done.
    """
    hashes = decode(told.hashes, MAX_MENTIONS)
    check_told(np.union1d(record.mentions.common(), hashes), own, record.sequence)
    named = {ref.sequence for ref in told.packets if (ref.key, ref.epoch) == (key, record.epoch)}
    waiting = record.packets("pending", "sent", "lost")
    settled = tuple(packet.sequence for packet in waiting if packet.sequence in named and not packet.counts.entries)
    record.mentions.heard(hashes, settled, cursor=entry_id, at_s=now_s)
    return settled


def give_up(record: Record, *, now_s: float) -> list[int]:
    """Marks the packets that were waited for too long as lost; their sequences. The residue has their counts still."""
    lost = overdue(now_s, record.packets("sent"))
    if lost:
        record.lose(lost, at_s=now_s)
    return lost


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting did besides deleting the text and its answer.

    counts: "none" where nothing was counted (it waited, or was kept as probe text); "taken" out of the residue, or out
    of it before, when it was rejected; "kept" where a release that did not note what it counted had counted it.
    withdrawn: packets that had not left, and are made anew without it. left: packets that had; see Left. Of several
    texts: what was done for the worst of them, and in `left` an n-gram counts once for each text it occurs in.
    """

    counts: Literal["none", "taken", "kept"]
    withdrawn: tuple[int, ...]
    left: tuple[Left, ...]


def forget(record: Record, client: str, query_id: str) -> Forgotten | None:
    """Deletes an interaction: text, answer, and what it taught. None when nothing is kept under this name.

    While no packet has left since it was counted, everything is as if it had never come.
    """
    kept = record.texts.find(client, query_id)
    if kept is None:
        return None
    undone = _unlearn(record, kept)
    if undone is None:
        record.forget(kept.row, kept.domain, None)
        return Forgotten("kept" if kept.folded else "none", (), ())
    if kept.taken is not None:
        record.forget(kept.row, kept.domain, None)
        return Forgotten("taken", (), undone.left)
    record.forget(kept.row, kept.domain, undone.balance, undone.withdrawn)
    return Forgotten("taken", undone.withdrawn, undone.left)


def forget_all(record: Record, client: str, query_ids: Iterable[str]) -> Forgotten | None:
    """Deletes the interactions that are kept under these names; None when none is."""
    done = [each for name in query_ids if (each := forget(record, client, name)) is not None]
    if not done:
        return None
    left: dict[int, Left] = {}
    for packet in (packet for each in done for packet in each.left):
        before = left[packet.sequence].ngrams if packet.sequence in left else 0
        left[packet.sequence] = replace(packet, ngrams=before + packet.ngrams)
    return Forgotten(
        max((each.counts for each in done), key=_WORST.index),
        tuple(sorted({sequence for each in done for sequence in each.withdrawn})),
        tuple(left[sequence] for sequence in sorted(left)),
    )


def judge(record: Record, client: str, query_id: str, verdict: Verdict | None) -> bool:
    """Accepts or rejects an interaction, or (None) takes that back; False when nothing is kept under this name.

    Accepted text weighs up in the selection of crystals when its answer ended in CRYSTAL. Rejected text teaches
    nothing: it is not counted, and what was counted is taken out of the residue; if it had not left, as if it had never
    come. A text that is rejected no more is counted again, or gets back exactly what was taken.
    """
    kept = record.texts.find(client, query_id)
    if kept is None:
        return False
    if verdict == "rejected" and kept.verdict != "rejected" and (undone := _unlearn(record, kept)) is not None:
        waits = kept.packet in undone.withdrawn
        taken = None if waits else undone.taken
        record.judge(kept.row, verdict, taken, kept.domain, undone.balance, undone.withdrawn)
    elif verdict != "rejected" and kept.taken is not None:
        back = record.balance(kept.domain).seen(kept.taken)
        record.judge(kept.row, verdict, None, kept.domain, back)
    else:
        record.judge(kept.row, verdict, kept.taken, kept.domain, None)
    return True


def judge_all(record: Record, client: str, query_ids: Iterable[str], verdict: Verdict | None) -> bool:
    """Judges the interactions that are kept under these names; False when none is."""
    judged = [judge(record, client, name, verdict) for name in query_ids]
    return any(judged)


def _unlearn(record: Record, kept: Kept) -> Unlearned | None:
    """None where nothing was counted, or nobody knows what."""
    if kept.ids is None or kept.packet is None:
        return None
    packets = record.packets_since(kept.domain, kept.packet)
    folded = [record.texts.members(sequence) for sequence in withdrawable(packets)]
    others = [ids for members in folded for row, ids in members.items() if row != kept.row]
    return unlearn(kept.ids, record.balance(kept.domain), packets, others, own=kept.packet)


def _phi(gauges: Gauges) -> Mapping[Role, float | None]:
    return {role: gauges.get(role, UNKNOWN).reading.phi for role in ROLES}
