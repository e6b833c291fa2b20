"""Message Expiration (EIP): what comes too late is of no use, and goes no further.

For example:

    expire: 10m
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from esb.adapter import Build, Role
from esb.clock import moment
from esb.envelope import Envelope, Outcome
from esb.errors import BadMessage, Expired
from esb.options import Duration, Options
from esb.step import Step, asked


class ExpireOptions(Options):
    """Either an age, or the time itself at which a message is too old."""

    __shorthand__ = "after"

    after: Duration | None = Field(
        None, description="The age at which a message is too old: `5m`. See `since`."
    )
    since: str = Field(
        "message.time",
        description="An expression that gives the time from which `after` counts: ISO 8601 text, "
        "or seconds since 1970. Left out, when the message came into being, as far as known.",
    )
    at: str | None = Field(
        None,
        description="An expression that gives the time at which it is too old; null means never.",
    )
    then: Literal["fail", "filter"] = Field(
        "fail",
        description="`fail`: the error `expired`, with which it goes to the dead letters where "
        "nobody waits. `filter`: it ends there, acknowledged and counted.",
    )


def make(options: ExpireOptions, build: Build) -> Step:
    """A message in time goes on unchanged. Raises Expired, or BadMessage for what is no time."""
    if (options.after is None) == (options.at is None):
        raise build.problem("a message expires either 'after' an age or 'at' a time")
    if options.at is not None and "since" in options.model_fields_set:
        build.problem("'since' belongs to 'after'", "since", key=True)
    age = options.after or 0.0
    time = (
        build.expression(options.since, "since")
        if options.at is None
        else build.expression(options.at, "at")
    )
    never = options.at is not None
    filters = options.then == "filter"
    clock = build.clock
    build.body("kept")

    async def expire(envelope: Envelope) -> Envelope:
        found = await asked(time, envelope)
        if found is None and never:
            return envelope
        try:
            end = moment(found) + age
        except (ValueError, OverflowError) as e:
            raise BadMessage(f"when the message expires is no time: {e}") from e
        if clock.time() < end:
            return envelope
        if filters:
            return envelope.replace(outcome=Outcome.FILTERED)
        raise Expired("the message is too old")

    return expire


step = Role(ExpireOptions, make)
