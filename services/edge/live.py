"""What an edge shows of the last quarter of an hour: what happened goes in, events for a page come out.

    answered, served, looked, away, beat, applied, released ─▶ Live ─▶ state(now_s)   everything, for who comes now
                                                                   └─▶ after(number)  what happened since, in order

Pure: times are arguments. Everything is bounded, by time and by number. Holds no text, no client and no id of a query:
what it tells may be shown to whoever may see /metrics. Events and state are plain values, ready for JSON.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from common.constants import PHASE_BOUNDS, PHASES, PHI_WINDOW, ROLES
from common.wire.fields import QUERY_MAX_CHARS
from common.wire.inference import Answer
from common.wire.messages import Applied, Bundle, Heartbeat
from services.edge.atlas import Atlas

KEPT_S: Final = 900.0
EVENTS_MAX: Final = 512  # who is further behind is told everything anew
ANSWERS_MAX: Final = 64
BUNDLES_MAX: Final = 32
VERDICTS_MAX: Final = 64
SERVICES_MAX: Final = 256
WHOLE: Final = "constellation"
SILENT_S: Final = 15.0  # three heartbeats
WATCHED_S: Final = 15.0  # a page without JavaScript comes again every five seconds
LIMITS: Final[Mapping[str, object]] = {
    "kept_s": KEPT_S, "silent_s": SILENT_S, "phases": PHASES, "phase_bounds": PHASE_BOUNDS, "phi_window": PHI_WINDOW,
    "text_max_chars": QUERY_MAX_CHARS,
}  # fmt: skip

Fields = dict[str, Any]
_NOT_LOOKED: Final[Fields] = {"at_s": 0.0, "away": None, "streams": []}


@dataclass(frozen=True, slots=True)
class Event:
    """number: ascending without gaps from 1. kind: "answer", "serves", "broker", "beat", "applied" or "bundle"."""

    number: int
    kind: str
    data: Fields


class Live:
    """One edge's, while it runs."""

    def __init__(self, node: str) -> None:
        self.newest = 0  # the number of the last event
        self.ended = False  # no more events will come: the edge stops
        self._node = node
        self._seen_s = -WATCHED_S
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._bundle = 0
        self._map: Fields | None = None
        self._series: dict[str, deque[Fields]] = {name: deque(maxlen=int(KEPT_S)) for name in (*ROLES, WHOLE)}
        self._answers: deque[Fields] = deque(maxlen=ANSWERS_MAX)
        self._broker = _NOT_LOOKED
        self._services: OrderedDict[tuple[str, str], Fields] = OrderedDict()
        self._applied: deque[Fields] = deque(maxlen=VERDICTS_MAX)
        self._bundles: deque[Fields] = deque(maxlen=BUNDLES_MAX)

    def serves(self, bundle: int, found: Atlas) -> None:
        """A bundle, and the map of its domains, serves from now on."""
        self._bundle, self._map = bundle, asdict(found)
        self._tell("serves", {"bundle": bundle, "map": self._map})

    def answered(self, answer: Answer, at_s: float, phi_n: float) -> None:
        """An answer was made. Of several within a second each kernel's last stays in its series.

        phi_n: transitions of its kernel that Φ is read of so far, known or not.
        """
        if answer.kernel is None:
            return
        told = _answer(answer, at_s) | {"phi_n": int(phi_n)}
        self._answers.append(told)
        self._keep(
            answer.kernel, {"at_s": int(at_s), **{name: told[name] for name in ("phi", "phi_n", "kappa", "phase")}}
        )
        if answer.constellation_phi is not None:
            self._keep(WHOLE, {"at_s": int(at_s), "phi": answer.constellation_phi, "kappa": None, "phase": None})
        self._tell("answer", told)

    def looked(self, rows: Sequence[Fields], at_s: float) -> None:
        """The broker answered, with what waits in each stream."""
        self._broker = {"at_s": at_s, "away": None, "streams": list(rows)}
        self._tell("broker", self._broker)

    def away(self, reason: str, at_s: float) -> None:
        """The broker did not answer. What was last seen of the streams stays."""
        self._broker = self._broker | {"at_s": at_s, "away": reason}
        self._tell("broker", self._broker)

    def beat(self, told: Heartbeat) -> None:
        """A service of the fleet says how it is; the newest of each counts."""
        key, known = (told.service, told.node), self._services.get((told.service, told.node))
        if known is not None and known["at_s"] > told.at_s:
            return
        self._services[key] = found = told.model_dump(mode="json", exclude={"v"})
        self._services.move_to_end(key)
        while len(self._services) > SERVICES_MAX:
            self._services.popitem(last=False)
        self._tell("beat", found)

    def applied(self, told: Applied) -> None:
        """An edge of the fleet tried a bundle on its own text."""
        self._applied.append(told.model_dump(mode="json", exclude={"v"}))
        self._tell("applied", self._applied[-1])

    def released(self, told: Bundle) -> None:
        """The publisher released a bundle; its figures in bits per byte of held-out text are its evidence. One that
        went to a ring first comes again for everybody, and is told once.
        """
        figures = [
            {"domain": each.domain, "before": each.before, "after": each.after}
            for each in told.evidence.figures
            if each.name == "bits_per_byte"
        ]
        found = {"version": told.version, "at_s": told.released_at_s, "packets": len(told.packets), "figures": figures}
        if found not in self._bundles:
            self._bundles.append(found)
            self._tell("bundle", found)

    def state(self, now_s: float) -> Fields:
        """Everything, at now_s; `number`: the last event that is in it."""
        since_s = now_s - KEPT_S
        return {
            "number": self.newest,
            "now_s": now_s,
            "node": self._node,
            "limits": LIMITS,
            "bundle": self._bundle,
            "map": self._map,
            "series": {name: [p for p in points if p["at_s"] >= since_s] for name, points in self._series.items()},
            "answers": [each for each in self._answers if each["at_s"] >= since_s],
            "broker": self._broker,
            "services": [each for each in self._services.values() if each["at_s"] >= since_s],
            "applied": list(self._applied),
            "bundles": list(self._bundles),
        }

    def seen(self, now_s: float) -> None:
        """Somebody looks at it."""
        self._seen_s = now_s

    def unwatched(self) -> None:
        """Nobody looks, so nothing is looked out for: what is known of others would be old when somebody comes."""
        self._broker = _NOT_LOOKED
        self._services.clear()
        self._applied.clear()
        self._bundles.clear()

    def watched(self, now_s: float) -> bool:
        """Whether somebody did lately."""
        return abs(now_s - self._seen_s) < WATCHED_S  # abs: a clock that was set

    def after(self, number: int) -> list[Event] | None:
        """The events after one, in order; None when some of them are no longer kept, or never were."""
        if number > self.newest or (self._events and number < self._events[0].number - 1):
            return None
        return [event for event in self._events if event.number > number]

    def _keep(self, name: str, point: Fields) -> None:
        points = self._series[name]
        if points and points[-1]["at_s"] == point["at_s"]:
            points.pop()
        points.append(point)

    def _tell(self, kind: str, data: Fields) -> None:
        self.newest += 1
        self._events.append(Event(self.newest, kind, data))


def _answer(answer: Answer, at_s: float) -> Fields:
    """What an answer tells beside its text."""
    shown = {
        "route", "margin_rad", "abstained", "kernel", "domain", "phi", "phi_p", "constellation_phi", "kappa", "phase",
        "bundle", "finish", "seconds", "prompt_tokens", "completion_tokens",
    }  # fmt: skip
    read = answer.prompt_bits / answer.prompt_bytes if answer.prompt_bytes else None
    return answer.model_dump(mode="json", include=shown) | {"at_s": at_s, "bits_per_byte": read}
