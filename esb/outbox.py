"""What is written to sockets leaves together, a turn of the event loop later.

A loop under load takes what all connections sent, works on all of it, and would then write all
answers at once: while it works, whoever is at the other end has nothing to do and goes to sleep,
and to wake somebody costs a tenth of a message. What leaves a turn later leaves while the next
messages are worked on, so that both ends always have something to do.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Final

import structlog

log = structlog.get_logger("esb.outbox")

_LONGEST: Final = 0.001
"""Seconds after which nothing waits any longer: where messages take their time, a turn does."""


class Outbox:
    """Bytes for the transports of one event loop, in the order in which they are to leave.

    Whoever does anything else with a transport that may have something here (writes directly, ends
    or closes it) flushes before. What is aborted, or lost, gets nothing more.

    flushed: how often all of it has left.
    """

    __slots__ = ("_loop", "_since", "_waiting", "flushed")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.flushed = 0
        self._loop = loop
        self._since = 0.0
        self._waiting: list[tuple[asyncio.WriteTransport, bytes]] = []

    def put(self, transport: asyncio.WriteTransport, data: bytes) -> int:
        """Write `data` in the next turn of the loop. As long as `flushed` is what this returns, it
        has not left."""
        waiting, now = self._waiting, self.flushed
        waiting.append((transport, data))
        if len(waiting) == 1:
            self._since = perf_counter()
            self._loop.call_soon(self.flush)
        elif perf_counter() - self._since > _LONGEST:
            self.flush()
        return now

    def flush(self) -> None:
        """Write all there is now."""
        self.flushed += 1
        waiting, self._waiting = self._waiting, []
        for transport, data in waiting:
            if not transport.is_closing():
                try:
                    transport.write(data)
                except Exception:
                    # One that can no longer be written to is no reason to keep from the others.
                    log.exception("a connection could not be written to")
                    transport.abort()
