"""The process that has what there is only one of: the store, if it is a file, and the admin API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import structlog

from esb.bus import Bus, Shared
from esb.control import NotThere
from esb.durable import Store
from esb.errors import EsbError
from esb.inside import Look, Take, wanted_by
from esb.link import Handler, Link
from esb.logs import log
from esb.metrics import registry
from esb.route import Route
from esb.service import Service, run_loop
from esb.store import SqliteStore, open_store
from esb.store.remote import RemoteStore, StoreServer, serving_traces
from esb.store.traces import open_traces
from esb.tracing import Tracing
from esb.workers import summing
from esb.workers.supervisor import STOP
from esb.workers.worker import LOST

_ANSWER: Final = 5.0
"""Seconds in which a worker is to say how it is."""


def keep(
    service: Service, hub: socket.socket, supervisor: socket.socket, count: int, told: int
) -> None:
    """Run as the keeper of `count` workers, which connect to `hub`, until it is told to stop. told:
    where to say that it has started. Raises EsbError if it cannot start."""
    structlog.contextvars.bind_contextvars(process="keeper")
    run_loop(_Keeper(service, count).run(hub, supervisor, told))


class _Keeper:
    """Workers are known by their links, and to the admin API by this (`esb.inside.View`)."""

    def __init__(self, service: Service, count: int) -> None:
        self._service = service
        self._count = count
        self._shared = shared = service.shared
        settings, root = service.project.settings["store"], service.root
        for key, thing in shared.objects.items():
            if isinstance(thing, RemoteStore):
                shared.objects[key] = open_store(settings, root)
            elif isinstance(thing, Tracing):
                thing.store = open_traces(settings, root)
        shared.opens = lambda thing: Store in type(thing).__mro__ or isinstance(thing, Tracing)
        self._bus = _Picture(self, service.bus, shared)
        service.leads_others(self._bus, self)
        self._server: StoreServer | None = None
        self._up: set[Link] = set()
        self._counted: dict[Link, list[summing.Family]] = {}  # what each told last
        self._gone = summing.Sum()
        self._tasks: set[asyncio.Task[None]] = set()
        self._replaced: asyncio.Future[None] | None = None

    async def run(self, hub: socket.socket, supervisor: socket.socket, told: int) -> None:
        self._path = Path(hub.getsockname())
        reader, self._supervisor = await asyncio.open_connection(sock=supervisor)
        hearing = asyncio.create_task(self._listen(reader))
        hub.setblocking(False)
        listening = await asyncio.get_running_loop().create_unix_server(self._joined, sock=hub)

        async def up() -> None:
            os.write(told, b"up")

        try:
            await self._service.run((STOP,), (), up)
        finally:
            hearing.cancel()
            listening.close()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the supervisor

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):  # it may die before it has read what it was told
            while line := await reader.readline():
                said = json.loads(line)
                if "reload" in said:
                    self._bus.renew = said["reload"] == "SIGUSR2"
                    self._service.asked_to_reload(said["reload"])
                elif self._replaced is not None and not self._replaced.done():
                    if "failed" in said:
                        self._replaced.set_exception(EsbError(said["failed"]))
                    else:
                        self._replaced.set_result(None)
        log.error("the process that all others were made by is gone, so this one ends")
        with contextlib.suppress(OSError):  # nobody else is left to tidy up
            self._path.unlink()
            self._path.parent.rmdir()
        os._exit(LOST)

    async def replace_workers(self) -> None:
        """Have new workers in the place of those that there are, if any, and return when they are
        up. Raises EsbError if one does not start; then what there was goes on."""
        self._replaced = asyncio.get_running_loop().create_future()
        self._supervisor.write(b"replace\n")
        await self._replaced

    # --- workers

    def _joined(self) -> Link:
        link = Link({}, self._lost)
        link.handlers = self._handlers(link)
        return link

    def _handlers(self, link: Link) -> dict[str, Handler]:
        async def hello() -> list[str]:
            if isinstance(store := self._bus.store, SqliteStore):
                self._server = self._server or StoreServer(store)
                link.handlers = {**link.handlers, **self._server.joined(link)}
            for thing in self._shared.objects.values():
                if isinstance(thing, Tracing):
                    link.handlers = {**link.handlers, **serving_traces(thing.store)}
            return sorted(self._bus.stopped)

        async def up() -> list[str]:
            self._up.add(link)
            return sorted(self._bus.stopped)

        async def bye(counted: list[summing.Family]) -> None:
            self._up.discard(link)
            self._counted[link] = counted

        return {"hello": hello, "up": up, "bye": bye}

    def _lost(self, link: Link) -> None:
        self._up.discard(link)
        self._gone.add(self._counted.pop(link, ()), gone=True)
        if self._server is not None:
            self._do(self._server.left(link))

    async def all_do(self, name: str, *arguments: Any) -> list[Any]:
        """Have each worker do something; what each returns. Raises what any raises."""
        return await asyncio.gather(*(link.call(name, *arguments) for link in self._up))

    async def _ask(self, name: str) -> dict[Link, Any]:
        """What each worker says that answers in time."""
        calls = {link: link.call(name) for link in self._up}
        if calls:
            await asyncio.wait(calls.values(), timeout=_ANSWER)
        for call in calls.values():
            call.cancel()
        return {
            link: call.result()
            for link, call in calls.items()
            if not call.cancelled() and call.exception() is None
        }

    # --- see `esb.inside.View`

    async def readyz(self) -> tuple[bool, dict[str, Any]]:
        """See View. It is ready while any worker is."""
        ready, own = self._bus.readyz()
        told = [(bool(up), details) for up, details in (await self._ask("readyz")).values()]
        up = sum(is_up for is_up, _ in told)
        well = up == self._count and all(one["status"] == "ok" for _, one in (*told, (True, own)))
        details = summing.readiness([*told, (ready, own)])
        details["workers"] = {"up": up, "of": self._count}
        status = own["status"] if not ready else "ok" if well else "degraded"
        return ready and up > 0, {"status": status, **details}

    async def metrics(self) -> bytes:
        """See View. What workers counted that are gone stays counted."""
        from prometheus_client import generate_latest

        told = await self._ask("metrics")
        # Who is gone meanwhile is counted already.
        self._counted |= {link: one for link, one in told.items() if link in self._up}
        total = summing.Sum()
        total.add(summing.families(registry().collect()))
        total.add(self._gone.families())
        for counted in self._counted.values():
            total.add(counted)
        return generate_latest(total)

    async def routes(self) -> list[dict[str, Any]]:
        """See View."""
        return summing.routes(list((await self._ask("routes")).values()))

    async def endpoints(self) -> list[dict[str, Any]]:
        """See View."""
        return summing.endpoints(list((await self._ask("endpoints")).values()))

    async def purge(self, route: str = "") -> int:
        """See View."""
        if route and route not in self._bus.routes:
            raise NotThere(f"there is no route '{route}'")
        return sum(await self.all_do("purge", route))

    def trace(self, route: str, look: Look) -> AsyncIterator[bytes]:
        """See View."""
        wanted_by(look)  # raises what is wrong with it
        return self._lines("trace", route, look.model_dump(), look.limit)

    def recording(self, route: str, take: Take) -> AsyncIterator[bytes]:
        """See View."""
        return self._lines("recording", route, take.model_dump(), take.limit)

    async def _lines(
        self, name: str, route: str, how: dict[str, Any], limit: int
    ) -> AsyncIterator[bytes]:
        lines: asyncio.Queue[bytes | None] = asyncio.Queue(1000)
        begun = 0

        async def of(link: Link) -> None:
            with contextlib.suppress(EsbError):
                async for line in link.stream(name, route, how):
                    await lines.put(line)
            await lines.put(None)

        links = list(self._up)
        told, left = 0, len(links)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(of(link)) for link in links]
            try:
                while left and (not limit or told < limit):
                    line = await lines.get()
                    left -= line is None
                    if line == b"\n":
                        begun += 1
                    told += line not in (b"\n", None)
                    if line is not None and (line != b"\n" or begun >= len(links)):
                        yield line  # the first empty one when all look on
            finally:
                for task in tasks:
                    task.cancel()


class _Picture(Bus):
    """The bus that the workers run, as the keeper has it: with a store, and no route of it runs
    here. To start, replace, pause is to have the workers do so."""

    def __init__(self, keeper: _Keeper, of: Bus, shared: Shared) -> None:
        super().__init__(of.routes.values(), shared, grace=of.grace, stopped=of.stopped)
        self._keeper = keeper
        self._needed = True
        self.renew = False
        """Whether workers are to be replaced although nothing has changed."""

    async def replace(self, routes: Iterable[Route]) -> dict[str, list[str]]:
        """See Bus."""
        routes = list(routes)
        before = {name: route.fingerprint for name, route in self.routes.items()}
        self._needed = self.renew or before != {one.name: one.fingerprint for one in routes}
        self.renew = False
        return await super().replace(routes)

    async def stop_route(self, name: str) -> None:
        """See Bus."""
        async with self._changing:
            self._must_run()
            self.stopped.update(route.name for route in self._with_continuations(name))
        await self._keeper.all_do("stop_route", name)

    async def start_route(self, name: str) -> None:
        """See Bus."""
        async with self._changing:
            self._must_run()
            self.stopped -= {route.name for route in self._with_continuations(name)}
        await self._keeper.all_do("start_route", name)

    def waiting(self) -> dict[str, str]:
        """Only the workers know that."""
        return {}

    async def _start(self, routes: Iterable[Route]) -> None:
        if self._needed:
            await self._keeper.replace_workers()

    async def _stop(self, routes: Iterable[Route], grace: float) -> None:
        """The workers do that."""
