"""One of the processes that run the routes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import structlog

from esb.adapter import Handed
from esb.inside import Inside, Look, Take
from esb.link import Line, Link
from esb.logs import log
from esb.metrics import registry
from esb.service import Service, run_loop
from esb.workers.summing import Family, families
from esb.workers.supervisor import LEAVE, STOP

_LEAVE_WITHIN: Final = 5.0
"""Seconds in which connections to a worker that leaves get their last answer."""

LOST: Final = 70
"""The exit status of who has lost the keeper."""


def work(
    service: Service,
    line: Line,
    sockets: Mapping[tuple[str, int], socket.socket],
    slot: int,
    told: int,
) -> None:
    """Run as worker number `slot`, which was forked with what is loaded, until it is told to stop.
    Raises EsbError if it cannot start. told: where to say that it has."""
    for thing in service.shared.objects.values():
        if isinstance(thing, Handed):
            thing.socket = sockets[thing.address]
    structlog.contextvars.bind_contextvars(process="worker", worker=slot)
    run_loop(_Worker(service, line, told).run())


class _Worker:
    def __init__(self, service: Service, line: Line, told: int) -> None:
        self._service = service
        self._bus = service.bus
        self._inside = Inside(service.bus)
        self._line = line
        self._told = told

    async def run(self) -> None:
        service = self._service
        link = await self._line.open(self._handlers(), _lost)
        self._bus.stopped = set(await link.call("hello")) & self._bus.routes.keys()
        asyncio.get_running_loop().add_signal_handler(LEAVE, self._leave)

        async def up() -> None:
            # What is stopped or started from here on is told to it; some it may have missed.
            stopped = set(await link.call("up")) & self._bus.routes.keys()
            for name in stopped - self._bus.stopped:
                await self._bus.stop_route(name)
            for name in self._bus.stopped - stopped:
                await self._bus.start_route(name)
            os.write(self._told, b"up")

        service.leads = False
        await service.run((STOP,), (), up)
        link.handlers = {}
        await link.call("bye", self._families())
        link.close()

    def _leave(self) -> None:
        """Another has this one's place, so callers are not to notice that it goes."""
        self._leaving = asyncio.create_task(self._go())

    async def _go(self) -> None:
        log.info("leaving, since another has taken over")
        things = self._service.shared.objects.values()
        handed = [thing for thing in things if isinstance(thing, Handed)]
        within = min(_LEAVE_WITHIN, self._bus.grace)
        await asyncio.gather(*(thing.leave(within) for thing in handed))
        self._service.stopping.set()

    # --- what the keeper asks

    def _handlers(self) -> dict[str, Any]:
        inside = self._inside

        async def metrics() -> list[Family]:
            return self._families()

        def trace(route: str, look: dict[str, Any]) -> AsyncIterator[bytes]:
            return inside.trace(route, Look(**look))

        def recording(route: str, take: dict[str, Any]) -> AsyncIterator[bytes]:
            return inside.recording(route, Take(**take))

        return {
            "readyz": inside.readyz,
            "routes": inside.routes,
            "endpoints": inside.endpoints,
            "metrics": metrics,
            "purge": inside.purge,
            "trace": trace,
            "recording": recording,
            "stop_route": self._bus.stop_route,
            "start_route": self._bus.start_route,
        }

    def _families(self) -> list[Family]:
        return families(registry().collect())


def _lost(link: Link) -> None:
    if link.handlers:
        # What it has in hand is given to others, so not one more step of it may be made.
        log.error("the process that keeps the messages is gone, so this one ends")
        os._exit(LOST)
