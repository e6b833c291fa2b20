"""Saga (Garcia-Molina and Salem, 1987; EIP: Process Manager): several things that are done together
or not at all, where no transaction spans them. Each has its compensation.

For example:

    saga:
      steps:
        - do: [{call: {http: https://hotel.example/bookings}}]
          undo: [{call: {http: https://hotel.example/cancellations}}]
        - do: [{call: {http: https://air.example/bookings}}]
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import Field

from esb.adapter import Build, Role
from esb.durable import Confirm, Release, Store, Unit, unit_on
from esb.envelope import Envelope, Outcome
from esb.errors import (
    BadReply,
    EsbError,
    InProgress,
    NotUndone,
    OutcomeUnknown,
    TimedOut,
)
from esb.middleware.retry import RetryOptions, retrying
from esb.options import Duration, Options, Range, RawSteps
from esb.step import Step
from esb.steps._scope import ERROR, facts, told

log = structlog.get_logger("esb.saga")

ASK_AGAIN: Final = 1.0

LAST: Final = 5.0
"""Seconds that there are for undoing when the run is ended from outside."""

PATIENCE: Final = RetryOptions(attempts=5, backoff=Range(first=0.2, longest=10))


class _NotNoted(Exception):
    """What is done could not be noted, because of its cause."""


_MAY_BE_DONE: Final = (OutcomeUnknown, TimedOut, BadReply, asyncio.CancelledError, _NotNoted)


class StageOptions(Options):
    name: str = Field("", description="For people and dead letters; its number if left out.")
    do: RawSteps = Field(
        description="What is done: one effect a stage. It gets what the stage before has left. If "
        "it fails, what its earlier steps did is not undone, only what earlier stages did."
    )
    undo: RawSteps = Field(
        default_factory=list,
        description="What makes up for it, given the message as `do` has left it; `error` says "
        "what failed later. Where it cannot be known whether something was done (no answer came "
        "in time), it is undone as well, given the message as `do` got it. It may run twice.",
    )


class SagaOptions(Options):
    """Stages that are done one after the other. If one fails, those done are undone, the last
    first, and the error goes on."""

    steps: list[StageOptions] = Field(min_length=1, description="The stages.")
    retry: RetryOptions = Field(
        PATIENCE,
        description="How often undoing is tried. A `retry` for what is done stands beside its "
        "steps: one on the route undoes everything and begins anew.",
    )
    keep: Duration = Field(
        7 * 86_400.0,
        description="How long it is remembered what is done of a saga that did not get to an end.",
    )


@dataclass(frozen=True)
class _Stage:
    name: str
    do: Step
    undo: Step


def make(options: SagaOptions, build: Build) -> Step:
    """The result of the last stage; a filtered message ends the saga without undoing anything.

    Each `do` is a transaction of its own: what it sends to the bus's own queues is there as soon as
    it is through, in one commit with the note that it is; each `undo` likewise. So a message that
    comes back after a crash, or from the dead letters, goes on where it was, and only the stage in
    which the process died runs twice. A caller's message does not come back after a crash: `accept:
    durable` or a queue before the saga is for what must not stay half done.

    Raises what failed, once all is undone; NotUndone that names what is not; InProgress while
    another run of the same message is in it.
    """
    stages = [
        _Stage(
            stage.name or str(i + 1),
            build.steps(stage.do, "steps", i, "do"),
            build.steps(stage.undo, "steps", i, "undo"),
        )
        for i, stage in enumerate(options.steps)
    ]
    for i, stage in enumerate(stages):
        if stage.name in [other.name for other in stages[:i]]:
            build.problem(f"two stages are called '{stage.name}'", "steps", i, "name")
    store = build.store
    clock = build.clock
    scope = f"saga:{build.route}/{build.where}"
    trying = retrying(options.retry, route=build.route, clock=clock)

    async def saga(envelope: Envelope) -> Envelope:
        run = unit_on(store)
        # In a loop, or where a sub-route is run twice, a message passes here more than once.
        what = f"{scope} {envelope.id}"
        number = 0 if run is None else run.times(what)
        log_ = _Log(store, scope, f"{envelope.id} {number}", clock.time() + options.keep)
        async with Unit(store) as turn:
            if (await turn.claim(scope, log_.name, log_.until)).state != "new":
                raise InProgress("the same message is in the saga", retry_after=ASK_AGAIN)
            result = await through(envelope, log_)
        if run is None:
            await store.commit(log_.forgotten(stages))
        else:
            # It is done, and stays done if the run is repeated because of what comes after it.
            run.add(*log_.forgotten(stages))
            run.did(what)
        return result

    async def through(envelope: Envelope, log_: _Log) -> Envelope:
        current = envelope
        done: list[tuple[_Stage, Envelope]] = []
        for stage in stages:
            try:
                after = await log_.do(stage, current)
            except (Exception, asyncio.CancelledError) as e:  # noqa: BLE001 - raised again
                if isinstance(e, _MAY_BE_DONE):
                    done.append((stage, current))
                cause = e.__cause__ if isinstance(e, _NotNoted) and e.__cause__ else e
                await undo(stage, done, cause, log_)
                raise cause from None
            current = after.replace(deadline=envelope.deadline, attempt=envelope.attempt)
            done.append((stage, current))
            if current.outcome in (Outcome.FILTERED, Outcome.DEAD):
                break
        return current

    async def undo(
        failed: _Stage,
        done: Sequence[tuple[_Stage, Envelope]],
        cause: BaseException,
        log_: _Log,
    ) -> None:
        """Undo what is done. Raises NotUndone that says what could not be."""
        cancelled = isinstance(cause, asyncio.CancelledError)
        # However little time the caller has left, this is done.
        deadline = clock.monotonic() + LAST if cancelled else None
        left = [stage.name for stage, _ in done]
        notes = []
        try:
            async with asyncio.timeout(LAST if cancelled else None):
                for stage, message in reversed(done):
                    message = told(message, ERROR, facts(cause))
                    message = message.replace(deadline=deadline, outcome=Outcome.MESSAGE)
                    try:
                        await trying(log_.undoing(stage))(message)
                        left.remove(stage.name)
                    except EsbError as e:
                        notes.append(f"{stage.name}: {e.code}: {e.detail}")
        except TimeoutError:
            notes.append("undoing took too long")
        if not left:
            if isinstance(cause, EsbError) and done:
                cause.noted(f"undone: {', '.join(stage.name for stage, _ in done)}")
            return
        names = ", ".join(left)
        log.error("a saga is left half done", message_id=log_.name, failed=failed.name, left=names,
                  notes=notes)  # fmt: skip
        if not cancelled:
            why = f"{cause.code}: {cause.detail}" if isinstance(cause, EsbError) else "a bug"
            raise NotUndone(
                f"the saga failed at '{failed.name}', and this could not be undone: {names}"
            ).noted(f"failed: {why}", *notes) from cause

    return saga


@dataclass(frozen=True)
class _Log:
    """What is noted of one message's way through a saga: which stages are done, with what they have
    left. A note is a claim in the store that is confirmed."""

    store: Store
    scope: str
    name: str
    until: float

    def _value(self, stage: _Stage) -> str:
        return f"{self.name} {stage.name}"

    async def do(self, stage: _Stage, envelope: Envelope) -> Envelope:
        """Do a stage, if it is not done yet."""
        value = self._value(stage)
        async with Unit(self.store) as unit:
            claim = await unit.claim(self.scope, value, self.until)
            if claim.state == "done" and claim.answer is not None:
                return claim.answer
            if claim.state == "busy":
                raise InProgress("the same message is in the saga", retry_after=ASK_AGAIN)
            result = await stage.do(envelope)
            try:
                unit.add(Confirm(self.scope, value, self.until, result))
                await unit.commit()
            except EsbError as e:
                raise _NotNoted from e
        return result

    def undoing(self, stage: _Stage) -> Step:
        """The step that undoes a stage, and takes its note away."""

        async def undo(envelope: Envelope) -> Envelope:
            async with Unit(self.store) as unit:
                result = await stage.undo(envelope)
                unit.add(*self.forgotten([stage]))
                await unit.commit()
                return result

        return undo

    def forgotten(self, stages: Sequence[_Stage]) -> list[Release]:
        """The changes after which nothing is known of these stages."""
        return [Release(self.scope, self._value(stage), done=True) for stage in stages]


step = Role(SagaOptions, make)
