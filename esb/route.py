"""A route: a source tied to its steps, with the middleware that every message passes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

from pydantic import Field

from esb.adapter import Admitting, Expression, Health, Pausing, Repeating, Sink, Source
from esb.clock import REAL, Clock
from esb.consumer import Consumer
from esb.durable import Store
from esb.envelope import Envelope
from esb.errors import EsbError
from esb.gathering import Gathering
from esb.middleware.accept import accept_channel, accepted, accepting
from esb.middleware.authorize import Rules
from esb.middleware.business_key import keyed
from esb.middleware.cache import Cache, Caching
from esb.middleware.dead_letter import dead_letters
from esb.middleware.endpoint import EndpointPolicies
from esb.middleware.limit import Concurrency, limited
from esb.middleware.rate_limit import Limiter, RateLimits, limiting
from esb.middleware.repeat import once
from esb.middleware.retry import RetryOptions, parked, retrying
from esb.middleware.timeout import timed
from esb.middleware.trace import Refused, traced
from esb.middleware.transaction import transactional
from esb.options import Duration, Options, RawSink, RawSource, RawSteps
from esb.outline import Part
from esb.step import Middleware, Step, Watch, pipeline, wrap
from esb.tracing import Sampling


class StepPolicies(Options):
    """Policies that may stand beside the verb of any step."""

    retry: RetryOptions | None = Field(None, description="Try this step again when it fails.")
    timeout: Duration | None = Field(None, description="Longest time for this step.")
    cache: Caching | None = Field(
        None,
        description="Keep the answers of this `call`: `60s`, or with options. What it is called "
        "with is the key: path, query, body and who asks.",
    )


class _Path(Options):
    """Where messages come from, and what is done."""

    description: str = Field("", description="What the route is for.")
    from_: RawSource = Field(
        None,
        alias="from",
        description="Where messages come from: one adapter. A route without it is a sub-route: the "
        "step `run` of others calls it by its name, and of the policies only `retry`, `timeout`, "
        "`concurrency` and `endpoints` may stand beside its steps.",
    )
    steps: RawSteps = Field(default_factory=list, description="What is done, in this order.")


class RoutePolicies(Options):
    """Policies of routes. Those of a route itself come first, then those of its `policy`, then the
    `defaults` of its folder and of the folders above it; each is taken as a whole."""

    retry: RetryOptions | None = Field(
        None,
        description="Run the route again, from its first step, when it fails with an error that "
        "may pass. Beside a step it retries that step only. A route nobody waits for has "
        "`{attempts: 5, backoff: 1s..60s}` if this is left out; `{attempts: 1}` turns it off.",
    )
    timeout: Duration | None = Field(
        None,
        description="Longest time for a message in the route, all its tries and the waits between "
        "them included. An endpoint's `timeout` is for one try.",
    )
    dead_letter: RawSink | None = Field(
        None,
        description="Where a message goes that still fails: one adapter. A route nobody waits for "
        "uses the bus's own store if this is left out.",
    )
    allow: Rules | None = Field(
        None,
        description="Who may: `{roles: [clerk]}`, an expression, or a list of rules by method or "
        "operation, of which the first that is about a message decides. Others are told 403; what "
        "nobody waits for is a dead letter.",
    )
    rate_limit: RateLimits | None = Field(
        None,
        description="How often it may be asked: `100/1m`, or with options, or a list of them. Who "
        "asks more often is told 429; what nobody waits for waits.",
    )
    cache: Caching | None = Field(
        None,
        description="Keep good answers: `60s`, or with options. The steps run only for what is not "
        "known. Only where callers wait for the answer.",
    )
    concurrency: Concurrency | None = Field(
        None,
        description="How many messages may be in the steps at a time; others wait: a number, or "
        "with how many may wait.",
    )
    endpoints: EndpointPolicies | None = Field(
        None,
        description="For each endpoint of the steps that has none of its own, nor of its "
        "connection: `concurrency`, `circuit_breaker`.",
    )


class RouteOptions(RoutePolicies, _Path):
    """One route."""

    policy: str | None = Field(
        None, description="The name of the `policies` that it has, where it has none of its own."
    )
    accept: Literal["durable"] | None = Field(
        None,
        description="`durable`: store the message, answer 202 with its id, then run the steps.",
    )
    business_key: str | None = Field(
        None,
        description="An expression that gives the name people look the message up by, such as "
        "`body.order.number`. It stays with the message on its way through the bus, and what "
        "became of one that was in the store is remembered under it (`esb find`).",
    )
    trace: Sampling | None = Field(
        None,
        description="Of which of its messages a trace is kept, if not as the section `trace` says.",
    )


def step_policies(
    step: Step,
    policies: StepPolicies,
    route: str,
    store: Store | None = None,
    clock: Clock = REAL,
) -> Step:
    """A step with its own policies around it. store: what it may change."""
    layers: list[Middleware] = []
    if policies.retry is not None:
        layers.append(retrying(policies.retry, route=route, clock=clock))
    if policies.timeout is not None:
        layers.append(timed(policies.timeout, clock=clock))
    if store is not None and layers:
        layers.append(transactional(store))
    return wrap(step, *layers)


OF_CALLERS = ("retry", "timeout", "concurrency", "endpoints", "policy", "description", "steps")
"""What a sub-route may have; the rest is its callers' business."""


