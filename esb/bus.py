"""A running bus: opens what routes share, starts them, replaces them, drains them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import structlog

from esb.adapter import Health, Listener, Resource
from esb.durable import Store
from esb.errors import EsbError
from esb.route import Route

T = TypeVar("T")
log = structlog.get_logger("esb.bus")


class Shared:
    """What endpoints have in common, one object by key (see `Build.shared`).

    It outlives a reload: a load marks what it asks for, and what no load in use asked for is
    closed once the routes that used it have stopped.
    """

    def __init__(self) -> None:
        self.objects: dict[object, Any] = {}
        self._asked: set[object] = set()
        self._open: list[object] = []

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The object under `key`, made on first use."""
        self._asked.add(key)
        if key not in self.objects:
            self.objects[key] = make()
        found: T = self.objects[key]
        return found

    def begin(self) -> None:
        """A load begins: forget what the last one asked for."""
        self._asked = set()

    def roll_back(self) -> None:
        """The load failed: drop what only it made. Nothing of that is open yet."""
        self.objects = {key: self.objects[key] for key in self._open}

    async def open(self, prepare: Callable[[Any], None]) -> None:
        """Open the resources that are new, in the order they were made."""
        for key, thing in list(self.objects.items()):
            if key in self._open:
                continue
            prepare(thing)
            if isinstance(thing, Resource):
                await thing.open()
            self._open.append(key)

    async def close(self, *, unused_only: bool = False) -> None:
        """Close resources in reverse order."""
        for key in reversed(list(self._open)):
            if (unused_only and key in self._asked) or key not in self._open:
                continue  # the latter: somebody else closes it, while this one waited
            self._open.remove(key)
            thing = self.objects.pop(key)
            if isinstance(thing, Resource):
                await thing.close()

    def health(self) -> dict[str, Health]:
        """The health of each resource, by a name people can read."""
        return {
            _readable(key): thing.health()
            for key, thing in self.objects.items()
            if isinstance(thing, Resource)
        }


def _readable(key: object) -> str:
    # Later parts of a key may be addresses with credentials, so only the first is shown.
    return str(key[0]) if isinstance(key, tuple) else str(key)


class Bus:
    """Runs routes. `grace`: seconds that messages in flight get to finish in `stop`."""

    def __init__(self, routes: Iterable[Route], shared: Shared, *, grace: float = 25.0) -> None:
        self.routes = {route.name: route for route in routes}
        self._started: list[Route] = []  # also those that a reload is about to replace
        self.shared = shared
        self.grace = grace
        self.state = "new"
        self.started = 0.0

    async def start(self) -> None:
        """Open what is shared, then start every route. Raises EsbError if a listener cannot open;
        then everything is closed again."""
        self.state = "starting"
        try:
            await self.shared.open(self._prepare)
            await self._start(self.routes.values())
        except BaseException:
            await self.stop(grace=0)
            raise
        self.started = time.time()
        self.state = "running"
        self._serve()

    async def replace(self, routes: Iterable[Route]) -> dict[str, list[str]]:
        """Put new routes in the place of the old ones; messages in flight finish on the old ones.

        A route whose fingerprint did not change runs on untouched. Returns the names that were
        added, changed and removed. Raises EsbError if the bus does not run, or stops meanwhile.
        """
        new = {route.name: route for route in routes}
        old = self.routes
        kept = {n for n, r in new.items() if n in old and old[n].fingerprint == r.fingerprint}
        changes = {
            "added": sorted(new.keys() - old.keys()),
            "changed": sorted((new.keys() & old.keys()) - kept),
            "removed": sorted(old.keys() - new.keys()),
        }
        self._must_run()
        await self.shared.open(self._prepare)
        self._must_run()
        starting = [route for name, route in new.items() if name not in kept]
        leaving = [route for name, route in old.items() if name not in kept]
        # The new ones first, so that there is no moment at which nobody takes messages.
        await self._start(starting)
        self._serve()
        self.routes = {name: old[name] if name in kept else route for name, route in new.items()}
        await asyncio.gather(*(route.stop(self.grace) for route in leaving))
        self._started = [route for route in self._started if route not in leaving]
        await self.shared.close(unused_only=True)
        return changes

    def drain(self) -> None:
        """Tell callers to come back later, from now on; whatever has begun goes on."""
        self.state = "stopping"
        for listener in self._listeners():
            listener.drain()

    async def stop(self, grace: float | None = None) -> None:
        """Drain: stop taking, finish what is in flight within the grace time, give back the rest,
        close what is shared."""
        self.drain()
        grace = self.grace if grace is None else grace
        stopping = [route.stop(grace) for route in self._started]
        for result in await asyncio.gather(*stopping, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a route did not stop cleanly", exc_info=result)
        await self.shared.close()
        self.state = "stopped"

    def _must_run(self) -> None:
        if self.state != "running":
            raise EsbError(f"the bus is {self.state}")

    async def _start(self, routes: Iterable[Route]) -> None:
        routes = list(routes)
        self._started += routes
        await asyncio.gather(*(route.start() for route in routes))

    def healthz(self) -> tuple[bool, dict[str, Any]]:
        """Liveness: the process runs and its event loop turns."""
        return True, {"status": "ok"}

    def readyz(self) -> tuple[bool, dict[str, Any]]:
        """Readiness: started, not draining, and what the bus cannot work without is up.

        A far side that is away is shown and does not make the bus unready: the other routes work.
        """
        routes = {name: route.health() for name, route in self.routes.items()}
        waiting = {name: health.detail for name, health in routes.items() if not health.up}
        resources = self.shared.health()
        shared = {n: h.detail for n, h in resources.items() if not h.up}
        warnings = {n: h.detail for n, h in resources.items() if h.up and h.detail}
        ready = self.state == "running"
        status = self.state if not ready else ("degraded" if waiting or shared else "ok")
        details: dict[str, Any] = {"status": status, "routes": len(routes)}
        if waiting:
            details["waiting"] = waiting
        if shared:
            details["down"] = shared
        if warnings:
            details["warnings"] = warnings
        return ready, details

    @property
    def store(self) -> Store | None:
        """Where its messages lie; None if no route needs that."""
        for thing in self.shared.objects.values():
            if Store in type(thing).__mro__:
                store: Store = thing
                return store
        return None

    def _readyz_for_callers(self) -> tuple[bool, dict[str, Any]]:
        # Names of routes and addresses of far sides are for those who run the bus.
        ready, details = self.readyz()
        return ready, {"status": details["status"]}

    def _listeners(self) -> list[Listener]:
        return [thing for thing in self.shared.objects.values() if isinstance(thing, Listener)]

    def _serve(self) -> None:
        for listener in self._listeners():
            listener.serve()

    def _prepare(self, thing: Any) -> None:
        if isinstance(thing, Listener):
            thing.probes.update(healthz=self.healthz, readyz=self._readyz_for_callers)
