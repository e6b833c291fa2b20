"""A circuit breaker: a far side that fails is left alone for a while (Nygard, Release It!).

closed      every call passes, and its end is counted
open        no call passes, until `open_for` is over
half-open   so many calls pass as `probes` says: if they succeed it closes, if one fails it
            opens again
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

import structlog
from pydantic import Field

from esb.adapter import Health
from esb.clock import REAL, Clock
from esb.errors import (
    BadReply,
    CircuitOpen,
    Denied,
    EsbError,
    Fault,
    OutcomeUnknown,
    Rejected,
    Transient,
)
from esb.options import Duration, Options

log = structlog.get_logger("esb.breaker")

State = Literal["closed", "half-open", "open"]

_SLICES: Final = 10
_ASK_AGAIN: Final = 1.0
"""Seconds after which who was refused for a probe under way may ask again."""


class BreakerOptions(Options):
    """When a far side is left alone: when it failed often, and on a good part of all calls."""

    failures: int = Field(
        5,
        ge=1,
        description="Failures within the time of `within` that open it, if they are also "
        "the `share` of all calls.",
    )
    share: float = Field(
        0.5, gt=0, le=1, description="The least share of calls that must have failed: 0.5 is half."
    )
    within: Duration = Field(30.0, description="The time in which calls are counted.")
    open_for: Duration = Field(30.0, description="How long nothing is sent then.")
    probes: int = Field(
        1, ge=1, description="Calls that pass after that; when as many succeed it closes again."
    )


class Breaker:
    """The circuit breaker of an endpoint, or of all endpoints on a connection. A Resource only for
    its health: an open circuit is shown among what is down.

    Each call is between `enter` and `leave`.
    """

    def __init__(self, options: BreakerOptions, *, name: str, clock: Clock = REAL) -> None:
        self._options = options
        self._name = name
        self._now = clock.monotonic
        self._counts = _Window(options.within)
        self._open_until = 0.0  # 0 while it is closed
        self._era = 0  # calls that end in another era than they began in say nothing any more
        self._probing = 0
        self._succeeded = 0
        self._reason = ""

    @property
    def state(self) -> State:
        """How it is now."""
        if not self._open_until:
            return "closed"
        return "open" if self._now() < self._open_until else "half-open"

    @property
    def retry_after(self) -> float:
        """Seconds until a call may pass; 0 if it may now."""
        if not self._open_until:
            return 0.0
        left = self._open_until - self._now()
        if left > 0:
            return left
        return _ASK_AGAIN if self._probing + self._succeeded >= self._options.probes else 0.0

    def check(self) -> None:
        """Raises CircuitOpen if no call may pass now."""
        wait = self.retry_after
        if wait:
            raise CircuitOpen(
                "the service failed again and again and is not asked for now", retry_after=wait
            ).noted(f"the circuit of {self._name} is open: {self._reason}")

    def enter(self) -> int:
        """A call begins; returns what `leave` wants to know of it. Raises CircuitOpen."""
        if self._open_until:
            self.check()
            self._probing += 1
        return self._era

    def leave(self, era: int, error: BaseException | None) -> None:
        """The call that began in `era` has ended, with `error` or well."""
        if era != self._era:
            return
        failed = _failed(error)
        if self._open_until:
            self._probing -= 1
            if failed:
                self._open(error)
            elif failed is False:
                self._succeeded += 1
                if self._succeeded >= self._options.probes:
                    self._close()
        elif failed is not None:
            calls, failures = self._counts.add(self._now(), failed)
            options = self._options
            if failed and failures >= options.failures and failures >= options.share * calls:
                self._open(error)

    def _open(self, error: BaseException | None) -> None:
        self._begin(self._now() + self._options.open_for)
        if isinstance(error, EsbError):
            self._reason = "; ".join((error.detail, *error.notes))[:500]
        log.warning(
            "circuit opened",
            endpoint=self._name,
            seconds=self._options.open_for,
            error=self._reason,
        )

    def _close(self) -> None:
        self._begin(0.0)
        log.info("circuit closed", endpoint=self._name)

    def _begin(self, open_until: float) -> None:
        self._open_until = open_until
        self._era += 1
        self._probing = self._succeeded = 0
        self._counts = _Window(self._options.within)

    # --- the resource

    async def open(self) -> None:
        """Nothing is to be opened."""

    async def close(self) -> None:
        """Nothing is to be closed."""

    def health(self) -> Health:
        """Whether calls pass."""
        state = self.state
        return Health(state == "closed", "" if state == "closed" else f"{state}: {self._reason}")


def _failed(error: BaseException | None) -> bool | None:
    """Whether the far side failed; None if the error is not its doing."""
    if isinstance(error, Transient | OutcomeUnknown):
        return True
    if error is None or isinstance(error, Fault | Rejected | BadReply | Denied):
        return False
    return None


class _Window:
    """Counts of the last `seconds`, give or take a tenth."""

    def __init__(self, seconds: float) -> None:
        self._slice = seconds / _SLICES
        self._slices: deque[tuple[int, list[int]]] = deque()
        self._calls = self._failures = 0  # in all slices

    def add(self, now: float, failed: bool) -> tuple[int, int]:
        """Count one more; returns how many there are, and how many of them failed."""
        current = int(now / self._slice)
        slices = self._slices
        if not slices or slices[-1][0] != current:
            slices.append((current, [0, 0]))
            while slices[0][0] <= current - _SLICES:
                _, (calls, failures) = slices.popleft()
                self._calls -= calls
                self._failures -= failures
        counts = slices[-1][1]
        counts[0] += 1
        counts[1] += failed
        self._calls += 1
        self._failures += failed
        return self._calls, self._failures
