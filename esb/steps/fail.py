"""Refuse the message (EIP: Invalid Message Channel): raise an error with words of the route's own.

What becomes of it is up to who is around: `catch`, `retry`, the dead letters, a caller who waits.

For example:

    fail: "order {{ body.number }} has no lines"
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope
from esb.errors import BadMessage, Denied, EsbError, Overloaded, RouteFailure, Transient
from esb.options import Options
from esb.step import Step, asked

LONGEST: Final = 2000
_KINDS: Final[dict[str, type[EsbError]]] = {
    kind.code: kind for kind in (BadMessage, Denied, RouteFailure, Transient, Overloaded)
}


class FailOptions(Options):
    """Raise an error."""

    __shorthand__ = "message"

    message: str = Field(description="What is wrong, plain text with {{ }}. Senders see it.")
    as_: Literal["bad-message", "denied", "route-failure", "transient", "overloaded"] = Field(
        "bad-message",
        alias="as",
        description="The kind of error. The last two may pass, and are tried again by `retry`; "
        "the others are final.",
    )


def make(options: FailOptions, build: Build) -> Step:
    """Always raises: the error it is asked for, or RouteFailure if its text fails."""
    text = build.text(options.message, "message")
    kind = _KINDS[options.as_]

    build.body("kept")

    async def fail(envelope: Envelope) -> Envelope:
        raise kind((await asked(text, envelope))[:LONGEST])

    return fail


step = Role(FailOptions, make)
