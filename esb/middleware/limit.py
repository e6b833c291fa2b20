"""A bulkhead: how many messages may be inside at a time (Nygard, Release It!)."""

from __future__ import annotations

import asyncio
from collections import deque

from esb.clock import REAL, Clock
from esb.envelope import Envelope
from esb.errors import Overloaded
from esb.step import Middleware, Step

WAITING_PER_SLOT = 10


class Bulkhead:
    """Lets at most `concurrency` messages in; others wait for their turn.

    waiting: how many may wait (default: ten for each that is inside). One more raises Overloaded,
        as does a turn that does not come before the message's deadline. Messages that nobody
        waits for are bounded by their source and have no deadline: they always wait.
    what: what is guarded, for whoever is turned away.
    """

    def __init__(
        self, concurrency: int, *, what: str, waiting: int | None = None, clock: Clock = REAL
    ) -> None:
        self.concurrency = concurrency
        self.waiting = 0
        self._what = what
        self._most = concurrency * WAITING_PER_SLOT if waiting is None else waiting
        self._clock = clock
        self._inside = 0
        self._turns: deque[asyncio.Future[None]] = deque()

    async def enter(self, envelope: Envelope) -> None:
        """Return when it is the message's turn; `leave` ends it. Raises Overloaded."""
        if self._inside < self.concurrency:
            self._inside += 1
            return
        deadline = envelope.deadline
        if deadline is not None and self.waiting >= self._most:
            raise Overloaded(f"{self._what} is busy and has no room to wait", retry_after=1)
        self.waiting += 1
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            left = None if deadline is None else max(0.0, deadline - self._clock.monotonic())
            async with asyncio.timeout(left):
                await turn
        except BaseException as e:
            if turn.done() and not turn.cancelled():
                self.leave()  # it came at the moment at which it was given up
            if isinstance(e, TimeoutError):
                why = f"{self._what} is busy: no turn came in time"
                raise Overloaded(why, retry_after=1) from e
            raise
        finally:
            self.waiting -= 1

    def leave(self) -> None:
        """The message is out again; whoever has waited longest takes its place."""
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
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
