"""A route: a source tied to its steps, with the middleware that every message passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import structlog
from pydantic import Field

from esb.adapter import Health, Sink, Source, Store
from esb.errors import EsbError
from esb.middleware.accept import accept_channel, accepting, run_accepted
from esb.middleware.dead_letter import dead_letters
from esb.middleware.limit import limited
from esb.middleware.retry import RetryOptions, park_channel, retrying, run_parked
from esb.middleware.timeout import timed
from esb.middleware.trace import traced
from esb.options import Duration, Options, RawSink, RawSource, RawSteps
from esb.step import Middleware, Step, wrap

log = structlog.get_logger("esb.route")

Worker = Callable[[], Awaitable[None]]


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

    workers: list[Worker] = []
    if parks:
        workers.append(lambda: run_parked(store(), name, whole))
    if not waits:
        # Also where replayed dead letters come in.
        workers.append(lambda: run_accepted(store(), name, whole))
    entry = accepting(route=name, store=store()) if durable else whole
    return Route(name, options, source, entry, workers, fingerprint)


async def _supervised(worker: Worker, route: str) -> None:
    """Run a worker until it is cancelled; one that breaks is reported and runs again."""
    while True:
        try:
            await worker()
        except Exception:
            log.exception("a worker broke and is started again", route=route)
        await asyncio.sleep(1)


class Route:
    """A source, what it hands its messages to, and the workers that run what was put aside."""

    def __init__(
        self,
        name: str,
        options: RouteOptions,
        source: Source,
        step: Step,
        workers: Sequence[Worker],
        fingerprint: str,
    ) -> None:
        self.name = name
        self.options = options
        self.source = source
        self.step = step
        self.fingerprint = fingerprint
        self._workers = workers
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers, then take messages."""
        self._tasks = [
            asyncio.ensure_future(_supervised(worker, self.name)) for worker in self._workers
        ]
        await self.source.start(self.step)

    async def stop(self, grace: float) -> None:
        """Stop taking, finish what is in flight within `grace` seconds, give back the rest."""
        try:
            await self.source.stop(grace)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks = []

    async def take_back(self, store: Store, key: int) -> None:
        """Run a stored message through the steps again. Raises EsbError if a caller waits for
        this route's answers: then nobody would get the answer."""
        if not self._workers:
            raise EsbError(f"callers of route '{self.name}' wait for its answers")
        await store.move(key, accept_channel(self.name))

    def health(self) -> Health:
        """Whether messages can arrive."""
        return self.source.health()


__all__ = ["Route", "RouteOptions", "StepPolicies", "accept_channel", "assemble", "park_channel"]
