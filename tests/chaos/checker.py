"""What must be so at the end of a scenario, from what producers were told and what is left in the broker. Pure.

    told: a query ──▶ one answer, the right one        a packet ──▶ in one batch, the bytes of an undisturbed run's
          either  ──▶ or a dead letter with its reason, if it was made to have one
    left: nothing in a work stream, pending, in an outbox or in the ledger; no consumer of a process that is gone;
          every entry that ever was in a work stream had its effect once, or is a dead letter, once

Where the broker forgot (`forgot`), what was told and is gone with it was asked again by its client, and sent again by
its edge. So each query was still answered to its client once, and no client was told two things; each packet is in one
batch that is there, or its producer saw it in one before; and in what is there now nothing is lost and nothing double.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scenario import kind_of

CODES = {  # a letter that could not be written when its time came says another thing afterwards
    "wrong": {"wrong"},
    "bug": {"handler_failed", "never_finished"},
    "deadly": {"never_finished"},
}
REPLAYED = "replayed"


@dataclass(slots=True)
class Told:
    """What producers know. outcomes: by a query's text, what its client was given: answers' texts and letters' codes;
    batched: the batches that a producer saw; again: the messages that were added twice.
    """

    queries: Sequence[str] = ()
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    waves: Sequence[Sequence[str]] = ()
    batched: set[bytes] = field(default_factory=set)
    again: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter: of which entry, why, and its message's text."""

    entry: str
    code: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class Work:
    """What is left of a work stream. added: entries that ever were in it; counts: by entry, how often it had its
    effect; consumers: names.
    """

    length: int = 0
    pending: int = 0
    outbox: int = 0
    added: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    letters: Sequence[Letter] = ()
    consumers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Left:
    """The broker's and the processes' last state. answers: (query, text) of each entry on the clients' streams; heard:
    by follower, (life, entry) in the order in which it handled them; news: entries of the broadcast; alive: processes'
    ids; ended: how processes ended that nobody ended.
    """

    work: Mapping[str, Work]
    answers: Sequence[tuple[str, str]] = ()
    batches: Sequence[bytes] = ()
    ledger: int = 0
    heard: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    news: Sequence[str] = ()
    alive: Sequence[int] = ()
    ended: Sequence[str] = ()


def complaints(told: Told, left: Left, *, forgot: bool = False, turned_back: bool = False) -> list[str]:
    """Everything that is not as it must be; empty when all is accounted for. forgot, turned_back: the broker, and its
    clock.
    """
    return [
        *_queries(told, left, forgot=forgot),
        *_packets(told, left, forgot=forgot),
        *(each for stream, work in left.work.items() for each in _work(stream, work)),
        *([] if turned_back else _consumers(left)),
        *_letters(told, left),
        *_followers(left, forgot=forgot),
        *([f"{left.ledger} packets wait in the ledger"] if left.ledger else []),
        *left.ended,
    ]


def answer_of(text: str) -> str:
    """What must be answered to a text."""
    return text[::-1]


def batch_of(packets: Iterable[str]) -> bytes:
    """The batch that these packets must give."""
    return b"\n".join(sorted(packet.encode() for packet in packets))


def good(texts: Iterable[str]) -> list[str]:
    """Those that must be answered or counted."""
    return [text for text in texts if kind_of(text) not in CODES]


def _queries(told: Told, left: Left, *, forgot: bool) -> Iterable[str]:
    for text in told.queries:
        wanted = CODES.get(kind_of(text), {answer_of(text)})
        got = told.outcomes.get(text, [])
        if len(got) != 1 or got[0] not in wanted:
            yield f"the client of {text!r} was told {got}, not one of {sorted(wanted)}"
    names = {text.partition(" ")[0]: text for text in good(told.queries)}
    for name, number in Counter(name for name, _ in left.answers).items():
        if number > 1:
            yield f"query {name} has {number} answers"
    for name, said in left.answers:
        if name not in names or said != answer_of(names[name]):
            yield f"query {name} has the answer {said!r}"
    for name in names.keys() - {name for name, _ in left.answers} if not forgot else ():
        yield f"query {name} has no answer in its stream"


def _packets(told: Told, left: Left, *, forgot: bool) -> Iterable[str]:
    wanted = [batch_of(good(wave)) for wave in told.waves]
    for number, batch in enumerate(wanted):
        found = left.batches.count(batch)
        if found > 1:
            yield f"the batch of wave {number} is there {found} times"
        if not found and not (forgot and batch in told.batched):
            yield f"there is no batch with just the packets of wave {number}"
    for batch in left.batches:
        if batch not in wanted:
            yield f"a batch that no undisturbed run has: {batch!r}"
    members = Counter(packet for batch in left.batches for packet in batch.split(b"\n"))
    for packet, number in members.items():
        if number > 1:
            yield f"packet {packet!r} is in {number} batches"


def _work(stream: str, work: Work) -> Iterable[str]:
    for what, number in (("waiting", work.length), ("pending", work.pending), ("in the outbox", work.outbox)):
        if number:
            yield f"{stream}: {number} {what}"
    for entry, number in work.counts.items():
        if number != 1:
            yield f"{stream}: entry {entry} had its effect {number} times"
    buried = [letter.entry for letter in work.letters]
    for entry in sorted(set(buried) & work.counts.keys()):
        yield f"{stream}: entry {entry} had its effect, and is a dead letter"
    for entry, number in Counter(buried).items():
        if number > 1:
            yield f"{stream}: entry {entry} is {number} dead letters"
    ended = len(work.counts) + len(set(buried))
    if work.added != ended + work.length:
        yield f"{stream}: of {work.added} entries {ended} had an end, and {work.length} wait"


def _consumers(left: Left) -> Iterable[str]:
    for stream, work in left.work.items():
        for name in work.consumers:
            if int(name.split(".")[1]) not in left.alive:
                yield f"{stream}: the consumer {name} is left of a process that is gone"


def _letters(told: Told, left: Left) -> Iterable[str]:
    for stream, work in left.work.items():
        for letter in work.letters:
            wanted = CODES.get(kind_of(letter.text), set()) | ({REPLAYED} if letter.text in told.again else set())
            if letter.code not in wanted or not letter.reason:
                yield f"{stream}: {letter.text!r} is a dead letter, {letter.code}: {letter.reason!r}"


def _followers(left: Left, *, forgot: bool) -> Iterable[str]:
    for node, heard in left.heard.items():
        missing = set(left.news) - {entry for _, entry in heard}
        if missing:
            yield f"{node} did not hear {sorted(missing)}"
        for (life, before), (next_life, entry) in itertools.pairwise(heard):
            if life == next_life and _order(entry) <= _order(before) and not forgot:
                yield f"{node} heard {entry} after {before}"


def _order(entry: str) -> tuple[int, ...]:
    return tuple(map(int, entry.split("-")))
