"""What cannot be delivered goes to the dead letters (EIP: Dead Letter Channel), never nowhere."""

from __future__ import annotations

import asyncio
import re
from contextlib import nullcontext
from datetime import UTC, datetime

import structlog

from esb.adapter import Sink
from esb.clock import REAL, Clock
from esb.durable import DEAD, Failure, Move, Put, Store, at_once, change, unit_on
from esb.envelope import Envelope, HeaderValue, Outcome
from esb.errors import BadMessage, Denied, EsbError, Permanent, Transient
from esb.metrics import DEAD_LETTERS
from esb.middleware.trace import internal_error, notes
from esb.step import Middleware, Step

log = structlog.get_logger("esb.dead_letter")

SINK_TIMEOUT = 30.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def dead_letters(
    *,
    route: str,
    sink: Sink | None = None,
    store: Store | None = None,
    waits: bool = False,
    sink_timeout: float = SINK_TIMEOUT,
    clock: Clock = REAL,
) -> Middleware:
    """Catch what still fails, and put the message as it came, with the reason, into `sink`.

    Without a sink, or when it does not take the message, it goes to the dead letters in `store`.
    If it cannot be put there either, Transient is raised: the source holds the message or gives it
    back, and never acknowledges it.

    waits: a caller waits for the answer. It gets the error in any case, and what is the caller's
        own mistake (BadMessage, Denied) is told to the caller alone. Else the outcome is DEAD.
    """

    async def bury(envelope: Envelope, error: EsbError) -> bool:
        when = datetime.fromtimestamp(clock.time(), UTC)
        attempts = max(error.attempts, envelope.attempt)
        failure = Failure.of(error, route, attempts, when)
        buried = await _send(envelope, failure) or await _store(envelope, failure)
        if buried:
            DEAD_LETTERS.labels(route, error.code).value += 1
            log.warning(
                "message went to the dead letters",
                message=envelope.id,
                code=error.code,
                error=error.detail,
                step=error.step,
                attempts=attempts,
                **notes(error),
            )
        return buried

    async def _send(envelope: Envelope, failure: Failure) -> bool:
        if sink is None:
            return False
        try:
            # The caller gets the error, so nobody commits what the run changed.
            with at_once() if waits else nullcontext():
                async with asyncio.timeout(sink_timeout):
                    await sink.send(_labelled(envelope, failure))
        except Exception as e:  # noqa: BLE001 - whatever the sink's trouble, the store is left
            log.warning(
                "the dead letter could not be sent",
                message=envelope.id,
                error=repr(e),
                **notes(e),
            )
            return False
        return True

    async def _store(envelope: Envelope, failure: Failure) -> bool:
        if store is None:
            return False
        unit = unit_on(store)
        if unit is not None and unit.taken is not None:
            # It lies in the store as it came, and goes there with the commit of its run.
            key, hold = unit.taken.key, unit.taken.hold
            unit.settle(Move(key, DEAD, attempts=failure.attempts, failure=failure, hold=hold))
            return True
        try:
            try:
                await change(store, _letter(envelope, failure))
            except Permanent as e:
                log.error(
                    "a dead letter is kept without headers", message=envelope.id, error=str(e)
                )
                await change(store, _letter(_bare(envelope), failure))
        except Exception as e:  # noqa: BLE001 - the source learns of it, and keeps the message
            log.error("the dead letter could not be stored", message=envelope.id, error=repr(e))
            return False
        return True

    def middleware(step: Step) -> Step:
        async def dead_letter(envelope: Envelope) -> Envelope:
            try:
                try:
                    return await step(envelope)
                except EsbError:
                    raise
                except Exception as e:  # whatever a step raises, its message is kept
                    raise internal_error(e) from e
            except EsbError as error:
                if waits and isinstance(error, BadMessage | Denied):
                    raise
                buried = await bury(envelope, error)
                if waits:
                    raise
                if not buried:
                    why = f"{error.detail}; and no dead letter could be written"
                    raise Transient(why) from error
                return envelope.replace(outcome=Outcome.DEAD)

        return dead_letter

    return middleware


def _letter(envelope: Envelope, failure: Failure) -> Put:
    return Put(DEAD, envelope, attempts=failure.attempts, failure=failure)


def _readable(text: str) -> str:
    return _CONTROL.sub(" ", text)[:500].encode(errors="backslashreplace").decode()


def _bare(envelope: Envelope) -> Envelope:
    """What can be stored of a message that as a whole cannot: its bytes, under its id."""
    ident = envelope.id.encode("ascii", "backslashreplace").decode()
    return Envelope(body=envelope.body, id=ident, time=envelope.time)


def _labelled(envelope: Envelope, failure: Failure) -> Envelope:
    labels: dict[str, HeaderValue] = {
        "x-esb-error-code": failure.code,
        "x-esb-error-detail": _readable(failure.detail),
        "x-esb-route": failure.route,
        "x-esb-step": failure.step,
        "x-esb-attempts": str(failure.attempts),
        "x-esb-time": failure.time.isoformat(),
        "x-esb-message-id": envelope.id,
    }
    return envelope.replace(
        headers=envelope.headers.replace(labels), outcome=Outcome.MESSAGE, deadline=None
    )
