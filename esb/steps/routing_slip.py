"""Routing Slip (EIP): the message says which sub-routes it passes, and in which order.

For example:

    routing_slip: {slip: body.treatments, among: [wash, iron, fold]}
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope
from esb.errors import BadMessage, RouteFailure
from esb.options import Options
from esb.step import Step, asked, in_turn
from esb.steps._hops import STOPPED, hop, hops


class RoutingSlipOptions(Options):
    """Run the sub-routes that a message names, one after the other."""

    slip: str = Field(
        description="An expression that gives the list of names, `body.steps`; asked once, before "
        "the first of them runs."
    )
    among: list[str] = Field(description="The sub-routes that may be named.")
    most: int = Field(100, ge=1, le=10_000, description="How long the list may be.")


def make(options: RoutingSlipOptions, build: Build) -> Step:
    """Each gets the result of the one before; a filtered message goes no further.

    Raises BadMessage before anything runs if a name is not among those that may be named or the
    list is too long, RouteFailure if it is no list.
    """
    slip_of = build.expression(options.slip, "slip")
    routes = hops(options.among, build)

    async def routing_slip(envelope: Envelope) -> Envelope:
        slip = await asked(slip_of, envelope)
        if not isinstance(slip, list | tuple):
            raise RouteFailure(f"a routing slip is a list, '{options.slip}' gave something else")
        if len(slip) > options.most:
            raise BadMessage(f"the routing slip has {len(slip)} entries, {options.most} at most")
        for number, run in enumerate([hop(routes, name) for name in slip], start=1):
            with in_turn(number):
                envelope = await run(envelope)
            if envelope.outcome in STOPPED:
                break
        return envelope

    return routing_slip


step = Role(RoutingSlipOptions, make)
