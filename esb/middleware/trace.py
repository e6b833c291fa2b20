"""Counts and times what passes a route, and puts its name and the message's id into the logs."""

from __future__ import annotations

import asyncio
from time import perf_counter

import structlog
from structlog.contextvars import bind_contextvars, reset_contextvars

from esb.envelope import Envelope, Outcome
from esb.errors import EsbError, RouteFailure, Transient
from esb.middleware.metrics import IN_FLIGHT, MESSAGES, SECONDS
from esb.step import Middleware, Step

log = structlog.get_logger("esb.trace")


def traced(route: str) -> Middleware:
    """The outermost layer of the route named `route`.

    Nothing but an EsbError leaves it: what is a bug is logged with its traceback and becomes a
    RouteFailure that says no more than "internal error".
    """
    in_flight = IN_FLIGHT.labels(route)
    seconds = SECONDS.labels(route)
    outcomes = {outcome: MESSAGES.labels(route, outcome.value) for outcome in Outcome}
    refused, failed, broken, cancelled = (
        MESSAGES.labels(route, how) for how in ("refused", "failed", "broken", "cancelled")
    )

    def middleware(step: Step) -> Step:
        async def trace(envelope: Envelope) -> Envelope:
            begun = perf_counter()
            in_flight.inc()
            # `bound_contextvars` does the same and copies the whole context first.
            bound = bind_contextvars(route=route, message=envelope.id)
            try:
                result = await step(envelope)
                outcomes[result.outcome].inc()
                log.debug(
                    "message passed",
                    outcome=result.outcome.value,
                    ms=round((perf_counter() - begun) * 1000, 1),
                )
                return result
            except EsbError as e:
                (failed if isinstance(e, Transient) else refused).inc()
                log.warning("message failed", code=e.code, error=e.detail, step=e.step, **notes(e))
                raise
            except asyncio.CancelledError:
                cancelled.inc()
                raise
            except Exception as e:
                broken.inc()
                raise internal_error(e) from e
            finally:
                in_flight.dec()
                seconds.observe(perf_counter() - begun)
                reset_contextvars(**bound)

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
