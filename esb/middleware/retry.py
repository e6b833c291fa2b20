"""Tries again what may work later; short waits in process, long ones on the disk."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from random import random
from typing import Literal

import structlog
from pydantic import Field

from esb.clock import REAL, Clock
from esb.consumer import LONGEST_RETRY_AFTER, Consumer
from esb.durable import Failure, Move, Put, Store, unit_on
from esb.envelope import Envelope, Outcome
from esb.errors import EsbError, Overloaded, TimedOut, Transient, Unreachable
from esb.middleware.metrics import RETRIES
from esb.options import Backoff, Duration, Options, Range
from esb.step import Middleware, Step

log = structlog.get_logger("esb.retry")

_KINDS: dict[str, type[Transient]] = {
    kind.code: kind for kind in (Transient, Unreachable, TimedOut, Overloaded)
}


class RetryOptions(Options):
    """When and how often to try again. Only errors that may pass are: see `on`."""

    attempts: int = Field(5, ge=1, description="How often to try in all, the first time included.")
    backoff: Backoff = Field(
        Range(first=1, longest=60),
        description="How long to wait: doubled each time from the first value to the second, and "
        "then a random part of that. `Retry-After` of the far side is heeded if it is longer.",
    )
    on: tuple[Literal["transient", "unreachable", "timed-out", "overloaded"], ...] = Field(
        ("transient",), description="Which errors; transient means all of them."
    )
    park_after: Duration = Field(
        10.0,
        description="A longer wait is spent in the store, where it takes up no room in the source.",
    )
    retry_after_max: Duration = Field(
        LONGEST_RETRY_AFTER, description="The most that a far side's `Retry-After` is heeded."
    )


def park_channel(route: str) -> str:
    """Where a route's parked messages lie."""
    return f"park:{route}"


def retrying(
    options: RetryOptions,
    *,
    route: str,
    store: Store | None = None,
    clock: Clock = REAL,
    random: Callable[[], float] = random,
) -> Middleware:
    """Run what is inside again when it raised one of the errors in `options.on`.

    store: where to park messages that have long to wait. A parked message has the outcome
        ACCEPTED and comes back through `parked`, or from the channel of the store it came from; so
        the count goes on from `Envelope.attempt`. One that keeps others waiting behind it, in
        order, is not parked. None where a caller waits and around a single step: every message
        then counts from 1.

    A wait that would pass the deadline is not begun: the message is parked, or else the last error
    raised. The error that is raised in the end knows the number of attempts.
    """
    kinds = tuple(_KINDS[code] for code in options.on)
    in_process = RETRIES.labels(route, "in-process")
    on_disk = RETRIES.labels(route, "parked")

    async def park(envelope: Envelope, error: Transient, delay: float) -> Envelope | None:
        if store is None:
            return None
        now = clock.time()
        failure = Failure.of(error, route, error.attempts, datetime.fromtimestamp(now, UTC))
        unit = unit_on(store)
        if unit is not None and unit.in_order:
            return None
        try:
            if unit is None or unit.taken is None:
                await store.commit(
                    (Put(park_channel(route), envelope, now + delay, error.attempts, failure),)
                )
            else:
                # In its own channel it keeps its group waiting behind it.
                key, channel, hold = unit.taken.key, unit.taken.channel, unit.taken.hold
                unit.settle(Move(key, channel, now + delay, error.attempts, failure, hold=hold))
        except EsbError as e:
            log.warning("a message could not be parked", message=envelope.id, error=e.detail)
            return None
        on_disk.inc()
        log.info(
            "message parked",
            message=envelope.id,
            attempt=error.attempts,
            code=error.code,
            seconds=round(delay, 1),
        )
        return envelope.replace(outcome=Outcome.ACCEPTED)

    def middleware(step: Step) -> Step:
        async def retry(envelope: Envelope) -> Envelope:
            attempt = 1 if store is None else envelope.attempt
            current = envelope
            while True:
                try:
                    return await step(current)
                except EsbError as e:
                    e.attempts = attempt
                    if attempt >= options.attempts or not isinstance(e, kinds):
                        raise
                    asked = min(e.retry_after or 0.0, options.retry_after_max)
                    delay = max(options.backoff.delay(attempt, random), asked)
                    too_late = (
                        envelope.deadline is not None
                        and clock.monotonic() + delay >= envelope.deadline
                    )
                    if too_late or delay > options.park_after:
                        put_aside = await park(envelope, e, delay)
                        if put_aside is not None:
                            return put_aside
                    if too_late:
                        raise
                    log.debug("trying again", attempt=attempt, code=e.code, seconds=delay)
                await clock.sleep(delay)
                in_process.inc()
                attempt += 1
                if store is not None:
                    current = envelope.replace(attempt=attempt)

        return retry

    return middleware


def parked(store: Store, route: str, *, concurrency: int = 10, clock: Clock = REAL) -> Consumer:
    """The source of a route's parked messages that are due, also of a process that died since."""
    return Consumer(store, park_channel(route), route=route, concurrency=concurrency, clock=clock)
