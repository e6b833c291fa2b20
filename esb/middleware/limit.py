"""A bulkhead: how many messages may be inside at a time (Nygard, Release It!)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field

from esb.clock import REAL, Clock
from esb.envelope import Envelope
from esb.errors import Overloaded
from esb.metrics import Counter
from esb.options import Options
from esb.step import Middleware, Step

WAITING_PER_SLOT = 10

SHED: Final = Counter(
    "esb_shed_total",
    "Messages turned away because too many were there, by why: full, hopeless (its turn would come "
    "too late), late (it did not come in time).",
    ("what", "why"),
)

_LATEST: Final = 0.1
"""How much the latest turn counts in the average of how often one comes."""


class ConcurrencyOptions(Options):
    """How many messages may be in the steps at a time, and how many may wait for that."""

    __shorthand__ = "limit"

    limit: int = Field(ge=1, description="So many at a time.")
    waiting: int | None = Field(
        None,
        ge=0,
        description="So many may wait, where callers wait for the answer: ten times `limit` if "
        "left out. The next is refused at once with 503, and so is one whose turn would not come "
        "before its deadline, going by how often one came of late.",
    )


def _limit(value: Any) -> Any:
    return value if isinstance(value, Mapping | ConcurrencyOptions) else {"limit": value}


Concurrency = Annotated[
    ConcurrencyOptions,
    BeforeValidator(_limit, json_schema_input_type=int | ConcurrencyOptions),
]


class Bulkhead:
    """Lets at most `concurrency` messages in; others wait for their turn.

    waiting: how many may wait (default: ten for each that is inside). One more raises Overloaded,
        as does one whose turn does not come before the message's deadline, at once if that can be
        told from how often a turn came of late: who has given up needs no work. Messages that
        nobody waits for are bounded by their source and have no deadline: they always wait.
    what: what is guarded, for whoever is turned away. name: the same for metrics.
    """

    def __init__(
        self,
        concurrency: int,
        *,
        what: str,
        waiting: int | None = None,
        clock: Clock = REAL,
        name: str = "",
    ) -> None:
        self.concurrency = concurrency
        self.waiting = 0
        self._what = what
        self._most = concurrency * WAITING_PER_SLOT if waiting is None else waiting
        self._clock = clock
        self._inside = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._between = 0.0  # seconds from a turn to the next, on average; 0 if nobody knows
        self._last = 0.0  # when the last one came
        self._shed = {why: SHED.labels(name or what, why) for why in ("full", "hopeless", "late")}

    async def enter(self, envelope: Envelope) -> None:
        """Return when it is the message's turn; `leave` ends it. Raises Overloaded."""
        if self._inside < self.concurrency:
            self._inside += 1
            return
        if not self.waiting:
            # How it was the last time says nothing of this time.
            self._last, self._between = self._clock.monotonic(), 0.0
        left: float | None = None
        if envelope.deadline is not None:
            left = max(0.0, envelope.deadline - self._clock.monotonic())
            needed = self._between * (self.waiting + 1)
            if self.waiting >= self._most:
                raise self._turned_away("full", "there is no room to wait", needed)
            if needed > left:
                raise self._turned_away("hopeless", "no turn would come in time", needed)
        self.waiting += 1
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout(left):
                await turn
        except BaseException as e:
            if turn.done() and not turn.cancelled():
                self.leave()  # it came at the moment at which it was given up
            if isinstance(e, TimeoutError):
                raise self._turned_away("late", "no turn came in time", self._between) from e
            raise
        finally:
            self.waiting -= 1

    def _turned_away(self, why: str, told: str, wait: float) -> Overloaded:
        self._shed[why].value += 1
        return Overloaded(f"{self._what} is busy: {told}", retry_after=max(1.0, wait))

    def leave(self) -> None:
        """The message is out again; whoever has waited longest takes its place."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                now = self._clock.monotonic()
                between, self._last = now - self._last, now
                self._between += (between - self._between) * (_LATEST if self._between else 1.0)
                turn.set_result(None)
                return
        self._inside -= 1


def limited(
    concurrency: int, *, route: str, waiting: int | None = None, clock: Clock = REAL
) -> Middleware:
    """A bulkhead around each step it is put around; see Bulkhead."""

    def middleware(step: Step) -> Step:
        bulkhead = Bulkhead(concurrency, what=route, waiting=waiting, clock=clock)

        async def limit(envelope: Envelope) -> Envelope:
            await bulkhead.enter(envelope)
            try:
                return await step(envelope)
            finally:
                bulkhead.leave()

        return limit

    return middleware
