"""Dynamic Router (EIP): after each sub-route, the message itself says which is next.

For example:

    dynamic_router:
      next: "'check' if body.checked is undefined else 'ship' if body.sent is undefined else none"
      among: [check, ship]
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope
from esb.errors import RouteFailure
from esb.options import Options
from esb.step import Step, asked, in_turn
from esb.steps._hops import STOPPED, hop, hops


class DynamicRouterOptions(Options):
    """Run one sub-route after the other until there is no next one."""

    next: str = Field(
        description="An expression that gives the name of the next sub-route; null or '' ends it. "
        "It is asked again after each, of what that one made of the message."
    )
    among: list[str] = Field(description="The sub-routes that may be named.")
    most: int = Field(
        100, ge=1, le=10_000, description="The bound: a message that goes further is an error."
    )


def make(options: DynamicRouterOptions, build: Build) -> Step:
    """The result of the last one; a filtered message goes no further.

    Raises BadMessage for a name that is not among those that may be named, RouteFailure if there is
    no end within `most` hops.
    """
    next_of = build.expression(options.next, "next")
    routes = hops(options.among, build)

    async def dynamic_router(envelope: Envelope) -> Envelope:
        for number in range(1, options.most + 1):
            name = await asked(next_of, envelope)
            if name is None or name == "":
                return envelope
            with in_turn(number):
                envelope = await hop(routes, name)(envelope)
            if envelope.outcome in STOPPED:
                return envelope
        if await asked(next_of, envelope):
            raise RouteFailure(f"the message found no end within {options.most} hops")
        return envelope

    return dynamic_router


step = Role(DynamicRouterOptions, make)
