"""What an alarm is, what it looks at, and what it reads there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sar.alarms.windows import Window


@dataclass(frozen=True)
class View:
    """What the alarms look at, at the end of a block."""

    start: Window | None
    """The run's first window. None until one more window has come: the two must not overlap."""
    best: Window | None
    """The window with the highest correctness so far, of those that do not overlap the latest."""
    recent: Window
    zero_variance: float | None
    """Share of the latest groups whose rewards are all equal."""
    lag: float | None
    """Checkpoints that the scorer is behind."""


@dataclass(frozen=True)
class Reading:
    """An alarm's value at one moment."""

    value: float
    message: str
    is_sure: bool = True
    """False if chance may have made the value what it is."""


@dataclass(frozen=True)
class Alarm:
    """One alarm. It rings while its value is at the threshold or beyond."""

    name: str
    title: str
    definition: str
    """The first sentence can stand alone."""
    window: str
    threshold: float
    reason: str
    """Of the threshold."""
    clear: float
    """A value that ends the alarm. It lies on the safe side of the threshold, so that the alarm
    does not come and go."""
    read: Callable[[View], Reading | None]
    """The value now. None: it cannot be told yet."""

    @property
    def meaning(self) -> str:
        """The definition's first sentence, which says alone what the alarm is about."""
        return self.definition.partition(". ")[0].rstrip(".") + "."

    def is_beyond(self, value: float) -> bool:
        """True if the value is at the threshold or beyond."""
        return value >= self.threshold if self.is_high else value <= self.threshold

    def is_clear(self, value: float) -> bool:
        """True if the value ends the alarm."""
        return value <= self.clear if self.is_high else value >= self.clear

    @property
    def is_high(self) -> bool:
        """True if high values are the bad ones."""
        return self.threshold > self.clear
