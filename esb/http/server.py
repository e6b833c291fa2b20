"""The connections of one address, from the first to the last."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from functools import partial
from typing import Any, Final

import structlog

from esb.deadlines import Deadlines
from esb.errors import EsbError
from esb.http.connection import BUFFER, Connection, Limits
from esb.http.exchange import Exchange, HungUp
from esb.outbox import Outbox

log = structlog.get_logger("esb.http")

_UNSENT: Final = (lowat, BUFFER) if (lowat := getattr(socket, "TCP_NOTSENT_LOWAT", 0)) else None
"""What the kernel may hold of answers that nobody reads: it takes megabytes of each if it can, and
when its memory for all of TCP is used up everybody waits."""

_DOORS: Final = 16
"""Handles on one listening socket: uvloop takes one connection a turn off each. With a thousand
callers a turn is long, and through one door the last of them came in after seconds."""

_CATCH_UP: Final = 0.2
"""Seconds at most in which connections that wait to be accepted still are, before a close."""

_LOOK: Final = 0.05
"""Seconds between two looks at whether all connections are closed."""

App = Callable[[Exchange], "Coroutine[Any, Any, None] | None"]
"""Answers an exchange at once, or returns what is still to be done for it: that runs as a task, and
goes on when the caller hangs up."""


class HttpServer:
    """Serves an app on one address, in the running event loop.

    connections: those that are open. running: what is being worked on. shared: whether an address
    is that of many callers, such as a proxy, which the limit for one does not hold for.
    """

    def __init__(
        self,
        app: App,
        limits: Limits,
        tls: ssl.SSLContext | None = None,
        shared: Callable[[str], bool] = lambda address: False,
    ) -> None:
        self.app = app
        self.limits = limits
        self.shared = shared
        self.neighbours: Counter[str] = Counter()  # connections by address, if that is limited
        self.connections: set[Connection] = set()
        self.running: set[Exchange] = set()
        self.served = 0
        self.leaving = False
        self.date = ""
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._unread: dict[Connection, int] = {}  # by when they stopped
        self._unread_size = 0
        self._tick: asyncio.TimerHandle | None = None

    async def open(self, host: str, port: int, sock: socket.socket | None = None) -> int:
        """Listen, on a free port if that is 0. sock: one that somebody bound already, to listen on
        instead, but not before `take`: others may do so. Returns the port. Raises EsbError when the
        address is taken or not ours."""
        loop = asyncio.get_running_loop()
        deadlines, outbox = Deadlines(loop), Outbox(loop)
        listen = partial(
            loop.create_server,
            lambda: Connection(self, loop, deadlines, outbox),
            ssl=self._tls,
            backlog=2048,
            start_serving=sock is None,
            ssl_handshake_timeout=self.limits.header_timeout if self._tls else None,
        )
        try:
            server = await (listen(host, port) if sock is None else listen(sock=sock))
        except (OSError, UnicodeError) as e:
            # uvloop's own text repeats the address, so the system's is taken.
            errno = e.errno if isinstance(e, OSError) else None
            reason = os.strerror(errno) if errno and errno > 0 else "no such address"
            raise EsbError(f"cannot listen on {host}:{port}: {reason.lower()}") from e
        self._servers = [server]
        for each in server.sockets:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                port = each.getsockname()[1]
                if _UNSENT is not None:
                    with socket.socket(fileno=os.dup(each.fileno())) as listening:
                        listening.setsockopt(socket.IPPROTO_TCP, *_UNSENT)
            for _ in range(_DOORS - 1):
                again = socket.socket(fileno=os.dup(each.fileno()))
                self._servers.append(await listen(sock=again))
        self._each_second()
        return port

    async def take(self) -> None:
        """From now on accept connections on the socket that was handed over."""
        for server in self._servers:
            await server.start_serving()

    def stuck(self, connection: Connection) -> None:
        """For the connections: a caller does not read what was written for him. If that is too
        much for all of them together, those who have not read for longest are given up."""
        size = connection.transport.get_write_buffer_size()
        self._unread[connection] = size
        self._unread_size += size
        while self._unread_size > self.limits.max_memory and len(self._unread) > 1:
            longest = next(iter(self._unread))
            self.moving(longest)
            longest.transport.abort()

    def moving(self, connection: Connection) -> None:
        """For the connections: it reads again, or is gone."""
        self._unread_size -= self._unread.pop(connection, 0)

    def _each_second(self) -> None:
        self.date = f"date: {formatdate(time.time(), usegmt=True)}\r\n"
        self._tick = asyncio.get_running_loop().call_later(1.0, self._each_second)

    async def run(self, exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
        """For the connections: what an app had still to do, and an answer whatever comes of it."""
        try:
            await work
        except HungUp:
            pass
        except Exception:
            log.exception("a request failed", path=exchange.path, method=exchange.method)
        finally:
            self.running.discard(exchange)
            exchange.task = None
            exchange.fail()

    async def close(self) -> None:
        """Stop listening, let answers under way be written, and close every connection."""
        if self._tick is not None:
            self._tick.cancel()
        if not self._servers:
            return
        await self._catch_up()
        self._stop_listening()
        await self._catch_up()
        for connection in list(self.connections):
            connection.shutdown()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=5.0)
        for task in self._tasks():
            task.cancel()
        for connection in list(self.connections):
            connection.abandon()

    async def leave(self, grace: float) -> None:
        """Stop listening at an address where somebody else goes on: each connection gets the
        answers that it waits for and one more, and is closed then. Returns when none is left, or
        after `grace` seconds."""
        self._stop_listening()
        self.leaving = True
        end = time.monotonic() + grace
        while self.connections and time.monotonic() < end:  # noqa: ASYNC110 - a rare event
            await asyncio.sleep(_LOOK)

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [one.task for one in self.running if one.task is not None]

    async def _catch_up(self) -> None:
        """Take what had arrived by now from the kernel, which would reset connections that it holds
        when their socket is closed. A turn of the loop may take no more than one of them."""
        quiet = 0
        end = time.monotonic() + _CATCH_UP
        while quiet < 3 and time.monotonic() < end:
            before = len(self.connections), self.served, len(self.running)
            await asyncio.sleep(0)
            after = len(self.connections), self.served, len(self.running)
            quiet = quiet + 1 if before == after else 0
