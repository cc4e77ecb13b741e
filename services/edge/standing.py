"""How an edge stands to its bundles: which one has proved good, which is on trial in service, which it came back from.

    good     the last bundle that was watched to its end; what else serves is on trial, and this is what it is left for
    boots    processes in a row that began with the bundle on trial and did not end in good order
    left     bundles that were gone back from: never taken again; untold: the publisher has not heard of it yet
    proved   the last bundle that was found good, while the publisher has not heard of it yet

A value with its transitions. slots.py keeps it beside the bundles.
"""

from typing import Final

from pydantic import BaseModel, ConfigDict

BOOTS_MAX: Final = 2  # settled (issue): two boots in a row without "good" are two deaths: back
LEFT_KEPT: Final = 16  # chosen: the stream that could bring one again is looked back on as far (releases.py)


class Left(BaseModel):
    """A bundle that was gone back from, as the publisher is told. before, after: bits per byte of fresh text, of the
    last good bundle and of this one; None: not known.
    """

    model_config = ConfigDict(frozen=True)

    digest: str
    version: int
    reason: str
    before: float | None = None
    after: float | None = None
    at_s: float
    told: bool = False


class Proved(BaseModel):
    """A bundle that was found good, as the publisher is told. before, after: as of Left."""

    model_config = ConfigDict(frozen=True)

    digest: str
    version: int
    reason: str
    before: float | None = None
    after: float | None = None


class Standing(BaseModel):
    """good: a digest; "" before anything was watched to the end. boots are those of the bundle `trial`."""

    model_config = ConfigDict(frozen=True)

    good: str = ""
    trial: str = ""
    boots: int = 0
    left: tuple[Left, ...] = ()
    proved: Proved | None = None

    def has_left(self, digest: str) -> bool:
        """Whether this bundle was gone back from."""
        return any(each.digest == digest for each in self.left)

    @property
    def untold(self) -> tuple[Proved | Left, ...]:
        """What the publisher is still to be told."""
        good = () if self.proved is None else (self.proved,)
        return (*good, *(each for each in self.left if not each.told))

    def approved(self, digest: str) -> "Standing":
        """This bundle is the last good one."""
        return self.model_copy(update={"good": digest, "trial": "", "boots": 0})

    def found_good(self, proved: Proved) -> "Standing":
        """This bundle was watched to its end: it is the last good one, and the publisher is to be told."""
        return self.approved(proved.digest).model_copy(update={"proved": proved})

    def booted(self, digest: str) -> "Standing":
        """One more process begins with this bundle, which is on trial."""
        boots = self.boots + 1 if self.trial == digest else 1
        return self.model_copy(update={"trial": digest, "boots": boots})

    def rested(self) -> "Standing":
        """A process has ended in good order: what it began with did not end it."""
        return self.model_copy(update={"trial": "", "boots": 0})

    @property
    def died_too_often(self) -> bool:
        """Whether the bundle on trial has had its chances."""
        return self.boots >= BOOTS_MAX

    def without(self, left: Left) -> "Standing":
        """This bundle is gone back from. Doing it twice is doing it once."""
        if self.has_left(left.digest):
            return self
        return self.model_copy(update={"left": (*self.left, left)[-LEFT_KEPT:], "trial": "", "boots": 0})

    def told(self, digest: str) -> "Standing":
        """The publisher has heard what became of this bundle."""
        said = tuple(each.model_copy(update={"told": True}) if each.digest == digest else each for each in self.left)
        proved = None if self.proved is not None and self.proved.digest == digest else self.proved
        return self.model_copy(update={"left": said, "proved": proved})
