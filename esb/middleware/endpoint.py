"""What protects a far side from the bus, and the bus from a far side: around any endpoint of
`send` and `call`, whatever its adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, Final, TypeVar
from weakref import WeakSet

from pydantic import Field

from esb.adapter import RequestReply, Resource, Sink
from esb.clock import current
from esb.envelope import Envelope
from esb.errors import EsbError, OutcomeUnknown, Transient
from esb.metrics import ENDPOINT_CALLS, ENDPOINT_SECONDS, Gauge, Number
from esb.middleware.breaker import Breaker, BreakerOptions
from esb.middleware.limit import Bulkhead
from esb.options import Options
from esb.step import Watch, is_unwritten, written

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


Call = Callable[[Envelope], Coroutine[Any, Any, T]]
"""`send` of a Sink or `call` of a RequestReply."""


class Guard:
    """Counts and times the calls of one endpoint, and lets them pass or not.

    name: the route and the place in it, for metrics and people. check: what asks the far side now
    and then how it is; it lets nothing pass or not.
    """

    def __init__(
        self,
        name: str,
        adapter: str,
        *,
        bulkhead: Bulkhead | None = None,
        breaker: Breaker | None = None,
        check: Resource | None = None,
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.bulkhead = bulkhead
        self.breaker = breaker
        self.check = check
        self.in_flight = 0
        self.well = True  # whether the last message got an answer of some kind
        _GUARDS.add(self)

    def around(self, call: Call[T]) -> Call[T]:
        """`call` behind the guard: it also raises Overloaded if no turn came, and CircuitOpen if
        the far side is left alone."""
        guarded = self._counted(call)
        if self.breaker is not None:
            guarded = self._broken(guarded, self.breaker)
        if self.bulkhead is not None:
            guarded = self._in_turn(guarded, self.bulkhead)
        return guarded

    def _counted(self, call: Call[T]) -> Call[T]:
        """Innermost: what gets to the far side."""
        ok, cancelled, bug = map(self._outcome, ("ok", "cancelled", "broken"))
        seconds = ENDPOINT_SECONDS.labels(self.name)

        async def counted(envelope: Envelope) -> T:
            ended = cancelled
            self.in_flight += 1
            begun = perf_counter()
            try:
                result = await call(envelope)
                ended = ok
                self.well = True
                return result
            except EsbError as e:
                ended = self._outcome(e.code)
                self.well = not isinstance(e, Transient | OutcomeUnknown)
                raise
            except Exception:
                ended = bug
                raise
            finally:
                seconds.add(perf_counter() - begun)
                ended.value += 1
                self.in_flight -= 1

        return counted

    def _broken(self, call: Call[T], breaker: Breaker) -> Call[T]:
        async def watched(envelope: Envelope) -> T:
            if envelope.deadline is not None and envelope.deadline <= current.get().monotonic():
                return await call(envelope)  # that no time is left is not the far side's doing
            try:
                era = breaker.enter()
            except EsbError as e:
                self._outcome(e.code).value += 1
                raise
            error: BaseException | None = None
            try:
                return await call(envelope)
            except BaseException as e:
                error = e
                raise
            finally:
                breaker.leave(era, error)
                del error  # or the frame and the traceback would hold each other

        return watched

    def _in_turn(self, call: Call[T], bulkhead: Bulkhead) -> Call[T]:
        async def in_turn(envelope: Envelope) -> T:
            try:
                # Nobody is to wait for a turn to be told what is known already.
                if self.breaker is not None:
                    self.breaker.check()
                await bulkhead.enter(envelope)
            except (EsbError, asyncio.CancelledError) as e:
                how = e.code if isinstance(e, EsbError) else "cancelled"
                self._outcome(how).value += 1
                raise
            try:
                return await call(envelope)
            finally:
                bulkhead.leave()

        return in_turn

    def _outcome(self, how: str) -> Number:
        return ENDPOINT_CALLS.labels(self.name, how)

    def status(self) -> dict[str, Any]:
        """How it is, for those who run the bus."""
        told: dict[str, Any] = {
            "name": self.name,
            "adapter": self.adapter,
            "up": self.well,
            "in_flight": self.in_flight,
        }
        if self.bulkhead is not None:
            told |= {"concurrency": self.bulkhead.concurrency, "waiting": self.bulkhead.waiting}
        if self.breaker is not None:
            told |= {"circuit": self.breaker.state, "detail": self.breaker.health().detail}
            told["retry_after"] = round(self.breaker.retry_after, 1)
        if self.check is not None:
            health = self.check.health()
            told |= {"healthy": health.up, "health": health.detail}
        return told


class GuardedSink:
    """A Sink behind its guard. place: in its route, for `watch`."""

    def __init__(self, sink: Sink, guard: Guard, watch: Watch, place: str) -> None:
        self._send = guard.around(sink.send)
        self._watch = watch
        self._place = place

    def send(self, envelope: Envelope) -> Coroutine[Any, Any, Any]:
        """As the sink's own."""
        if is_unwritten(envelope.body):
            return self._written(envelope)
        if self._watch.observer is None:
            return self._send(envelope)
        return self._watch.step(self._place, self._taken, envelope)

    async def _written(self, envelope: Envelope) -> Any:
        await written(envelope.body)
        return await self.send(envelope)

    async def _taken(self, envelope: Envelope) -> Envelope:
        await self._send(envelope)
        return envelope


class GuardedCaller:
    """A RequestReply behind its guard. place: in its route, for `watch`."""

    def __init__(self, caller: RequestReply, guard: Guard, watch: Watch, place: str) -> None:
        self._call = guard.around(caller.call)
        self._watch = watch
        self._place = place

    def call(self, envelope: Envelope) -> Coroutine[Any, Any, Envelope]:
        """As the caller's own."""
        if self._watch.observer is None:
            return self._call(envelope)
        return self._watch.step(self._place, self._call, envelope)


# --- what is read from the guards when somebody asks ----------------------------------------------

_GUARDS: Final[WeakSet[Guard]] = WeakSet()
_LEVELS: Final = {"closed": 0, "half-open": 1, "open": 2}


def _in_flight() -> dict[tuple[str, ...], float]:
    # After a reload two guards may go by one name for a while.
    found: dict[tuple[str, ...], float] = {}
    for guard in list(_GUARDS):
        found[guard.name,] = found.get((guard.name,), 0) + guard.in_flight
    return found


def _circuits() -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for guard in list(_GUARDS):
        if guard.breaker is not None:
            level = _LEVELS[guard.breaker.state]
            found[guard.name,] = max(found.get((guard.name,), 0), level)
    return found


def _healthy() -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for guard in list(_GUARDS):
        if guard.check is not None:
            well = guard.check.health().up
            found[guard.name,] = min(found.get((guard.name,), 1), well)
    return found


def _up() -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for guard in list(_GUARDS):
        well = guard.well and (guard.breaker is None or guard.breaker.state != "open")
        found[guard.name,] = min(found.get((guard.name,), 1), well)
    return found


Gauge(
    "esb_endpoint_up",
    "Whether the last message to an endpoint got an answer, be it a refusal.",
    ("endpoint",),
    _up,
)
Gauge(
    "esb_endpoint_healthy",
    "What the last health checks of a far side found: 1 well, 0 ill.",
    ("endpoint",),
    _healthy,
)
Gauge("esb_endpoint_in_flight", "Messages at the far side now.", ("endpoint",), _in_flight)
Gauge(
    "esb_endpoint_circuit",
    "The circuit breaker: 0 closed, 1 half-open, 2 open.",
    ("endpoint",),
    _circuits,
)
