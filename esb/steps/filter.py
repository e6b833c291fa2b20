"""Message Filter (EIP): let through what matches; the rest ends here, acknowledged and counted.

For example:

    filter: body.total > 0
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope, Outcome
from esb.options import Options
from esb.step import Step, computed


class FilterOptions(Options):
    __shorthand__ = "when"

    when: str = Field(description="An expression; the message goes on if it is true.")


def make(options: FilterOptions, build: Build) -> Step:
    """A message that does not match gets the outcome FILTERED, which is no error."""
    when = build.expression(options.when, "when")

    build.body("kept")

    def filter_(envelope: Envelope) -> Envelope:
        return envelope if when(envelope) else envelope.replace(outcome=Outcome.FILTERED)

    return computed(filter_)


step = Role(FilterOptions, make)