def subroute(
    name: str, options: RouteOptions, step: Step, store: Store | None = None, clock: Clock = REAL
) -> Step:
    """The steps of a sub-route with its policies around them. store: what they may change."""

    def named(step: Step) -> Step:
        async def run(envelope: Envelope) -> Envelope:
            try:
                return await step(envelope)
            except EsbError as e:
                e.step = f"{name}/{e.step}"
                raise

        return run

    layers: list[Middleware] = [named]
    if options.timeout is not None:
        layers.append(timed(options.timeout, clock=clock))
    if options.retry is not None:
        layers.append(retrying(options.retry, route=name, clock=clock))
    if options.concurrency is not None:
        layers.append(_limited(options.concurrency, name, clock))
    if store is not None and len(layers) > 1:
        layers.append(transactional(store))
    return wrap(step, *layers)


def _limited(options: Concurrency, route: str, clock: Clock) -> Middleware:
    return limited(options.limit, route=route, waiting=options.waiting, clock=clock)


class Called:
    """The source of a sub-route: messages come from the steps that run it."""

    waits = True
    where = "called by name"

    async def start(self, step: Step) -> None:
        """Nothing to start."""

    async def stop(self, grace: float) -> None:
        """Nothing to stop: what is in it is in flight in its callers."""

    def health(self) -> Health:
        """It is there."""
        return Health(True)


def assemble(
    name: str,
    options: RouteOptions,
    *,
    source: Source,
    step: Step,
    dead_sink: Sink | None,
    store: Callable[[], Store],
    changes_store: bool = False,
    business_key: Expression | None = None,
    outline: Part | None = None,
    watch: Watch | None = None,
    recorder: Middleware | None = None,
    allow: Middleware | None = None,
    limiter: Limiter | None = None,
    cache: Cache | None = None,
    spans: Middleware | None = None,
    refusal: Refused | None = None,
    clock: Clock = REAL,
) -> Route:
    """Put the middleware around a route's steps: the one place that says in which order.

    The outermost comes first. `accept: durable` parts the source from the rest: it answers as soon
    as the message is on the disk, and what is stored runs from there.

    allow: who may, compiled from the options. store: called only if the
    route needs one, which one whose callers wait mostly does not. changes_store: whether a step
    may send to it. business_key: compiled from the options. outline, watch: those that came of
    building the steps. recorder: the layer that may look on at whole runs. limiter, cache: compiled
    from the options. spans: the layer that makes spans for OpenTelemetry. refusal: is told whom the
    route refuses.
    """
    durable = options.accept == "durable"
    stopping = asyncio.Event()
    waits = source.waits and not durable
    retry = options.retry if waits else options.retry or RetryOptions()
    recorded = [layer for layer in (spans, recorder) if layer is not None]
    layers: list[Middleware] = [*recorded, traced(name, refusal=refusal)]
    entrance: list[Middleware] = [*recorded]
    if durable:
        entrance.append(traced(f"{name}.accept", waits=source.waits, refusal=refusal))
    if allow is not None:
        if durable:
            entrance.append(allow)  # what was accepted has been allowed
        elif waits:
            layers.append(allow)
    if limiter is not None:
        keeper = None if source.waits else store()
        throttle = limiting(
            limiter, route=name, waits=source.waits, store=keeper, stopping=stopping, clock=clock
        )
        if durable:
            entrance.append(throttle)  # what was accepted has been allowed
        elif waits:
            layers.append(throttle)
    if isinstance(source, Repeating) and source.repeats:
        (entrance if durable else layers).append(once)
    if cache is not None:
        layers.append(cache.around)
    if business_key is not None:
        layers.append(keyed(business_key, required=False))
        entrance.append(keyed(business_key))
    if dead_sink is not None or not waits:
        keep = None if waits else store()
        layers.append(
            dead_letters(route=name, sink=dead_sink, store=keep, waits=waits, clock=clock)
        )
    if allow is not None and not source.waits and not durable:
        layers.append(allow)  # who is denied is found among the dead letters
    if limiter is not None and not source.waits and not durable:
        layers.append(throttle)  # nothing is refused, and what cannot be counted is a dead letter
    if business_key is not None:
        layers.append(keyed(business_key))
    if options.timeout is not None:
        layers.append(timed(options.timeout, clock=clock))
    if retry is not None:
        # Who waits for an answer is better served by the next try than by one that is put off.
        kept, stops = (None, None) if waits else (store(), stopping)
        layers.append(retrying(retry, route=name, store=kept, stopping=stops, clock=clock))
    if options.concurrency is not None:
        layers.append(_limited(options.concurrency, name, clock))
    if changes_store:
        layers.append(transactional(store()))
    if isinstance(source, Admitting):
        step = pipeline([("from", source.admit), ("steps", step)])
    whole = wrap(step, *layers)
    if waits:
        return Route(name, options, [(source, whole)], stopping, outline, watch)
    entry = whole
    if durable:
        entry = wrap(accepting(route=name, store=store()), *entrance)
    at_once = options.concurrency.limit if options.concurrency else 10
    aside = [make(store(), name, concurrency=at_once, clock=clock) for make in (accepted, parked)]
    sources = [(source, entry), *((one, whole) for one in aside)]
    return Route(name, options, sources, stopping, outline, watch)


