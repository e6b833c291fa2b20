"""What goes on in a running bus, as the admin API tells it: routes, endpoints, metrics, messages as
they pass. `Inside` looks into this process; of several, `esb.workers` asks each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Protocol

import msgspec
from pydantic import Field

from esb.bus import Bus
from esb.control import NotThere, Refused
from esb.envelope import Envelope
from esb.errors import EsbError
from esb.expressions import compile_expression
from esb.metrics import registry
from esb.middleware.cache import Cache
from esb.middleware.endpoint import Guard
from esb.options import Options, Size
from esb.recording import Recording
from esb.route import Called, Route
from esb.traces import Trace
from esb.tracing import Listener, Tracing

BEAT: Final = 5.0
"""Seconds after which an empty line shows that somebody is still there."""


class Look(Options):
    """What is to be seen of a route's messages."""

    where: str = Field("", description="An expression: those messages for which it is true.")
    key: str = Field("", description="Those with this id, business key or correlation id.")
    errors: bool = Field(False, description="Those that fail or end in the dead letters.")
    bodies: bool = Field(True, description="Whether bodies are shown.")
    max_body: Size = Field(4096, le=1024**2, description="So much of a body.")
    limit: int = Field(0, ge=0, description="So many messages, and then it ends; 0: for ever.")


class Take(Options):
    """How much of a route's traffic makes tests."""

    max_body: Size = Field(65536, le=1024**2, description="No message with a larger body.")
    limit: int = Field(0, ge=0, description="So many messages, and then it ends; 0: for ever.")


class View(Protocol):
    """What can be seen of a bus that runs, in one process or in several."""

    async def readyz(self) -> tuple[bool, dict[str, Any]]:
        """As `Bus.readyz`."""
        ...

    async def metrics(self) -> bytes:
        """What is counted, in the text format of Prometheus."""
        ...

    async def routes(self) -> list[dict[str, Any]]:
        """Every route: where it takes messages, whether it runs, and its health."""
        ...

    async def endpoints(self) -> list[dict[str, Any]]:
        """Every endpoint that routes send to or call, by name: see `Guard.status`."""
        ...

    async def purge(self, route: str = "") -> int:
        """Forget the answers that a route and its calls keep, or (with "") all do; how many there
        were. Raises NotThere, Unavailable."""
        ...

    def trace(self, route: str, look: Look) -> AsyncIterator[bytes]:
        """What each step of a route receives and returns: a line of JSON for each message, once it
        is through, with empty lines in between; the first says that from now on nothing is
        missed."""
        ...

    def recording(self, route: str, take: Take) -> AsyncIterator[bytes]:
        """Tests made of live traffic: lines as with `trace`."""
        ...


class Inside:
    """See View: of a bus in this process."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def readyz(self) -> tuple[bool, dict[str, Any]]:
        """See View."""
        return self._bus.readyz()

    async def metrics(self) -> bytes:
        """See View."""
        from prometheus_client import generate_latest

        return generate_latest(registry())

    async def routes(self) -> list[dict[str, Any]]:
        """See View."""
        return [self._route(route) for route in self._bus.routes.values()]

    def _route(self, route: Route) -> dict[str, Any]:
        health = route.health()
        stopped = route.name in self._bus.stopped
        state = "stopped" if stopped else "running" if health.up else "waiting"
        return {
            "name": route.name,
            "description": route.options.description,
            "takes": route.source.where,
            "state": state,
            "up": health.up and state == "running",
            "detail": health.detail if state == "waiting" else "",
        }

    async def endpoints(self) -> list[dict[str, Any]]:
        """See View."""
        found = [one for one in self._bus.shared.objects.values() if isinstance(one, Guard)]
        return [guard.status() for guard in sorted(found, key=lambda guard: guard.name)]

    async def purge(self, route: str = "") -> int:
        """See View."""
        if route and route not in self._bus.routes:
            raise NotThere(f"there is no route '{route}'")
        caches = [one for one in self._bus.shared.objects.values() if isinstance(one, Cache)]
        return sum([
            await one.purge()
            for one in caches
            if not route or one.name == route or one.name.startswith(f"{route}/")
        ])  # fmt: skip

    def trace(self, route: str, look: Look) -> AsyncIterator[bytes]:
        """See View."""
        wanted = wanted_by(look)
        listener = Listener(route, wanted=wanted, bodies=look.bodies, max_body=look.max_body)
        return _lines(self._tracing(), listener, look.limit)

    def recording(self, route: str, take: Take) -> AsyncIterator[bytes]:
        """See View."""
        outlines = {one.name: one.outline for one in self._bus.routes.values()}
        recorder = Recording(route, outlines, max_body=take.max_body)
        return _lines(self._tracing(), recorder, take.limit)

    def _tracing(self) -> Tracing:
        for one in self._bus.shared.objects.values():
            if isinstance(one, Tracing):
                return one
        raise NotThere("this bus has no routes")


def source_of(bus: Bus, name: str) -> Route:
    """A route that messages come in at. Raises NotThere, Refused."""
    if name not in bus.routes:
        raise NotThere(f"there is no route '{name}'")
    if isinstance(bus.routes[name].source, Called):
        raise Refused(f"'{name}' is a sub-route: its steps are shown in the routes that run it")
    return bus.routes[name]


def wanted_by(look: Look) -> Callable[[Trace, Envelope], bool]:
    """Which messages are shown. Raises ExpressionError for a `where` that is none."""
    where = compile_expression(look.where) if look.where else None

    def wanted(trace: Trace, envelope: Envelope) -> bool:
        names = (trace.id, trace.business_key, trace.correlation_id)
        if (look.key and look.key not in names) or (look.errors and not trace.failed):
            return False
        try:
            return where is None or bool(where(envelope))
        except EsbError:
            return False  # it has not even what is asked about

    return wanted


async def _lines(tracing: Tracing, listener: Listener, limit: int) -> AsyncIterator[bytes]:
    told = dropped = 0
    with tracing.listening(listener):
        yield b"\n"  # from now on nothing is missed
        while not limit or told < limit:
            try:
                async with asyncio.timeout(BEAT):
                    one = await listener.queue.get()
            except TimeoutError:
                yield b"\n"
                continue
            told += 1
            yield listener.line(one) + b"\n"
            if listener.dropped > dropped:
                dropped = listener.dropped
                yield msgspec.json.encode({"dropped": dropped}) + b"\n"
