"""What protects a far side from the bus, and the bus from a far side: around any endpoint of
`send` and `call`, whatever its adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakSet

from prometheus_client import Counter, Histogram
from prometheus_client.core import REGISTRY, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import Field

from esb.adapter import RequestReply, Sink
from esb.clock import current
from esb.envelope import Envelope
from esb.errors import EsbError
from esb.middleware.breaker import Breaker, BreakerOptions
from esb.middleware.limit import Bulkhead
from esb.middleware.metrics import ENDPOINT_CALLS, ENDPOINT_SECONDS
from esb.options import Options
from esb.step import Watch

T = TypeVar("T")


class EndpointPolicies(Options):
    """Options of any endpoint of `send` and `call`, whatever its adapter. On a connection they make
    one limit, and one circuit breaker, for all endpoints on it, in whatever route."""

    concurrency: int | None = Field(
        None,
        ge=1,
        description="How many messages may be at the far side at a time; others wait (a bulkhead). "
        "Where callers wait, ten times as many may; the next is told that it is overloaded.",
    )
    circuit_breaker: BreakerOptions | None = Field(
        None,
        description="Leave a far side alone that fails: messages then fail at once with "
        "`circuit-open`. A failure is an error that may pass or an unknown outcome; what refuses "
        "the message (a 4xx, a fault) is an answer. `{}` for the defaults.",
    )


class Guard:
    """Counts and times the calls of one endpoint, and lets them pass or not.

    name: the route and the place in it, for metrics and people.
    """

    def __init__(
        self,
        name: str,
        adapter: str,
        *,
        bulkhead: Bulkhead | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.bulkhead = bulkhead
        self.breaker = breaker
        self.in_flight = 0
        self._calls: dict[str, Counter] = {}  # looking a metric up takes longer than counting
        self._seconds: Histogram | None = None
        _GUARDS.add(self)

    async def __call__(self, call: Callable[[Envelope], Awaitable[T]], envelope: Envelope) -> T:
        """What `call` returns. Raises what it raises, Overloaded if no turn came and CircuitOpen if
        the far side is left alone."""
        outcome = "broken"
        begun = perf_counter()
        try:
            if self.bulkhead is None:
                result = await self._watched(call, envelope)
            else:
                # Nobody is to wait for a turn to be told what is known already.
                if self.breaker is not None:
                    self.breaker.check()
                await self.bulkhead.enter(envelope)
                try:
                    begun = perf_counter()
                    result = await self._watched(call, envelope)
                finally:
                    self.bulkhead.leave()
            outcome = "ok"
            return result
        except EsbError as e:
            outcome = e.code
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._count(outcome, perf_counter() - begun)

    def _count(self, outcome: str, seconds: float) -> None:
        calls = self._calls.get(outcome)
        if calls is None:
            calls = self._calls[outcome] = ENDPOINT_CALLS.labels(self.name, outcome)
        calls.inc()
        if outcome == "circuit-open":
            return
        if self._seconds is None:
            self._seconds = ENDPOINT_SECONDS.labels(self.name)
        self._seconds.observe(seconds)

    async def _watched(self, call: Callable[[Envelope], Awaitable[T]], envelope: Envelope) -> T:
        breaker = self.breaker
        if envelope.deadline is not None and envelope.deadline <= current.get().monotonic():
            breaker = None  # that no time is left is not the far side's doing
        era = breaker.enter() if breaker is not None else 0
        self.in_flight += 1
        error: BaseException | None = None
        try:
            return await call(envelope)
        except BaseException as e:
            error = e
            raise
        finally:
            self.in_flight -= 1
            if breaker is not None:
                breaker.leave(era, error)
            del error  # or the frame and the traceback would hold each other

    def status(self) -> dict[str, Any]:
        """How it is, for those who run the bus."""
        told: dict[str, Any] = {
            "name": self.name,
            "adapter": self.adapter,
            "in_flight": self.in_flight,
        }
        if self.bulkhead is not None:
            told |= {"concurrency": self.bulkhead.concurrency, "waiting": self.bulkhead.waiting}
        if self.breaker is not None:
            told |= {"circuit": self.breaker.state, "detail": self.breaker.health().detail}
            told["retry_after"] = round(self.breaker.retry_after, 1)
        return told


class GuardedSink:
    """A Sink behind its guard. place: in its route, for `watch`."""

    def __init__(self, sink: Sink, guard: Guard, watch: Watch, place: str) -> None:
        self._send = sink.send
        self._guard = guard
        self._watch = watch
        self._place = place

    async def send(self, envelope: Envelope) -> None:
        """As the sink's own."""
        if self._watch.observer is None:
            await self._guard(self._send, envelope)
        else:
            await self._watch.step(self._place, self._taken, envelope)

    async def _taken(self, envelope: Envelope) -> Envelope:
        await self._guard(self._send, envelope)
        return envelope


class GuardedCaller:
    """A RequestReply behind its guard. place: in its route, for `watch`."""

    def __init__(self, caller: RequestReply, guard: Guard, watch: Watch, place: str) -> None:
        self._call = caller.call
        self._guard = guard
        self._watch = watch
        self._place = place

    async def call(self, envelope: Envelope) -> Envelope:
        """As the caller's own."""
        if self._watch.observer is None:
            return await self._guard(self._call, envelope)
        return await self._watch.step(self._place, self._answered, envelope)

    async def _answered(self, envelope: Envelope) -> Envelope:
        return await self._guard(self._call, envelope)


# --- metrics that are looked up, so that calls need not keep them ---------------------------------

_GUARDS: WeakSet[Guard] = WeakSet()
_LEVELS = {"closed": 0, "half-open": 1, "open": 2}


class _Gauges(Collector):
    """Reads the guards that are in use when somebody asks."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauges of all endpoints. After a reload two guards may go by one name for a while."""
        in_flight: dict[str, int] = {}
        circuits: dict[str, int] = {}
        for guard in list(_GUARDS):
            name = guard.name
            in_flight[name] = in_flight.get(name, 0) + guard.in_flight
            if guard.breaker is not None:
                circuits[name] = max(circuits.get(name, 0), _LEVELS[guard.breaker.state])
        calls = GaugeMetricFamily(
            "esb_endpoint_in_flight", "Messages at the far side now.", labels=["endpoint"]
        )
        states = GaugeMetricFamily(
            "esb_endpoint_circuit",
            "The circuit breaker: 0 closed, 1 half-open, 2 open.",
            labels=["endpoint"],
        )
        for family, values in ((calls, in_flight), (states, circuits)):
            for name, value in values.items():
                family.add_metric([name], value)
            yield family


REGISTRY.register(_Gauges())
