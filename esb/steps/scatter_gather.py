"""Scatter-Gather (EIP): ask several at the same time, and go on with what they answered.

For example:

    scatter_gather:
      branches:
        north: [{call: {http: https://north.example/offers}}]
        south: [{call: {http: https://south.example/offers}}]
      timeout: 2s
      need: 1
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from esb.adapter import Build, Role
from esb.durable import part
from esb.envelope import Body, Envelope, Outcome
from esb.errors import EsbError, Unavailable
from esb.middleware.timeout import timed
from esb.options import Duration, Options, RawSteps
from esb.step import LARGE, Step, beside, weighed, weight
from esb.steps._parallel import copies, settle_all


class ScatterGatherOptions(Options):
    """Give a copy of the message to each of several branches at the same time; the new body is an
    object of what they made of it, by their names."""

    branches: dict[str, RawSteps] = Field(
        description="Name: what is done with that copy; it most often ends in a `call`."
    )
    timeout: Duration | None = Field(None, description="How long a branch may take.")
    need: int | None = Field(
        None,
        ge=0,
        description="So many must have answered, and those that failed are left out. Left out, "
        "none may fail.",
    )
    concurrency: int = Field(100, ge=1, le=100, description="How many branches run at a time.")


def make(options: ScatterGatherOptions, build: Build) -> Step:
    """Raises the first branch's error if one fails, or if fewer than `need` answered. What a branch
    that failed has sent to the bus's own queues is not sent. One that ended its copy (`filter`) is
    left out.
    """
    most = len(options.branches)
    if not most:
        raise build.problem("there is nobody to ask", hint="branches: {name: [...]}")
    if options.need is not None and options.need > most:
        build.problem(f"{options.need} cannot answer: there are {most} branches", "need")
    copy = copies(build)
    branches = [
        (name, _branch(build.steps(steps, "branches", name), options, build))
        for name, steps in options.branches.items()
    ]

    async def scatter_gather(envelope: Envelope) -> Envelope:
        jobs = [(steps, copy(envelope, name)) for name, steps in branches]
        results = await settle_all(jobs, options.concurrency)
        errors = [result for result in results if isinstance(result, EsbError)]
        bodies = {
            name: result.body
            for (name, _), result in zip(branches, results, strict=True)
            if not isinstance(result, EsbError) and result.outcome is not Outcome.FILTERED
        }
        total = sum(map(weight, bodies.values()))
        answers = await beside(_read, bodies) if total >= LARGE else _read(bodies)
        if options.need is None and errors:
            raise errors[0]
        if options.need is not None and len(answers) < options.need:
            why = f"{len(answers)} of {most} answered, and {options.need} are needed"
            raise errors[0].noted(why) if errors else Unavailable(why)
        return weighed(envelope.with_body(Body.of(answers)), total)

    return scatter_gather


def _read(bodies: Mapping[str, Body]) -> dict[str, Any]:
    return {name: body.data for name, body in bodies.items()}


def _branch(steps: Step, options: ScatterGatherOptions, build: Build) -> Step:
    async def alone(envelope: Envelope) -> Envelope:
        async with part():
            return await steps(envelope)

    if options.timeout is None:
        return alone
    return timed(options.timeout, clock=build.clock)(alone)


step = Role(ScatterGatherOptions, make)
