"""A route: a source tied to its steps, with the middleware that every message passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from esb.adapter import DEAD, Health, Sink, Source, Store
from esb.errors import EsbError
from esb.middleware.accept import accept_channel, accepted, accepting
from esb.middleware.dead_letter import dead_letters
from esb.middleware.limit import limited
from esb.middleware.retry import RetryOptions, park_channel, parked, retrying
from esb.middleware.timeout import timed
from esb.middleware.trace import traced
from esb.options import Duration, Options, RawSink, RawSource, RawSteps
from esb.step import Middleware, Step, wrap


class StepPolicies(Options):
    """Policies that may stand beside the verb of any step."""

    retry: RetryOptions | None = Field(None, description="Try this step again when it fails.")
    timeout: Duration | None = Field(None, description="Longest time for this step.")


class RouteOptions(Options):
    """One route."""

    description: str = Field("", description="What the route is for.")
    from_: RawSource = Field(alias="from", description="Where messages come from: one adapter.")
    steps: RawSteps = Field(default_factory=list, description="What is done, in this order.")
    retry: RetryOptions | None = Field(
        None,
        description="Run the route again, from its first step, when it fails with an error that "
        "may pass. Beside a step it retries that step only.",
    )
    timeout: Duration | None = Field(None, description="Longest time for one run of the steps.")
    dead_letter: RawSink | None = Field(
        None,
        description="Where a message goes that still fails: one adapter. A route nobody waits for "
        "uses the bus's own store if this is left out.",
    )
    concurrency: int | None = Field(
        None, ge=1, description="How many messages may be in the steps at a time; others wait."
    )
    accept: Literal["durable"] | None = Field(
        None,
        description="`durable`: store the message, answer 202 with its id, then run the steps.",
    )


def step_policies(step: Step, policies: StepPolicies, route: str) -> Step:
    """A step with its own policies around it."""
    layers: list[Middleware] = []
    if policies.retry is not None:
        layers.append(retrying(policies.retry, route=route))
    if policies.timeout is not None:
        layers.append(timed(policies.timeout))
    return wrap(step, *layers)


def assemble(
    name: str,
    options: RouteOptions,
    *,
    source: Source,
    step: Step,
    dead_sink: Sink | None,
    store: Callable[[], Store],
    fingerprint: str = "",
) -> Route:
    """Put the middleware around a route's steps: the one place that says in which order.

    The outermost comes first. `accept` parts the source from the rest: it answers as soon as the
    message is on the disk, and a worker runs what is below it.
    """
    durable = options.accept == "durable"
    waits = source.waits and not durable
    parks = options.retry is not None and not waits
    buries = dead_sink is not None or not waits
    layers: list[Middleware] = [traced(name)]
    if buries:
        layers.append(
            dead_letters(route=name, sink=dead_sink, store=None if waits else store(), waits=waits)
        )
    if options.retry is not None:
        layers.append(retrying(options.retry, route=name, store=store() if parks else None))
    if options.concurrency is not None:
        layers.append(limited(options.concurrency, route=name))
    if options.timeout is not None:
        layers.append(timed(options.timeout))
    whole = wrap(step, *layers)

    workers: list[Source] = []
    if parks:
        workers.append(parked(store(), name))
    if not waits:
        # Also where replayed dead letters come in.
        workers.append(accepted(store(), name))
    entry = accepting(route=name, store=store()) if durable else whole
    return Route(name, options, source, entry, whole, workers, fingerprint)


class Route:
    """A source, what it hands its messages to, and the workers that run what was put aside."""

    def __init__(
        self,
        name: str,
        options: RouteOptions,
        source: Source,
        step: Step,
        worker_step: Step,
        workers: Sequence[Source],
        fingerprint: str,
    ) -> None:
        self.name = name
        self.options = options
        self.source = source
        self.step = step
        self.fingerprint = fingerprint
        self._worker_step = worker_step
        self._workers = workers

    async def start(self) -> None:
        """Start the workers, then take messages."""
        for worker in self._workers:
            await worker.start(self._worker_step)
        await self.source.start(self.step)

    async def stop(self, grace: float) -> None:
        """Stop taking, finish what is in flight within `grace` seconds, give back the rest."""
        stopping = (one.stop(grace) for one in (self.source, *self._workers))
        for result in await asyncio.gather(*stopping, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def take_back(self, store: Store, key: int) -> None:
        """Run a dead letter through the steps again. Raises EsbError if there is none under `key`,
        or if a caller waits for this route's answers: then nobody would get the answer."""
        if not self._workers:
            raise EsbError(f"callers of route '{self.name}' wait for its answers")
        if not await store.move(key, accept_channel(self.name), lying_in=DEAD):
            raise EsbError(f"there is no dead letter {key}")

    def health(self) -> Health:
        """Whether messages can arrive."""
        return self.source.health()


__all__ = ["Route", "RouteOptions", "StepPolicies", "accept_channel", "assemble", "park_channel"]
