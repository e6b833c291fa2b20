"""Splitter (EIP): run inner steps once for each part of the message.

With `gather` the results come back as one list in the order of the parts (EIP: Composed Message
Processor); without, the message goes on as it was.
"""

from __future__ import annotations

import asyncio
from typing import Any

from lxml import etree
from pydantic import Field

from esb.adapter import Build, Role
from esb.envelope import Body, Envelope, Outcome
from esb.errors import RouteFailure
from esb.options import Options, RawSteps
from esb.step import Step


class SplitOptions(Options):
    each: str = Field(description="An expression that gives the list of parts.")
    steps: RawSteps = Field(description="What to do with each part.")
    gather: bool = Field(False, description="Whether the results become the new body, a list.")
    concurrency: int = Field(1, ge=1, le=1000, description="How many parts run at a time.")


def make(options: SplitOptions, build: Build) -> Step:
    """A part that raises fails the whole message: none is lost, so all may run again.

    A part's id is the message's id with its number, the same each time the message runs.
    """
    each = build.expression(options.each, "each")
    steps = build.steps(options.steps, "steps")

    async def split(envelope: Envelope) -> Envelope:
        found = each(envelope)
        if not isinstance(found, list | tuple):
            raise RouteFailure(f"split needs a list, '{options.each}' gave something else")
        parts = [_part(envelope, i, data) for i, data in enumerate(found)]
        results = await _run(steps, parts, options.concurrency)
        if options.gather:
            kept = [r for r in results if r.outcome is not Outcome.FILTERED]
            return envelope.with_body(Body.of([r.body.data for r in kept]))
        if results and all(r.outcome is Outcome.ACCEPTED for r in results):
            return envelope.replace(outcome=Outcome.ACCEPTED)
        return envelope

    return split


def _part(envelope: Envelope, number: int, data: Any) -> Envelope:
    body = (
        Body.of(data, "application/xml")
        if isinstance(data, etree._Element)
        else Body.of(data, "application/json")
    )
    return envelope.replace(
        id=f"{envelope.id}.{number}",
        correlation_id=envelope.correlation_id or envelope.id,
        body=body,
    )


async def _run(steps: Step, parts: list[Envelope], concurrency: int) -> list[Envelope]:
    if concurrency == 1:
        return [await steps(part) for part in parts]
    free = asyncio.Semaphore(concurrency)

    async def one(part: Envelope) -> Envelope:
        async with free:
            return await steps(part)

    # Every part ends before an error is raised: none runs on unseen when the message runs again.
    done = await asyncio.gather(*(one(part) for part in parts), return_exceptions=True)
    results: list[Envelope] = []
    for result in done:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


step = Role(SplitOptions, make)