class Route:
    """Sources and what each hands its messages to.

    The first source is the one in YAML. A route nobody waits for has two more: what was accepted
    durably or is replayed from the dead letters, and what was parked between two tries.

    fingerprint: changes when the route does, or anything it is made from; filled in by the load.
    outline: its parts. watch: where somebody may look at its steps.
    """

    def __init__(
        self,
        name: str,
        options: RouteOptions,
        sources: Sequence[tuple[Source, Step]],
        stopping: asyncio.Event | None = None,
        outline: Part | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.name = name
        self.options = options
        self.fingerprint = ""
        self.outline = outline or Part("route", name)
        self.watch = watch or Watch(name)
        self._sources = sources
        self._stopping = stopping or asyncio.Event()  # for those inside who wait
        self.running = False
        self._begun = False
        self._ended = False
        self._turn = asyncio.Lock()

    @property
    def source(self) -> Source:
        """The source that YAML names."""
        return self._sources[0][0]

    @property
    def sources(self) -> Sequence[tuple[Source, Step]]:
        """All sources, the one in YAML first, and what each hands its messages to."""
        return self._sources

    @property
    def step(self) -> Step:
        """What that source hands its messages to."""
        return self._sources[0][1]

    async def start(self) -> None:
        """Take messages, what was put aside first. Nothing new for one that does so already, and
        not after `stop`."""
        async with self._turn:
            if self.running or self._ended:
                return
            self.running = self._begun = True
            self._stopping.clear()
            for source, step in reversed(self._sources):
                await source.start(step)

    async def pause(self, grace: float) -> None:
        """Stop until the next `start`: where callers come to a source, they are told to come back
        later. Also for one that was not started."""
        async with self._turn:
            running, self.running = self.running, False
            self._stopping.set()
            await _all(
                source.pause(grace) if isinstance(source, Pausing) else source.stop(grace)
                for source, _ in self._sources
                if running or isinstance(source, Pausing)
            )

    async def stop(self, grace: float) -> None:
        """Stop taking for good, finish what is in flight within `grace` seconds, give back the
        rest. A second call with less grace hurries the first."""
        self._ended, self.running = True, False
        self._stopping.set()
        await _all(
            source.stop(grace)
            for source, _ in self._sources
            if self._begun or isinstance(source, Pausing)
        )

    @property
    def channels(self) -> set[str]:
        """The channels of the store that it takes messages from."""
        return {source.channel for source, _ in self._sources if isinstance(source, Consumer)}

    @property
    def gathered(self) -> set[str]:
        """The channels of the store where messages wait for others before it takes them."""
        return {source.channel for source, _ in self._sources if isinstance(source, Gathering)}

    def way_back(self, *, grouped: bool = False) -> str:
        """The channel of the store by which dead letters come to run through it again; "" if
        callers wait for its answers, since nobody would get this one.

        Where order is kept, of a whole queue or of a message that is `grouped`, it is the queue
        that the route reads: there a message comes before those that were sent after it.
        """
        if isinstance(self.source, Consumer) and (grouped or self.source.in_order):
            return self.source.channel
        own = accept_channel(self.name)
        return own if own in self.channels else ""

    def health(self) -> Health:
        """Whether messages can arrive."""
        return self.source.health()


async def _all(stops: Iterable[Awaitable[None]]) -> None:
    for result in await asyncio.gather(*stops, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
