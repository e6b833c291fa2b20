"""Tries again what may work later; short waits in process, long ones on the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from random import random
from typing import Annotated, Any, NamedTuple

import structlog
from pydantic import AfterValidator, Field, WithJsonSchema

from esb.clock import REAL, Clock
from esb.consumer import LONGEST_RETRY_AFTER, Consumer
from esb.durable import Failure, Move, Put, Store, change, unit_on
from esb.envelope import Envelope, Outcome
from esb.errors import (
    BadReply,
    CircuitOpen,
    EsbError,
    Fault,
    InProgress,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    TimedOut,
    Transient,
    Unavailable,
    Unreachable,
    one_of,
)
from esb.metrics import RETRIES
from esb.options import Backoff, Duration, Options, Range, error_name, error_name_schema
from esb.step import Middleware, Step

log = structlog.get_logger("esb.retry")

# Where a further try may help.
_KINDS = tuple(
    kind.code
    for kind in (
        *(Transient, Unreachable, CircuitOpen, InProgress, Unavailable, TimedOut, Overloaded),
        *(Rejected, Fault, BadReply, OutcomeUnknown),
    )
)

On = Annotated[Any, AfterValidator(error_name(_KINDS)), WithJsonSchema(error_name_schema(_KINDS))]


class RetryOptions(Options):
    """When and how often to try again. Only errors that may pass are, unless `on` says others."""

    attempts: int = Field(
        5,
        ge=1,
        description="How often to try in all, the first time included. That a circuit was open "
        "(`circuit_breaker`), or a copy of the message being handled (`skip_seen`), is no try: on "
        "a route nobody waits for, such a message waits until it can be tried.",
    )
    within: Duration | None = Field(
        None,
        description="The longest time from the first try to the last, also over restarts: what "
        "would be tried later is given up.",
    )
    backoff: Backoff = Field(
        Range(first=1, longest=60),
        description="How long to wait: doubled each time from the first value to the second, and "
        "then a random part of that. `Retry-After` of the far side is heeded if it is longer.",
    )
    on: tuple[On, ...] = Field(
        ("transient",),
        description="Which errors: transient means all that may pass, a number the HTTP status of "
        "an answer. `[transient, 409]` tries again what the far side refuses with 409, too. With "
        "outcome-unknown a message may do its work twice.",
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
    stopping: asyncio.Event | None = None,
    clock: Clock = REAL,
    random: Callable[[], float] = random,
) -> Middleware:
    """Run what is inside again when it raised one of the errors in `options.on`.

    store: where to park messages that have long to wait. A parked message has the outcome
        ACCEPTED and comes back through `parked`, or from the channel of the store it came from; so
        the count goes on from `Envelope.attempt`. One that keeps others waiting behind it, in
        order, is not parked. None where a caller waits and around a single step: every message
        then counts from 1.
    stopping: set when the route stops; who waits in process is then parked at once, or the run is
        cancelled, so that its source gives the message back.

    A wait that would pass the deadline is not begun: the message is parked, or else the last error
    raised. The error that is raised in the end knows the number of attempts.

    What a circuit breaker refused, or somebody else is at work on, was not tried. With a store that
    uses up no attempt, and only `within` ends the waiting; without, no more than `park_after` is
    waited at a time. A message that lies in the store anyhow is parked at once; any other waits in
    process for `park_after` first, or all that a broker has would move into the store while its far
    side is away.
    """
    wanted = one_of(options.on)
    in_process = RETRIES.labels(route, "in-process")
    on_disk = RETRIES.labels(route, "parked")

    def pause(error: EsbError, attempt: int, untried: bool) -> float:
        asked = (error.retry_after or 0.0) if isinstance(error, Transient) else 0.0
        if untried:
            # Not all at the moment it closes.
            return asked + options.backoff.delay(1, random)
        return max(options.backoff.delay(attempt, random), min(asked, options.retry_after_max))

    async def put_aside(envelope: Envelope, error: EsbError, due: float, since: float) -> bool:
        if store is None:
            return False
        failure = Failure.of(error, route, error.attempts, _date(clock.time()), _date(since))
        aside = Aside(due, error.attempts, failure)
        if not await park(store, route, envelope, aside, stopping):
            return False
        on_disk.value += 1
        log.info(
            "message parked",
            message=envelope.id,
            attempt=error.attempts,
            code=error.code,
            seconds=round(max(0.0, due - clock.time()), 1),
        )
        return True

    def middleware(step: Step) -> Step:
        async def retry(envelope: Envelope) -> Envelope:
            attempt = 1 if store is None else envelope.attempt
            since, patience = clock.time(), options.park_after
            failed = False
            current = envelope
            while True:
                try:
                    return await step(current)
                except EsbError as error:
                    if not failed:
                        failed = True
                        since = _first_tried(store, route) or since
                        patience = 0.0 if _lies_in(store) else patience
                    refused = isinstance(error, CircuitOpen | InProgress)
                    untried = refused and store is not None
                    error.attempts = attempt - untried
                    if not untried and (attempt >= options.attempts or not wanted(error)):
                        raise
                    delay = pause(error, attempt, untried)
                    if options.within is not None and clock.time() + delay > since + options.within:
                        raise
                    deadline = envelope.deadline
                    too_late = deadline is not None and clock.monotonic() + delay >= deadline
                    long = delay > options.park_after
                    if untried and long and not too_late and patience > 0:
                        delay, long = patience, False
                    patience -= delay
                    due = clock.time() + delay
                    if (too_late or long) and await put_aside(envelope, error, due, since):
                        return envelope.replace(outcome=Outcome.ACCEPTED)
                    if too_late or (long and refused and store is None):
                        raise
                    log.debug("trying again", attempt=attempt, code=error.code, seconds=delay)
                    if await stopped_within(delay, stopping, clock):
                        if await put_aside(envelope, error, due, since):
                            return envelope.replace(outcome=Outcome.ACCEPTED)
                        # As at the end of the grace time, which nothing is left to do in.
                        raise asyncio.CancelledError("given back: the route stops") from None
                in_process.value += 1
                attempt += not untried
                if store is not None:
                    current = envelope.replace(attempt=attempt)

        return retry

    return middleware


class Aside(NamedTuple):
    """For how long a message is put aside, how often it was tried, and what it failed with."""

    due: float
    attempts: int
    failure: Failure | None = None


async def stopped_within(seconds: float, stopping: asyncio.Event | None, clock: Clock) -> bool:
    """Let the time pass, or return that the route stops meanwhile."""
    if stopping is None:
        await clock.sleep(seconds)
        return False
    sleeping = asyncio.ensure_future(clock.sleep(seconds))
    stops = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((sleeping, stops), return_when=asyncio.FIRST_COMPLETED)
        return not sleeping.done()
    finally:
        sleeping.cancel()
        stops.cancel()


async def park(
    store: Store,
    route: str,
    envelope: Envelope,
    aside: Aside,
    stopping: asyncio.Event | None = None,
) -> bool:
    """Put a message of a route nobody waits for aside; it comes back through `parked`, or from the
    channel of the store that it lies in.

    False if it cannot be stored, or keeps its place in an order: then it is still in hand.
    stopping: set when the route stops; one that keeps its place is then the first after the start.
    """
    due, attempts, failure = aside
    unit = unit_on(store)
    if unit is not None and unit.in_order:
        if unit.taken is None or stopping is None or not stopping.is_set():
            return False
        due = 0.0
    try:
        if unit is None or unit.taken is None:
            await change(store, Put(park_channel(route), envelope, due, attempts, failure))
        else:
            # In its own channel it keeps its group waiting behind it.
            key, channel, hold = unit.taken.key, unit.taken.channel, unit.taken.hold
            unit.settle(Move(key, channel, due, attempts, failure, hold=hold))
    except EsbError as e:
        log.warning("a message could not be parked", message=envelope.id, error=e.detail)
        return False
    return True


def parked(store: Store, route: str, *, concurrency: int = 10, clock: Clock = REAL) -> Consumer:
    """The source of a route's parked messages that are due, also of a process that died since."""
    return Consumer(store, park_channel(route), route=route, concurrency=concurrency, clock=clock)


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _lies_in(store: Store | None) -> bool:
    """Whether the message of this run was taken from the store, and so lies there anyhow."""
    unit = unit_on(store)
    return unit is not None and unit.taken is not None


def _first_tried(store: Store | None, route: str) -> float | None:
    """When the route first tried the message of this run; None if it does so now."""
    unit = unit_on(store)
    failure = unit.taken.failure if unit is not None and unit.taken is not None else None
    if failure is None or failure.since is None or failure.route != route:
        return None
    return failure.since.timestamp()
