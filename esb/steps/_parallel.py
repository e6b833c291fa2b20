"""Running the copies and parts that a step makes of one message, in turn or side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from esb.adapter import Build
from esb.envelope import Envelope
from esb.errors import EsbError
from esb.step import Step, turns

Job = tuple[Step, Envelope]


Copy = Callable[[Envelope, str | int], Envelope]


def copies(build: Build) -> Copy:
    """What makes the copies for branches or parts, by their names, at one place of a route.

    The id of a copy is the message's with the name, and where a route makes copies at several
    places, or runs over one several times, with what tells these apart: the same each time the
    message runs. What it belongs to is its correlation id.
    """
    place = build.nth("copies")
    before = "" if place == 1 else f"{place}:"

    def copy(envelope: Envelope, name: str | int) -> Envelope:
        correlation = envelope.correlation_id or envelope.id
        ident = f"{envelope.id}.{turns()}{before}{name}"
        return envelope.replace(id=ident, correlation_id=correlation)

    return copy


async def run_all(jobs: Sequence[Job], concurrency: int) -> list[Envelope]:
    """The results in the order of the jobs. With a concurrency of 1 the first error ends it."""
    if concurrency == 1:
        return [await step(envelope) for step, envelope in jobs]
    results: list[Envelope] = []
    for result in await _all(jobs, concurrency):
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results


async def settle_all(jobs: Sequence[Job], concurrency: int) -> list[Envelope | EsbError]:
    """The result or the error of each. What is no EsbError is raised."""
    results: list[Envelope | EsbError] = []
    for result in await _all(jobs, concurrency):
        if isinstance(result, BaseException) and not isinstance(result, EsbError):
            raise result
        results.append(result)
    return results


async def _all(jobs: Sequence[Job], concurrency: int) -> list[Envelope | BaseException]:
    free = asyncio.Semaphore(concurrency)

    async def one(step: Step, envelope: Envelope) -> Envelope:
        async with free:
            return await step(envelope)

    # Each ends before an error is raised: none runs on unseen when the message runs again.
    return await asyncio.gather(*(one(*job) for job in jobs), return_exceptions=True)
