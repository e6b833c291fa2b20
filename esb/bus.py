"""A running bus: opens what routes share, starts them, replaces them, drains them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakSet

import structlog

from esb.adapter import Health, Listener, Resource
from esb.durable import Store
from esb.errors import EsbError
from esb.metrics import Gauge
from esb.route import Route

T = TypeVar("T")
log = structlog.get_logger("esb.bus")


class Shared:
    """What endpoints have in common, one object by key (see `Build.shared`).

    It outlives a reload: each load marks what it asks for. What the last good load did not ask for
    is closed once the routes that were made before it have stopped.

    opens: which of the resources are opened, where some are only there to be looked at.
    """

    def __init__(self) -> None:
        self.objects: dict[object, Any] = {}
        self.opens: Callable[[Any], bool] = lambda thing: True
        self._asked: set[object] = set()
        self._before: set[object] = set()
        self._loading = False
        self._when_run: dict[object, Callable[[], None]] = {}
        self._leases: list[set[object]] = []  # of loads whose routes have not all stopped
        self._open: list[object] = []

    def get(self, key: object, make: Callable[[], T]) -> T:
        """The object under `key`, made on first use."""
        self._asked.add(key)
        if key not in self.objects:
            self.objects[key] = make()
        found: T = self.objects[key]
        return found

    def once_running(self, key: object, act: Callable[[], None]) -> None:
        """See `Build.once_running`."""
        self._when_run[key] = act

    def begin(self) -> None:
        """A load begins. Nothing is closed until its routes run or it is rolled back: it may still
        ask for what nobody uses any more."""
        self._before, self._asked, self._loading = self._asked, set(), True
        self._when_run.clear()

    def roll_back(self) -> None:
        """The load failed: drop what only it made. Nothing of that is open yet."""
        self.objects = {key: self.objects[key] for key in self._open}
        self._asked, self._loading = self._before, False
        self._when_run.clear()

    def take_over(self) -> None:
        """What was loaded is what runs now."""
        acts, self._when_run = self._when_run, {}
        for act in acts.values():
            act()

    def lease(self) -> set[object]:
        """The routes of the load run. What those before them use stays open until `end`."""
        lease, self._before, self._loading = self._before, set(), False
        self._leases.append(lease)
        return lease

    async def end(self, lease: set[object]) -> None:
        """The routes of a lease have stopped: close what nobody uses any more."""
        self._leases = [one for one in self._leases if one is not lease]
        if not self._loading:
            await self._close(keep=self._asked.union(*self._leases))

    async def open(self, prepare: Callable[[Any], None]) -> None:
        """Open the resources that are new, in the order they were made."""
        for key, thing in list(self.objects.items()):
            if key in self._open:
                continue
            prepare(thing)
            if isinstance(thing, Resource) and self.opens(thing):
                await thing.open()
            self._open.append(key)

    async def close(self) -> None:
        """Close all resources, in reverse order."""
        await self._close(keep=set())

    async def _close(self, keep: set[object]) -> None:
        for key in reversed(list(self._open)):
            if key in keep or key not in self._open:
                continue  # the latter: somebody else closes it, while this one waited
            self._open.remove(key)
            thing = self.objects.pop(key)
            if isinstance(thing, Resource) and self.opens(thing):
                await thing.close()

    def health(self) -> dict[str, Health]:
        """The health of each resource, by a name people can read; of several that go by one name,
        that of one which does not work."""
        found: dict[str, Health] = {}
        for key, thing in self.objects.items():
            if isinstance(thing, Resource) and self.opens(thing):
                name, health = _readable(key), thing.health()
                if name not in found or found[name].up:
                    found[name] = health
        return found


def _readable(key: object) -> str:
    # Later parts of a key may be addresses with credentials, so only the first is shown.
    return str(key[0]) if isinstance(key, tuple) else str(key)


class Bus:
    """Runs routes.

    grace: seconds that messages in flight get to finish in `stop`. stopped: names of routes that
    do not run until somebody starts them. faults: what is wrong with what lies in the project's
    files, so that something older runs; filled in by who reloads.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        shared: Shared,
        *,
        grace: float = 25.0,
        stopped: Iterable[str] = (),
    ) -> None:
        self.routes = {route.name: route for route in routes}
        self._started: list[Route] = []  # also those that are on their way out
        self._leaving: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self.shared = shared
        self.grace = grace
        self.stopped = set(stopped) & self.routes.keys()
        self.faults: Sequence[str] = ()
        self.state = "new"
        self.started = 0.0
        _BUSES.add(self)

    async def start(self) -> None:
        """Open what is shared, then start every route. Raises EsbError if a listener cannot open;
        then everything is closed again."""
        self.state = "starting"
        try:
            self.shared.take_over()
            await self.shared.open(self._prepare)
            await self._start(self.routes.values())
        except BaseException:
            await self.stop(grace=0)
            raise
        self.started = time.time()
        self.state = "running"
        self._serve()

    async def replace(self, routes: Iterable[Route]) -> dict[str, list[str]]:
        """Put new routes in the place of the old ones: messages in flight finish on the old ones,
        in the background (see `settled`).

        A route whose fingerprint did not change runs on untouched. Returns the names that were
        added, changed and removed. Raises EsbError if the bus does not run, or stops meanwhile, or
        if a new one cannot start: then the old ones run on.
        """
        async with self._changing:
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
            try:
                await self._start(starting)
            except BaseException:
                await self._take_back(starting, leaving)
                raise
            self.shared.take_over()
            self._serve()
            self.routes = {n: old[n] if n in kept else route for n, route in new.items()}
            self.stopped &= self.routes.keys()
            task = asyncio.create_task(self._leave(leaving, self.shared.lease()))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            return changes

    async def settled(self) -> None:
        """Return when every message that is in a replaced route is through."""
        while self._leaving:
            await asyncio.wait(self._leaving)

    async def _leave(self, routes: list[Route], lease: set[object]) -> None:
        await self._stop(routes, self.grace)
        self._started = [route for route in self._started if route not in routes]
        await self.shared.end(lease)

    async def _take_back(self, starting: list[Route], leaving: list[Route]) -> None:
        """A new route could not start. What the new ones took over goes back to the old ones."""
        await self._stop(starting, 0)
        self._started = [route for route in self._started if route not in starting]
        for route in leaving:
            if route.running:
                await route.pause(self.grace)
                await route.start()

    async def stop_route(self, name: str) -> None:
        """Stop a route until `start_route`: it takes nothing more, and what is in it is finished
        within the grace time. It stays stopped when it is replaced. Raises KeyError for a name
        that no route has, EsbError if the bus does not run."""
        async with self._changing:
            self._must_run()
            routes = self._with_continuations(name)
            self.stopped.update(route.name for route in routes)
        # Not while it holds up others: this may take the whole grace time.
        await asyncio.gather(*(route.pause(self.grace) for route in routes))

    async def start_route(self, name: str) -> None:
        """Start a route that was stopped. Raises as `stop_route` does."""
        async with self._changing:
            self._must_run()
            routes = self._with_continuations(name)
            self.stopped.difference_update(route.name for route in routes)
        await asyncio.gather(*(route.start() for route in routes))

    def _with_continuations(self, name: str) -> list[Route]:
        return [self.routes[name], *(r for n, r in self.routes.items() if n.startswith(f"{name}/"))]

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
        await self._stop(self._started, grace)
        await self.settled()
        await self.shared.close()
        self.state = "stopped"

    def _must_run(self) -> None:
        if self.state != "running":
            raise EsbError(f"the bus is {self.state}")

    async def _start(self, routes: Iterable[Route]) -> None:
        routes = list(routes)
        self._started += routes
        starts = (r.pause(0) if r.name in self.stopped else r.start() for r in routes)
        await asyncio.gather(*starts)

    async def _stop(self, routes: Iterable[Route], grace: float) -> None:
        stopping = [route.stop(grace) for route in routes]
        for result in await asyncio.gather(*stopping, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("a route did not stop cleanly", exc_info=result)

    def startupz(self) -> tuple[bool, dict[str, Any]]:
        """Whether it has started: once it has, also while it stops."""
        return self.started > 0, {"status": "ok" if self.started else self.state}

    def healthz(self) -> tuple[bool, dict[str, Any]]:
        """Liveness: the process runs and its event loop turns."""
        return True, {"status": "ok"}

    def readyz(self) -> tuple[bool, dict[str, Any]]:
        """Readiness: started, not draining, and what the bus cannot work without is up.

        A far side that is away is shown and does not make the bus unready: the other routes work.
        """
        waiting = self.waiting()
        resources = self.shared.health()
        shared = {n: h.detail for n, h in resources.items() if not h.up}
        warnings = {n: h.detail for n, h in resources.items() if h.up and h.detail}
        ready = self.state == "running"
        degraded = waiting or shared or self.faults
        status = self.state if not ready else ("degraded" if degraded else "ok")
        details: dict[str, Any] = {"status": status, "routes": len(self.routes)}
        if self.faults:
            details["not_loaded"] = list(self.faults)
        if self.stopped:
            details["stopped"] = sorted(self.stopped)
        if waiting:
            details["waiting"] = waiting
        if shared:
            details["down"] = shared
        if warnings:
            details["warnings"] = warnings
        return ready, details

    def waiting(self) -> dict[str, str]:
        """Routes that are to run and cannot take messages, and why."""
        running = {n: route for n, route in self.routes.items() if n not in self.stopped}
        routes = {name: route.health() for name, route in running.items()}
        return {name: health.detail for name, health in routes.items() if not health.up}

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
            thing.probes.update(
                healthz=self.healthz, readyz=self._readyz_for_callers, startupz=self.startupz
            )


# --- what is read when somebody asks --------------------------------------------------------------

_BUSES: Final[WeakSet[Bus]] = WeakSet()


def _routes_up() -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for bus in list(_BUSES):
        if bus.state == "running":
            away = bus.waiting().keys() | bus.stopped
            found |= {(name,): name not in away for name in bus.routes}
    return found


def _resources_up() -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for bus in list(_BUSES):
        if bus.state == "running":
            for name, health in bus.shared.health().items():
                found[name,] = min(found.get((name,), 1), health.up)
    return found


Gauge(
    "esb_route_up",
    "Whether a route takes messages; 0 where it waits for something, or is stopped.",
    ("route",),
    _routes_up,
)
Gauge(
    "esb_resource_up",
    "Whether something works that routes share: the store, a broker, a listener.",
    ("resource",),
    _resources_up,
)
