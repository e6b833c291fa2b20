"""A time limit for what is inside."""

from __future__ import annotations

from esb.clock import REAL, Clock
from esb.deadlines import TimeLimit
from esb.envelope import Envelope
from esb.errors import OutcomeUnknown
from esb.step import Middleware, Step

LEEWAY = 0.5


def timed(seconds: float, *, leeway: float = LEEWAY, clock: Clock = REAL) -> Middleware:
    """Give what is inside `seconds`, and never longer than the caller's own deadline.

    The limit is first of all told: `Envelope.deadline` is tightened, and whoever calls a far side
    heeds it and knows whether anything was sent, so it raises TimedOut or OutcomeUnknown itself.
    What still runs `leeway` seconds later is cancelled. Nobody then knows how far it came, so that
    is OutcomeUnknown and is not tried again. The deadline of the result is the caller's own.
    """

    def middleware(step: Step) -> Step:
        async def limit_time(envelope: Envelope) -> Envelope:
            limit = clock.monotonic() + seconds
            theirs = envelope.deadline
            if theirs is not None and theirs <= limit:
                return await step(envelope)
            try:
                with TimeLimit(seconds + leeway) as watch:
                    result = await step(envelope.replace(deadline=limit))
            except TimeoutError as e:
                if not watch.ran_out:
                    raise
                raise OutcomeUnknown(
                    f"not done after {seconds:g} seconds; how far it came is not known"
                ) from e
            return result.replace(deadline=theirs) if result.deadline == limit else result

        return limit_time

    return middleware
