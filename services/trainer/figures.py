"""What a candidate's evidence says of it: each figure before and after, with its interval."""

from collections.abc import Iterator, Mapping, Sequence

from common.constants import ROLES
from common.constellation.constellation import Constellation
from common.geometry.means import drift
from common.wire.messages import DomainUpdate, Figure
from services.trainer.evaluate import Changed, Examiner, Score, gram_bits, gram_interval, moved
from services.trainer.intervals import Interval
from services.trainer.updates import crystals_of
from services.trainer.whole import whole_changed


def figures(
    current: Constellation,
    merged: Constellation,
    scores: Mapping[str, tuple[Score, Score]],
    examiner: Examiner,
    held_out: Mapping[str, Sequence[str]],
) -> tuple[Figure, ...]:
    """How every domain with text is read and routed to, how far each state's home moved, what became of its gauges, and
    the vocabulary where it grew. scores: before and after.
    """
    grown = merged.coordizer.vocab_size != current.coordizer.vocab_size
    told = []
    for domain, (before, after) in scores.items():
        sure = examiner.intervals(domain, before, after)
        told.append(
            _figure("bits_per_byte", domain, before.bits_per_byte, after.bits_per_byte, "bit/B", sure.bits_per_byte)
        )
        told.append(_figure("routed", domain, before.routed, after.routed, "1", sure.routed))
        if grown:
            told.append(
                _figure(
                    "tokens_per_byte",
                    domain,
                    before.tokens_per_byte,
                    after.tokens_per_byte,
                    "token/B",
                    sure.tokens_per_byte,
                )
            )
    told += _gauges(current, merged, held_out)
    if grown:
        old, new = (float(each.coordizer.vocab_size) for each in (current, merged))
        told.append(_figure("vocabulary", None, old, new, "token", None))
    return tuple(told)


def _gauges(current: Constellation, merged: Constellation, held_out: Mapping[str, Sequence[str]]) -> Iterator[Figure]:
    """The gates of DESIGN.md section 10 that another state may change; the parent's own has moved by nothing."""
    trained = [role for role in ROLES if merged.states[role] is not current.states[role]]
    for role in ROLES:
        seen = moved(current, merged, role, held_out.get(role, ())) if role in trained else None
        away = drift(current.homes[role], merged.homes[role])
        sure = Interval(0.0, 0.0) if role not in trained else seen.drift if seen else None
        yield _figure("drift_rad", role, None, away, "rad", sure)
        if seen is not None:
            yield from _changed("phi_ratio", role, seen.phi)
            yield from _changed("kappa", role, seen.kappa)
    if trained and (together := whole_changed(current, merged, held_out)) is not None:
        yield from _changed("phi_ratio", None, together)


def _changed(name: str, domain: str | None, seen: Changed) -> Iterator[Figure]:
    if seen.after is not None:
        yield _figure(name, domain, seen.before, seen.after, "1", seen.interval)


def crystal_figures(current: Constellation, merged: Constellation, updates: Sequence[DomainUpdate]) -> Iterator[Figure]:
    """How well the batch's crystals themselves are known once they are merged."""
    for update in updates:
        known = crystals_of(update, current)
        before = current.kernel(update.name if update.name in current.domains else update.kernel)
        after = merged.kernel(update.name)
        sure = gram_interval(before, after, known)
        yield _figure("crystal_bits", update.name, gram_bits(before, known), gram_bits(after, known), "bit/token", sure)


def _figure(
    name: str, domain: str | None, before: float | None, after: float, unit: str, sure: Interval | None
) -> Figure:
    low, high = (None, None) if sure is None else (sure.low, sure.high)
    return Figure(name=name, domain=domain, before=before, after=after, unit=unit, low=low, high=high)
