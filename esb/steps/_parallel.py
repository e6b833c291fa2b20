"""Running the copies and parts that a step makes of one message, in turn or side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from esb.envelope import Envelope
from esb.errors import EsbError
from esb.step import Step, turns

Job = tuple[Step, Envelope]


def copy(envelope: Envelope, name: str | int) -> Envelope:
    """A copy for a branch or part. Its id is the message's with the name, and the turn of a loop,
    the same each time the message runs; what it belongs to is its correlation id."""
    correlation = envelope.correlation_id or envelope.id
    return envelope.replace(id=f"{envelope.id}.{turns()}{name}", correlation_id=correlation)


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
