"""What happens in one scenario, as a value made from its seed: what is asked, and which faults come when. Pure.

A fault is drawn for every machine alike; a world that cannot make it happen here says why, and goes on without it. So
a seed means the same everywhere.
"""

import random
from dataclasses import dataclass, replace

LOAD_S = 1.0
WHOLE_S = 8.0
NODES = ("edge-1", "edge-2", "aggregator-1", "aggregator-2")
WAVE = 6  # packets to a batch
FAULTS_MAX = 5

# How often each is drawn, and for how long it lasts, seconds.
LIGHT = {
    "kill": (6, 0.0, 0.3),
    "stop": (4, 0.2, 0.8),
    "cut": (3, 0.1, 0.8),
    "silence": (3, 0.1, 0.9),
    "slow": (2, 0.3, 0.8),
    "broker_kill": (4, 0.0, 0.5),
    "broker_stop": (2, 0.1, 0.9),
    "broker_forget": (1, 0.0, 0.3),
    "flush": (1, 0.0, 0.0),
    "destroy": (3, 0.0, 0.0),
    "again": (3, 0.0, 0.0),
    "disk": (2, 0.2, 0.8),
    "clock": (2, 0.0, 0.0),
}
WHOLE = {
    "kill": (6, 0.0, 0.0),
    "stop": (4, 1.0, 9.0),
    "cut": (3, 0.5, 6.0),
    "silence": (2, 0.5, 8.0),
    "slow": (2, 1.0, 4.0),
    "broker_kill": (4, 0.0, 2.0),
    "broker_stop": (1, 0.5, 7.0),
    "destroy": (3, 0.0, 0.0),
    "again": (4, 0.0, 0.0),
    "disk": (2, 0.5, 4.0),
}
CLOCK_MAX_S = 7_200.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, `at_s` after the beginning, that lasts `for_s`. whom: a number from which the world picks whom it hits
    among those there are. by_s: how far a clock jumps.
    """

    at_s: float
    what: str
    whom: int
    for_s: float
    by_s: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.for_s:.2f} s" if self.for_s else ""
        jump = f" by {self.by_s:+.0f} s" if self.by_s else ""
        return f"{self.what} {self.whom}{jump} at {self.at_s:.2f} s{lasts}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A message that is sent `at_s` after the beginning. Its text ends with its kind, which says what becomes of it."""

    at_s: float
    text: str

    @property
    def name(self) -> str:
        return self.text.partition(" ")[0]

    @property
    def kind(self) -> str:
        """plain; slow: takes longer than a claim; wrong: is refused; bug: its handler fails; deadly: kills whoever
        handles it.
        """
        return kind_of(self.text)


@dataclass(frozen=True, slots=True)
class Scenario:
    """direct: what handlers send is published with their commit, not through the outbox."""

    seed: int
    direct: bool
    faults: tuple[Fault, ...]
    queries: tuple[Asked, ...] = ()
    waves: tuple[tuple[str, ...], ...] = ()  # packets; each wave's begins when the one before is in its batch
    news: tuple[float, ...] = ()  # when something is broadcast

    @property
    def forgets(self) -> bool:
        """The broker loses what it was told. It may when it is killed while its disk is full, too: what it took last
        it could not write.
        """
        kinds = {fault.what for fault in self.faults}
        return bool(kinds & {"flush", "broker_forget"}) or {"disk", "broker_kill"} <= kinds

    @property
    def turns_back(self) -> bool:
        """The broker's clock is set back: what is to go after an hour then stays longer."""
        return any(fault.by_s < 0 for fault in self.faults)


def kind_of(text: str) -> str:
    """The kind of a message, of its text."""
    return text.rpartition(" ")[2]


def light(seed: int) -> Scenario:
    """Small processes, a second of load."""
    rng = random.Random(f"light {seed}")
    kinds = rng.choices(("plain", "slow", "wrong", "bug"), (40, 3, 3, 1), k=rng.randint(15, 40))
    kinds += ["deadly"] * (rng.random() < 0.1)
    queries = tuple(Asked(rng.uniform(0, LOAD_S), f"q{number} {kind}") for number, kind in enumerate(kinds))
    waves = tuple(_wave(rng, number) for number in range(rng.randint(1, 3)))
    news = tuple(sorted(rng.uniform(0, LOAD_S) for _ in range(rng.randint(2, 8))))
    return Scenario(seed, rng.random() < 0.5, _faults(rng, LIGHT, LOAD_S), queries, waves, news)


def whole(seed: int) -> Scenario:
    """The services, which read and are asked. Nothing is forgotten: so no broker dies while its disk is full."""
    rng = random.Random(f"whole {seed}")
    drawn = Scenario(seed, True, _faults(rng, WHOLE, WHOLE_S))
    return replace(drawn, faults=tuple(fault for fault in drawn.faults if not drawn.forgets or fault.what != "disk"))


def _wave(rng: random.Random, number: int) -> tuple[str, ...]:
    kinds = ["plain"] * WAVE + ["wrong"] * (rng.random() < 0.3)
    rng.shuffle(kinds)
    return tuple(f"p{number}-{place} {kind}" for place, kind in enumerate(kinds))


def _faults(rng: random.Random, drawn: dict[str, tuple[int, float, float]], lasts_s: float) -> tuple[Fault, ...]:
    weights = [weight for weight, _, _ in drawn.values()]
    faults = []
    for what in rng.choices(list(drawn), weights, k=rng.randint(1, FAULTS_MAX)):
        _, shortest, longest = drawn[what]
        by_s = rng.choice((-1, 1)) * rng.uniform(2, CLOCK_MAX_S) if what == "clock" else 0.0
        faults.append(Fault(rng.uniform(0, lasts_s), what, rng.randrange(60), rng.uniform(shortest, longest), by_s))
    return tuple(sorted(faults, key=lambda fault: fault.at_s))
