"""Delayer: hold a message back for a moment, within its run.

For example:

    delay: 500ms
"""

from __future__ import annotations

from typing import Final

from pydantic import Field

from esb.adapter import Build, Role
from esb.clock import moment
from esb.envelope import Envelope
from esb.errors import BadMessage, RouteFailure, TimedOut
from esb.options import Duration, Options
from esb.step import Step, asked

LONGEST: Final = 60.0
"""A message that waits longer would take up room in its source, and be cut off by a stop."""

INSTEAD: Final = "a queue keeps it on the disk meanwhile: send: {queue: {name: ..., delay: ...}}"


class DelayOptions(Options):
    """Either a time to wait, or a time to wait for."""

    __shorthand__ = "for"

    for_: Duration | None = Field(
        None, alias="for", description="How long to wait, up to a minute: `2s`."
    )
    until: str | None = Field(
        None,
        description="An expression that gives the time to wait for: ISO 8601 text, or seconds "
        "since 1970. One that is over is no wait; one more than a minute ahead is an error.",
    )


def make(options: DelayOptions, build: Build) -> Step:
    """The message goes on unchanged. Raises TimedOut, at once, if a caller would not wait so long,
    RouteFailure for a wait too long, and BadMessage for what is no time."""
    if (options.for_ is None) == (options.until is None):
        raise build.problem("a delay has either 'for' or 'until'", hint="delay: 2s")
    seconds = options.for_ or 0.0
    if seconds > LONGEST:
        build.problem("a delay within a run is at most a minute", "for", hint=INSTEAD)
    until = build.expression(options.until, "until") if options.until is not None else None
    clock = build.clock

    build.body("kept")

    def wait(envelope: Envelope) -> float:
        if until is None:
            return seconds
        try:
            ahead = moment(until(envelope)) - clock.time()
        except (ValueError, OverflowError) as e:
            raise BadMessage(f"what it is delayed until is no time: {e}") from e
        if ahead > LONGEST:
            raise RouteFailure(f"it would be delayed for {ahead:.0f} seconds").noted(INSTEAD)
        return max(0.0, ahead)

    async def delay(envelope: Envelope) -> Envelope:
        pause = await asked(wait, envelope)
        if envelope.deadline is not None and clock.monotonic() + pause >= envelope.deadline:
            raise TimedOut(f"a delay of {pause:g} seconds is longer than there is time left")
        await clock.sleep(pause)
        return envelope

    return delay


step = Role(DelayOptions, make)
