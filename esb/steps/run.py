"""Run a sub-route, a route without `from`, as if its steps stood here (EIP: Pipes and Filters).

For example:

    run: cleaned
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.options import Options
from esb.step import Step


class RunOptions(Options):
    """Run a sub-route by its name."""

    __shorthand__ = "route"

    route: str = Field(description="The route without `from` that is run.")


def make(options: RunOptions, build: Build) -> Step:
    """The result is that of the sub-route: also a filtered message ends the caller's. What it
    raises, and what it sends to the bus's own queues, is the caller's as well."""
    build.body("inside")
    return build.subroute(options.route, "route")


step = Role(RunOptions, make)
