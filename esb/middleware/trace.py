"""Counts and times what passes a route, and tells the logs its name and the message's id."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import perf_counter

import structlog

from esb.envelope import Envelope, Outcome
from esb.errors import Denied, EsbError, RouteFailure, Throttled, Transient
from esb.logs import ABOUT
from esb.metrics import DENIED, IN_FLIGHT, MESSAGES, SECONDS
from esb.step import Middleware, Step

log = structlog.get_logger("esb.trace")


Refused = Callable[[Envelope, str], None]
"""Is told of a message that its sender was refused, and why."""


def traced(route: str, *, waits: bool = True, refusal: Refused | None = None) -> Middleware:
    """The outermost layer of the route named `route`. waits: whether a caller is told of errors.
    refusal: is told of those who may not, and of those who asked too often.

    Nothing but an EsbError leaves it: what is a bug is logged with its traceback and becomes a
    RouteFailure that says no more than "internal error".
    """
    in_flight = IN_FLIGHT.labels(route)
    seconds = SECONDS.labels(route)
    outcomes = {outcome: MESSAGES.labels(route, outcome.value) for outcome in Outcome}
    refused, failed, broken, cancelled = (
        MESSAGES.labels(route, how) for how in ("refused", "failed", "broken", "cancelled")
    )
    # What is below the level of the logs is not even put together.
    told = log.bind()
    tell = told.debug if told.is_enabled_for(logging.DEBUG) else None

    def middleware(step: Step) -> Step:
        async def trace(envelope: Envelope) -> Envelope:
            ended = cancelled
            in_flight.value += 1
            about = ABOUT.set((route, envelope.id, envelope.traceparent))
            begun = perf_counter()
            try:
                result = await step(envelope)
                ended = outcomes[result.outcome]
                if tell is not None:
                    ms = round((perf_counter() - begun) * 1000, 1)
                    tell("message passed", outcome=result.outcome.value, ms=ms)
                return result
            except Throttled:
                ended = refused  # a line for each would be what whoever sends too many wants
                if refusal is not None:
                    refusal(envelope, "throttled")
                raise
            except EsbError as e:
                ended = failed if isinstance(e, Transient) else refused
                if isinstance(e, Denied):
                    DENIED.labels(route).value += 1
                    if refusal is not None and not e.step:  # else a far side denied it to the bus
                        refusal(envelope, "denied")
                    if waits and not e.step:  # `allow` said so: as with those who send too many
                        if tell is not None:
                            tell("message denied", error=e.detail)
                        raise
                log.warning("message failed", code=e.code, error=e.detail, step=e.step, **notes(e))
                raise
            except Exception as e:
                ended = broken
                raise internal_error(e) from e
            finally:
                seconds.add(perf_counter() - begun)
                ended.value += 1
                in_flight.value -= 1
                ABOUT.reset(about)

        return trace

    return middleware


def notes(error: Exception) -> dict[str, str]:
    """What was noted for operators alone (`EsbError.noted`), as a field of a log line."""
    found = error.notes if isinstance(error, EsbError) else ()
    return {"notes": "; ".join(found)} if found else {}


def internal_error(cause: Exception) -> RouteFailure:
    """What a bug is to the outside; its traceback goes to the log and nowhere else."""
    log.error("internal error", exc_info=cause)
    return RouteFailure("internal error")
