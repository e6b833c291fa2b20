"""Idempotent Receiver (EIP): a message that was handled before ends here, acknowledged.

For example:

    skip_seen: body.number
"""

from __future__ import annotations

from decimal import Decimal

from pydantic import Field

from esb.adapter import Build, Role
from esb.durable import Confirm, unit_on
from esb.envelope import Envelope, Outcome
from esb.errors import BadMessage, InProgress, RouteFailure
from esb.options import Duration, Options
from esb.step import Step, asked

ASK_AGAIN = 1.0


class SkipSeenOptions(Options):
    """Let each message through once, told by a value that it has."""

    __shorthand__ = "by"

    by: str = Field(
        description="An expression: what two copies of a message have in common, and no two "
        "messages. A message that has nothing there is refused."
    )
    window: Duration = Field(86_400.0, description="How long what was handled is remembered.")
    scope: str = Field(
        "",
        description="Routes that name the same scope skip what one of them has handled; left out, "
        "each route remembers for itself.",
    )


def make(options: SkipSeenOptions, build: Build) -> Step:
    """That a message was handled is stored in one commit with what its run sends to the bus's own
    queues, and with the end of the message itself if it lies in the store. A run that fails leaves
    it unhandled. Raises InProgress while a copy is being handled, BadMessage without a value.
    """
    value_of = build.expression(options.by, "by")
    store, clock = build.store, build.clock
    scope = f"seen:{options.scope or build.route}"

    async def skip_seen(envelope: Envelope) -> Envelope:
        value = _text(await asked(value_of, envelope))
        unit = unit_on(store)
        if unit is None:
            raise RouteFailure("skip_seen is outside of every run")
        until = clock.time() + options.window
        claim = await unit.claim(scope, value, until, by=envelope.id)
        if claim.state == "done":
            return envelope.replace(outcome=Outcome.FILTERED)
        if claim.state == "busy":
            raise InProgress("the same message is being handled", retry_after=ASK_AGAIN)
        unit.add(Confirm(scope, value, until))
        return envelope

    return skip_seen


def _text(value: object) -> str:
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool) and value != "":
        return str(value)
    if value is None or value == "":
        raise BadMessage("the message has nothing that tells it from others")
    raise RouteFailure("what skip_seen goes by is a text or a number")


step = Role(SkipSeenOptions, make)
