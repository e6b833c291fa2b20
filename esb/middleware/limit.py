"""A bulkhead: how many messages may be inside at a time."""

from __future__ import annotations

import asyncio

from esb.clock import REAL, Clock
from esb.envelope import Envelope
from esb.errors import Overloaded
from esb.step import Middleware, Step

WAITING_PER_SLOT = 10


def limited(
    concurrency: int, *, route: str, waiting: int | None = None, clock: Clock = REAL
) -> Middleware:
    """Let at most `concurrency` messages in; others wait for their turn.

    waiting: how many may wait (default: ten for each that is inside). One more raises Overloaded,
        as does a turn that does not come before the message's deadline. Messages that nobody
        waits for are bounded by their source and have no deadline: they always wait.
    """
    most = concurrency * WAITING_PER_SLOT if waiting is None else waiting

    def middleware(step: Step) -> Step:
        slots = asyncio.Semaphore(concurrency)
        queued = 0

        async def limit(envelope: Envelope) -> Envelope:
            nonlocal queued
            if not slots.locked():
                async with slots:
                    return await step(envelope)
            deadline = envelope.deadline
            if deadline is not None and queued >= most:
                raise Overloaded(f"{route} is busy and has no room to wait", retry_after=1)
            queued += 1
            try:
                left = None if deadline is None else max(0.0, deadline - clock.monotonic())
                async with asyncio.timeout(left):
                    await slots.acquire()
            except TimeoutError as e:
                raise Overloaded(f"{route} is busy: no turn came in time", retry_after=1) from e
            finally:
                queued -= 1
            try:
                return await step(envelope)
            finally:
                slots.release()

        return limit

    return middleware
