"""When a schedule fires: fixed moments, the same for whoever asks, so that several buses agree."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim


class When(Protocol):
    """The moments at which to fire, as Unix times."""

    zone: ZoneInfo

    def after(self, moment: float) -> float | None:
        """The first one after `moment`; None if there is none any more."""

    def before(self, moment: float) -> float | None:
        """The last one that is not after `moment`; None if there was none."""

    def __str__(self) -> str:
        """What they are, for people and to tell schedules apart."""


class Every:
    """Multiples of a number of seconds since 1970, in UTC: every hour is on the hour."""

    zone = ZoneInfo("UTC")

    def __init__(self, seconds: float) -> None:
        self._millis = max(1, round(seconds * 1000))

    def after(self, moment: float) -> float:
        """See `When.after`."""
        return (self._number(moment) + 1) * self._millis / 1000

    def before(self, moment: float) -> float:
        """See `When.before`."""
        return self._number(moment) * self._millis / 1000

    def _number(self, moment: float) -> int:
        return round(moment * 1000) // self._millis

    def __str__(self) -> str:
        return f"every {self._millis / 1000:g}s"


class Cron:
    """What a cron expression says in a time zone, as Debian's cron does (cron(8)): when clocks go
    forward, what falls into the missing hour fires right after it; when they go back, what has a
    fixed hour fires once, and what fires each hour or minute goes on. Raises CronSimError."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        self.zone = zone
        self._expression = expression
        CronSim(expression, datetime.now(UTC))

    def after(self, moment: float) -> float | None:
        """See `When.after`."""
        # In an hour that comes twice it may begin with what is over.
        return next((due for due in self._dues(moment) if due > moment), None)

    def before(self, moment: float) -> float | None:
        """See `When.before`."""
        dues = self._dues(moment, reverse=True)
        last = next((due for due in dues if due <= moment), None)
        while last is not None and (later := self.after(last)) is not None and later <= moment:
            last = later  # this very second, or in an hour that came twice
        return last

    def _dues(self, moment: float, *, reverse: bool = False) -> Iterator[float]:
        at = datetime.fromtimestamp(moment, self.zone)
        for due in CronSim(self._expression, at, reverse=reverse):
            yield due.timestamp()

    def __str__(self) -> str:
        return f"cron {self._expression} {self.zone.key}"
