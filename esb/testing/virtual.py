"""Time that passes only when nothing else is left to do, so that a day of retries takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from time import monotonic
from typing import Any, TypeVar, TypeVarTuple

from esb.clock import Clock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LOOK_AGAIN = 5.0  # whoever works beside the loop wakes it; this is for those who forget to

PATIENCE = 60.0
"""Seconds of real time in which it must come to rest."""


class Restless(Exception):
    """It did not come to rest: something runs in circles, or works and works."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a clock of its own.

    While somebody works beside it (a thread of an executor, or whoever said so with `busy_until`)
    it waits for that in real time. Else, when every task waits for time to pass, it tells whoever
    waits for `idle`; if nobody does, it goes on to the next timer at once.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._busy = 0
        self._idle: asyncio.Future[float | None] | None = None
        self._rested_at = monotonic()
        super().__init__(_Selector(self))
        # After some months a float holds no nanoseconds any more, and a timer would never be due.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._now

    def busy_until(self, future: asyncio.Future[Any]) -> None:
        """Time stands still until `future` is done: somebody works on it beside the loop."""
        self._busy += 1
        future.add_done_callback(self._rested)

    def _rested(self, _future: object) -> None:
        self._busy -= 1

    async def idle(self) -> float | None:
        """Return once all has happened that can happen at this moment: with the time of the next
        timer, None if there is none."""
        assert self._idle is None
        self._rested_at = monotonic()
        self._idle = self.create_future()
        try:
            return await self._idle
        finally:
            self._idle = None

    def jump(self, to: float) -> None:
        """Let the time pass."""
        self._now = max(self._now, to)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """As that of asyncio; time stands still meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self.busy_until(future)
        return future

    def check(self) -> None:
        """Raises Restless, once, if nobody has found it idle for too long."""
        if monotonic() > self._rested_at + PATIENCE:
            self._rested_at = monotonic()
            raise Restless

    def nothing_ready(self, timeout: float | None) -> float | None:
        """How long to wait for files and threads, when the next timer is `timeout` seconds off."""
        if self._busy:
            return _LOOK_AGAIN
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None if timeout is None else self._now + timeout)
            return 0.0
        if timeout is None:
            return _LOOK_AGAIN
        self._now += timeout
        return 0.0


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        self._loop.check()
        found = super().select(0)
        if found or (timeout is not None and timeout <= 0):
            return found
        return super().select(self._loop.nothing_ready(timeout))


def virtual_clock(loop: VirtualLoop, now: float) -> Clock:
    """The time of `loop`, which began at the Unix time `now`."""
    return Clock(
        time=lambda: now + loop.time(),
        monotonic=loop.time,
        sleep=asyncio.sleep,
    )
