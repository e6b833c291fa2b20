"""Handle errors where they happen: `try` steps, `catch` what they raise, `finally` tidy up.

The structured form of an Exception Handler around a part of a route (EIP calls what is left of it
the Invalid Message Channel and the Dead Letter Channel).

For example:

    try:
      steps: [{call: {http: https://stock.example/reservations}}]
      catch:
        - on: [transient]
          steps: [{send: {queue: later}}]
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import structlog
from pydantic import AfterValidator, Field, WithJsonSchema

from esb.adapter import Build, Expression, Role
from esb.durable import part
from esb.envelope import Envelope, Outcome
from esb.errors import KINDS, EsbError, one_of
from esb.options import Options, RawSteps, error_name, error_name_schema
from esb.step import Step
from esb.steps._scope import ERROR, facts, told, untold

log = structlog.get_logger("esb.try")

LAST: Final = 5.0
"""Seconds that `finally` has when the message's time is over, or its run is ended from outside."""

On = Annotated[Any, AfterValidator(error_name(KINDS)), WithJsonSchema(error_name_schema([*KINDS]))]


class Catch(Options):
    on: tuple[On, ...] = Field(
        (),
        description="Which errors, as with `retry`: `transient` means all that may pass, "
        "`permanent` all others, a number the HTTP status of an answer. Left out, every error.",
    )
    when: str | None = Field(
        None,
        description="An expression over the message and `error`; the branch is taken if it is "
        "true: `error.fault == 'PartnerNotFound'`.",
    )
    steps: RawSteps = Field(
        default_factory=list,
        description="What to do with the message as it came into `try`. They see `error.code`, "
        "`.detail`, `.step` (where), `.status` (null if it has none), `.attempts`, `.fault` (its "
        "name, null if it is no fault), `.data` (of a fault) and `.errors` (of an invalid body).",
    )
    rethrow: bool = Field(
        False, description="Whether the error goes on after these steps, as if it was not caught."
    )


class TryOptions(Options):
    """Steps, what to do about their errors, and what to do in any case."""

    steps: RawSteps = Field(description="What is tried.")
    catch: list[Catch] = Field(
        default_factory=list,
        description="The first branch that an error matches is taken, and its result is that of "
        "`try`. What no branch matches goes on as an error.",
    )
    finally_: RawSteps = Field(
        default_factory=list,
        alias="finally",
        description="Steps for the end, also if an error goes on or the run is cancelled; "
        "`error.code is defined` tells which it is. They change nothing of the message. An error "
        "there fails the message, unless one is on its way already, which then stays.",
    )


@dataclass(frozen=True)
class _Branch:
    on: Callable[[EsbError], bool]
    when: Expression | None
    steps: Step
    rethrow: bool


def make(options: TryOptions, build: Build) -> Step:
    """The result of the steps, or of the branch that caught their error.

    What steps that failed have sent to the bus's own queues is not sent (they are a part of the
    run's unit of work). The same goes for all that is sent on the way of an error that goes on in
    the end: `copy_to` is for what must remain. Raises what is not caught.
    """
    if not options.catch and not options.finally_:
        raise build.problem("nothing is caught", hint="catch: [...] or finally: [...]")
    tried = build.steps(options.steps, "steps")
    branches = [_branch(branch, build, i) for i, branch in enumerate(options.catch)]
    for i, branch in enumerate(options.catch[:-1]):
        if not branch.on and branch.when is None:
            build.problem("this catches every error: those below are never tried", "catch", i)
    last = build.steps(options.finally_, "finally")
    clock = build.clock
    route = build.route

    async def caught(envelope: Envelope) -> Envelope:
        try:
            async with part():
                return await tried(envelope)
        except EsbError as error:
            seen = told(envelope, ERROR, facts(error))
            try:
                for branch in branches:
                    if branch.on(error) and (branch.when is None or branch.when(seen)):
                        result = await branch.steps(seen)
                        if branch.rethrow:
                            break
                        return untold(result, envelope, ERROR)
            except EsbError as e:
                raise e.noted(f"in the handling of {error.code}: {error.detail}") from error
            raise

    async def ended(envelope: Envelope, cause: BaseException) -> None:
        """Do what is to be done finally, though the message fails."""
        cancelled = isinstance(cause, asyncio.CancelledError)
        limit, deadline = clock.monotonic() + LAST, envelope.deadline
        if cancelled:
            deadline = limit
        elif deadline is not None:
            deadline = max(deadline, limit)
        try:
            async with asyncio.timeout(LAST if cancelled else None):
                await last(told(envelope, ERROR, facts(cause)).replace(deadline=deadline))
        except (EsbError, TimeoutError) as e:
            why = e.detail if isinstance(e, EsbError) else "it took too long"
            log.warning("finally failed", route=route, message_id=envelope.id, error=why)
            if isinstance(cause, EsbError):
                cause.noted(f"finally failed, too: {why}")

    async def try_(envelope: Envelope) -> Envelope:
        try:
            result = await caught(envelope)
        except (Exception, asyncio.CancelledError) as e:
            await ended(envelope, e)
            raise
        # Also for a filtered message, and for all of the steps.
        await last(result.replace(outcome=Outcome.MESSAGE))
        return result

    return try_ if options.finally_ else caught


def _branch(options: Catch, build: Build, number: int) -> _Branch:
    at = ("catch", number)
    return _Branch(
        one_of(options.on) if options.on else lambda error: True,
        None if options.when is None else build.expression(options.when, *at, "when"),
        build.steps(options.steps, *at, "steps"),
        options.rethrow,
    )


step = Role(TryOptions, make)
