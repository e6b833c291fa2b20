"""Recipient List of steps (EIP): copies of one message go several ways.

For example:

    multicast:
      branches:
        books: [{send: {queue: invoices}}]
        stock: [{send: {queue: parcels}}]
"""

from __future__ import annotations

from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Envelope, Outcome
from esb.options import Options, RawSteps
from esb.step import Step
from esb.steps._parallel import copies, run_all


class MulticastOptions(Options):
    """Give a copy of the message to each of several branches."""

    branches: dict[str, RawSteps] = Field(description="Name: what is done with that copy.")
    concurrency: int = Field(
        1,
        ge=1,
        le=100,
        description="How many branches run at a time. One after the other, the first that fails "
        "keeps those behind it from running.",
    )


def make(options: MulticastOptions, build: Build) -> Step:
    """The message goes on as it was; a branch that raises fails it, so that all may run again. A
    branch may end its own copy (`filter`) and nothing else. Where all other copies were accepted by
    somebody, so is the message.
    """
    if not options.branches:
        raise build.problem("multicast needs at least one branch", hint="branches: {name: [...]}")
    copy = copies(build)
    branches = [
        (name, build.steps(steps, "branches", name)) for name, steps in options.branches.items()
    ]

    async def multicast(envelope: Envelope) -> Envelope:
        jobs = [(steps, copy(envelope, name)) for name, steps in branches]
        results = await run_all(jobs, options.concurrency)
        kept = [result for result in results if result.outcome is not Outcome.FILTERED]
        if kept and all(result.outcome is Outcome.ACCEPTED for result in kept):
            return envelope.replace(outcome=Outcome.ACCEPTED)
        return envelope

    return multicast


step = Role(MulticastOptions, make)
