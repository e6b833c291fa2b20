"""The HTTP/1.1 server below every listener: a protocol on httptools, closed where that is open.

The parser (llhttp, without leniencies) takes two Host headers or none, targets with a fragment,
codings it does not know, headers without end in number and size, trailers as headers, and waits
for ever for a slow head or body. Whatever this file refuses is answered with problem+json where an
answer is still possible, and the connection is closed:

    400  ambiguous or malformed framing, Host, target or header (RFC 9112, sections 3, 5, 6)
    408  a head or a body that does not arrive in time
    414, 431  a target, or headers, over their limit
    417, 501, 505  an expectation, a method or a version that is not spoken here

A request is an `Exchange`, handed to the app when all of it is here, or else after what was read
at a time. There is no interface of a gateway in between: a scope, two channels, an event and a task
for each request cost as much as all that this file does.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import copy_context
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import httptools
import msgspec
import structlog

from esb.deadlines import Deadlines
from esb.envelope import Headers
from esb.errors import EsbError
from esb.identity import network_of
from esb.outbox import Outbox

log = structlog.get_logger("esb.http")

_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)([^#]*)\Z", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
UNSAFE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""What no header value may have (RFC 9110, section 5.5), and halves of characters."""

_PIPELINE: Final = 100
"""Requests of one connection that may wait for the answers before theirs."""

_BUFFER: Final = 64 * 1024
"""Bytes of a body that may lie here before the caller has to wait for whoever reads them."""

_APART: Final = 16 * 1024
"""Bytes of a body from which to write it beside its head; a smaller one is sooner copied."""

_UNSENT: Final = (lowat, _BUFFER) if (lowat := getattr(socket, "TCP_NOTSENT_LOWAT", 0)) else None
"""What the kernel may hold of answers that nobody reads: it takes megabytes of each if it can, and
when its memory for all of TCP is used up everybody waits."""

_LINGER: Final = 2.0
"""Seconds to read on after an early answer, so that the caller gets to see it (RFC 9112, 9.6)."""

_DISCARD: Final = 1024**2
_DISCARD_BODY: Final = 16 * 1024**2
"""Bytes to read on at most; many clients look for an answer only when their body is sent."""

_DOORS: Final = 16
"""Handles on one listening socket: uvloop takes one connection a turn off each. With a thousand
callers a turn is long, and through one door the last of them came in after seconds."""

_CATCH_UP: Final = 0.2
"""Seconds at most in which connections that wait to be accepted still are, before a close."""

_LOOK: Final = 0.05
"""Seconds between two looks at whether all connections are closed."""

_STATUS: Final = {one.value: f"HTTP/1.1 {one.value} {one.phrase}\r\n" for one in HTTPStatus}


@dataclass(frozen=True)
class Limits:
    """What a caller may take of us: sizes in bytes, times in seconds."""

    max_uri: int = 8 * 1024
    max_header_size: int = 32 * 1024
    max_headers: int = 100
    max_connections: int = 1000
    max_connections_per_address: int | None = None
    max_memory: int = 256 * 1024**2
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    write_timeout: float = 30.0


class HungUp(ConnectionError):
    """The caller is gone."""


class Exchange:
    """One request and its answer.

    method, path, query: as they were written, the query without its "?".
    headers: their names are in lower case.
    connection: tells the caller's address, the scheme and whom the caller's certificate names.
    complete: whether the whole body has arrived.
    answered: whether an answer is given, or has begun: the first one counts, others are ignored.
    task: what works on it, if its app does not answer at once.
    site: for the app, which may note here what of it this belongs to.
    """

    __slots__ = (
        "_chunked",
        "_late",
        "_left",
        "_parts",
        "_waiter",
        "answered",
        "complete",
        "connection",
        "due",
        "ended",
        "expects",
        "headers",
        "hung_up",
        "keep_alive",
        "method",
        "path",
        "query",
        "site",
        "steady",
        "task",
    )

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: str,
        query: str,
        headers: Headers,
        keep_alive: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.keep_alive = keep_alive
        self.complete = False
        self.answered = False
        self.ended = False  # the answer is written up to its end
        self.hung_up = False
        self.expects = False  # the caller waits for a 100 before he sends the body
        self.steady = False  # the body is passed on as it comes: slow is who stops sending
        self.task: asyncio.Task[None] | None = None
        self.site: Any = None
        self.due = 0.0
        self._late: Callable[[Exchange], None] | None = None
        self._parts: list[bytes] = []
        self._waiter: asyncio.Future[None] | None = None
        self._chunked = False
        self._left: int | None = None  # bytes of the answer that are still to be written

    # --- the request's body ---

    def taken(self) -> bytes:
        """What has arrived of the body since the last time."""
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def receive(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises HungUp if they will never come."""
        while not self._parts:
            if self.complete:
                return b""
            if self.hung_up:
                raise HungUp
            self.connection.wanted(self)
            await self._woken()
        return self.taken()

    async def gone(self) -> None:
        """Return when the caller has hung up."""
        while not self.hung_up:
            await self._woken()

    async def _woken(self) -> None:
        self._waiter = self.connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def arrived(self, data: bytes) -> None:
        """For the connection: a piece of the body."""
        self._parts.append(data)
        if self._waiter is not None:
            self.wake()

    def wake(self) -> None:
        """For the connection: there is something new for who waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def lying(self) -> int:
        """How many bytes of the body wait for somebody to take them."""
        return sum(map(len, self._parts))

    # --- the answer ---

    def answer_by(self, due: float, late: Callable[[Exchange], None]) -> None:
        """Call `late` if no answer has begun when `due` is over, on the clock of the event loop."""
        self.due = due
        self._late = late
        self.connection.deadlines.add(self)

    def expired(self) -> None:
        """For the deadlines."""
        if self._late is not None and not self.answered:
            self._late(self)

    def answer(
        self, status: int, headers: Iterable[tuple[str, str]] = (), body: bytes = b""
    ) -> None:
        """Give the answer. Its framing and its date are written here, whatever `headers` say.

        Raises ValueError for a header that cannot be written; then nothing is.
        """
        if self.answered:
            return
        if self.hung_up:
            self.answered = self.ended = True
            return
        if status in (204, 304):
            head, body = self._head(status, headers, ""), b""
        else:
            head = self._head(status, headers, f"content-length: {len(body)}\r\n")
            if self.method == "HEAD":
                body = b""
        connection = self.connection
        if len(body) < _APART:
            connection.outbox.put(connection.transport, head + body)
        else:
            connection.outbox.flush()
            connection.transport.writelines((head, body))
        self._end()

    def begin(
        self, status: int, headers: Iterable[tuple[str, str]] = (), size: int | None = None
    ) -> None:
        """Begin an answer whose body is written piece by piece: `size` bytes, or None if nobody
        knows. Raises as `answer` does; HungUp if there is nobody to answer any more."""
        if self.answered or self.hung_up:
            raise HungUp
        framing = ""
        if status in (204, 304):
            size = 0  # and no word about it (RFC 9112, section 6.1)
        elif size is not None:
            framing = f"content-length: {size}\r\n"
        elif self.connection.speaks_chunks:
            framing = "transfer-encoding: chunked\r\n"
        else:
            self.keep_alive = False
        self._left = size
        head = self._head(status, headers, framing)
        self._chunked = size is None and self.connection.speaks_chunks
        self.connection.outbox.flush()
        self.connection.transport.write(head)

    async def write(self, data: bytes) -> None:
        """Write a piece of the body that was begun, and wait until the caller takes more. Raises
        HungUp if he is gone, ValueError if there are more bytes than were told."""
        if self.hung_up or self.ended:
            raise HungUp
        if not data or self.method == "HEAD":
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("the body of an answer is longer than was told")
        if self._chunked:
            self.connection.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            self.connection.transport.write(data)
        await self.connection.drained()

    def end(self) -> None:
        """End the body that was begun; one that is shorter than was told is cut off."""
        if self.ended:
            return
        if self.method != "HEAD":
            if self._left:
                self.fail()
                return
            if self._chunked and not self.hung_up:
                self.connection.transport.write(b"0\r\n\r\n")
        self._end()

    def fail(self) -> None:
        """What nobody answered gets a 500; what was begun is cut off, for all to see."""
        if not self.answered:
            self.answer(*_problem(500, "the server failed"))
        elif not self.ended:
            self.ended = True
            self.connection.transport.abort()

    def _head(self, status: int, headers: Iterable[tuple[str, str]], framing: str) -> bytes:
        connection = self.connection
        parts = [_STATUS.get(status) or f"HTTP/1.1 {status} \r\n", connection.server.date, framing]
        for name, value in headers:
            start = _WRITTEN.get(name)
            if start is None:
                start = _written(name)
            # What is printable is safe; what is not may be a tab, or one of the rarer letters.
            if not value.isprintable() and UNSAFE.search(value):
                raise ValueError(f"the value of {name} cannot be written")
            if start:
                parts.append(f"{start}{value}\r\n")
            elif value.lower() == "close" and name.lower() == "connection":
                self.keep_alive = False
        if connection.server.leaving and not connection.waiting:
            self.keep_alive = False
        if not self.complete:
            self.keep_alive = False  # what still arrives cannot be told from a body
        parts.append("\r\n" if self.keep_alive else "connection: close\r\n\r\n")
        head = "".join(parts).encode()
        self.answered = True
        if self._late is not None:
            connection.deadlines.discard(self)
        return head

    def _end(self) -> None:
        self.ended = True
        self.connection.answered(self)


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


class _Stop(Exception):
    """Ends parsing from inside a parser callback."""


class Connection(asyncio.Protocol):
    """One connection.

    client: the caller's address; scheme: "http" or "https".
    principal: whom the caller's certificate names, if he had to show one, else "".
    speaks_chunks: whether the caller can read a body that is chunked.
    """

    __slots__ = (
        "_closed",
        "_context",
        "_drain",
        "_fed",
        "_first",
        "_host",
        "_in_head",
        "_limits",
        "_neighbours",
        "_pairs",
        "_parser",
        "_read_paused",
        "_reading",
        "_replaying",
        "_running",
        "_since",
        "_timed",
        "_unwanted",
        "_upgrade",
        "_url",
        "_waiting",
        "_write_timer",
        "_wrong",
        "client",
        "deadlines",
        "due",
        "loop",
        "outbox",
        "principal",
        "scheme",
        "server",
        "speaks_chunks",
        "transport",
    )
    transport: asyncio.Transport

    def __init__(
        self,
        server: HttpServer,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        outbox: Outbox,
    ) -> None:
        self.server = server
        self.loop = loop
        self.deadlines = deadlines
        self.outbox = outbox
        self.due = math.inf
        self.client = ""
        self.scheme = "http"
        self.principal = ""
        self.speaks_chunks = True
        self._limits = server.limits
        self._neighbours = ""  # where it is counted
        self._parser: Any = httptools.HttpRequestParser(self)
        self._context = copy_context()  # what goes on after an answer is no part of that
        self._url = b""
        self._pairs: list[tuple[str, str]] = []
        self._host: str | None = None  # the last that was looked at
        self._in_head = False
        self._timed = False  # its time is set, for what of a message is still to come
        self._fed = 0  # bytes that arrived last
        self._first = 0  # of those among which the message began
        self._since = 0  # bytes since then without any progress in the message
        self._wrong: tuple[int, str] | None = None  # why parsing was stopped
        self._upgrade = b""  # how long the body is, of a request that asks for an upgrade
        self._replaying = False
        self._reading: Exchange | None = None  # its body is still arriving
        self._waiting: deque[Exchange] = deque()
        self._running: Exchange | None = None
        self._read_paused = False
        self._drain: asyncio.Future[None] | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._closed = False  # nothing that still arrives is looked at
        self._unwanted = _DISCARD

    @property
    def waiting(self) -> bool:
        """Whether more requests are here already than the one that is worked on."""
        return bool(self._waiting)

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if isinstance(peer, tuple) else ""
        if transport.get_extra_info("sslcontext") is not None:
            self.scheme = "https"
            self.principal = _named(transport)
        connections = self.server.connections
        connections.add(self)
        limits = self._limits
        if len(connections) > limits.max_connections or (
            limits.max_connections_per_address is not None
            and not self.server.shared(self.client)
            and self._counted() > limits.max_connections_per_address
        ):
            self._refuse(503, "too many connections are open", [("retry-after", "1")])
            return
        self._arm(self._limits.header_timeout)

    def _counted(self) -> int:
        """How many connections there are from this address, or its network."""
        self._neighbours = network_of(self.client)
        self.server.neighbours[self._neighbours] += 1
        return self.server.neighbours[self._neighbours]

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self.server.connections.discard(self)
        if self._neighbours:
            self.server.neighbours[self._neighbours] -= 1
            if not self.server.neighbours[self._neighbours]:
                del self.server.neighbours[self._neighbours]
        self.deadlines.discard(self)
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.resume_writing()
        self._waiting.clear()
        if self._running is not None:
            self._running.hung_up = True
            self._running.wake()
        self._parser = None  # they hold each other

    def data_received(self, data: bytes) -> None:
        self._fed = len(data)
        unwanted = self._closed
        if unwanted:
            self._unwanted -= self._fed
            if self._unwanted < 0:
                self.transport.abort()
            return
        self._since += self._fed
        wrong: tuple[int, str] | None = None
        try:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as e:
                self._not_upgraded(data[e.args[0] :])
        except httptools.HttpParserError:
            wrong = self._wrong or (400, "the request is not valid HTTP/1.1")
        # What was understood is served first, whatever comes behind it.
        if self._waiting and self._running is None:
            self._go_on()
        if self._closed:
            return
        if wrong is not None:
            self._refuse(*wrong)
        elif self._since > self._limits.max_header_size:
            self._refuse(431, "the headers are too large")
        elif self._in_head or self._waiting or self._reading is not None:
            self._wait()

    def _not_upgraded(self, rest: bytes) -> None:
        """Nothing is upgraded here, the request is plain HTTP (RFC 9110, section 7.8). The parser
        thinks otherwise and skipped the body, so another one goes on with that."""
        self._parser = httptools.HttpRequestParser(self)
        length, self._upgrade = self._upgrade, b""
        if length:
            self._replaying = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n" + length + b"\r\n\r\n")
        try:
            self._parser.feed_data(rest)
        except httptools.HttpParserUpgrade as e:
            self._not_upgraded(rest[e.args[0] :])

    def _wait(self) -> None:
        """There is more to come, or it is in line behind what is being worked on."""
        reading = self._reading
        if self._waiting or (reading is not None and reading.lying > _BUFFER):
            self._pause_reading()
        if not self._timed and not self._closed and (self._in_head or reading is not None):
            self._timed = reading is None or not reading.steady
            self._arm(self._limits.header_timeout if self._in_head else self._limits.body_timeout)

    def wanted(self, exchange: Exchange) -> None:
        """Read on: somebody waits for the body of an exchange."""
        if exchange.expects:
            exchange.expects = False
            # Behind a final answer it would be a piece of that (RFC 9110, section 10.1.1).
            if not exchange.answered and not self.transport.is_closing():
                self.outbox.flush()
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused and not self.transport.is_closing():
            self._read_paused = True
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused and not self.transport.is_closing():
            self._read_paused = False
            self.transport.resume_reading()
            if self._reading is not None and self._reading.steady:
                # The time in which it was us who did not read is none of the caller's.
                self._arm(self._limits.body_timeout)

    def pause_writing(self) -> None:
        self._drain = self.loop.create_future()
        self._write_timer = self.loop.call_later(self._limits.write_timeout, self.transport.abort)
        self.server.stuck(self)

    def resume_writing(self) -> None:
        self.server.moving(self)
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._drain is not None and not self._drain.done():
            self._drain.set_result(None)
        self._drain = None

    async def drained(self) -> None:
        """Return when there is room for more to be written, or nobody to read it."""
        if self._drain is not None:
            await self._drain

    def _arm(self, seconds: float) -> None:
        before, self.due = self.due, self.loop.time() + seconds
        if self.due < before:
            self.deadlines.add(self)

    def expired(self) -> None:
        """For the deadlines: the head or the body of a request did not arrive in time, no request
        came at all, or the caller does not close."""
        self.due = math.inf
        if self._closed:
            if self.transport.is_closing():
                self.transport.abort()
            elif self._running is None:
                self.abandon()
        elif self._read_paused or (
            self._running is not None and self._reading is None and not self._in_head
        ):
            # It is us who do not read or have not answered.
            self._arm(self._limits.body_timeout)
        elif self._in_head or self._reading is not None:
            self._refuse(408, "the request did not arrive in time")
        else:
            self._finish(unread=False)

    def _finish(self, *, unread: bool) -> None:
        """Close once everything is written. If the caller still sends, let it see the answer.
        unread: whatever it sends was not understood."""
        self._closed = True
        in_body = self._reading is not None
        if self._reading is not None:
            self._reading.hung_up = True  # as far as who reads it is concerned
            self._reading.wake()
        unread = unread or self._in_head
        self._unwanted = _DISCARD if unread else _DISCARD_BODY
        if (unread or in_body) and not self.transport.is_closing():
            # Closing now would reset the connection and could destroy the answer under way.
            self._timed = False
            self._resume_reading()
            if self.transport.can_write_eof():
                self.outbox.flush()
                self.transport.write_eof()
            self._arm(_LINGER)
        else:
            self.abandon()

    def abandon(self) -> None:
        """Close as soon as everything is written, or the caller has not read it in time."""
        self._closed = True
        self.outbox.flush()
        self.transport.close()
        self._arm(self._limits.write_timeout)

    def _refuse(self, status: int, detail: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """Answer a request that cannot be worked on, if its turn has come, and close."""
        if self._closed:
            return
        self._closed = True
        running = self._running
        if running is not None and running.complete:
            # An earlier request is being worked on: it is answered, and then it is over.
            running.keep_alive = False
            self._waiting.clear()
            return
        if running is None or not running.answered:
            if running is not None:
                running.answered = running.ended = True
            refusal = self._running = Exchange(self, "", "", "", Headers(), False)
            told, lines, body = _problem(status, detail)
            refusal.answer(told, [*lines, *headers], body)
        else:
            self._finish(unread=True)

    def shutdown(self) -> None:
        """Close when the answers under way are given."""
        last = self._waiting[-1] if self._waiting else self._running
        if last is None:
            self._finish(unread=False)
        else:
            last.keep_alive = False

    # --- the message, as the parser reads it ---

    def _stop(self, status: int, detail: str) -> None:
        self._wrong = (status, detail)
        raise _Stop

    def on_message_begin(self) -> None:
        self._url = b""
        self._pairs = []
        self._in_head = True
        self._timed = False
        self._first = self._fed
        self._since = 0

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > self._limits.max_uri:
            self._stop(414, f"the request target is longer than {self._limits.max_uri} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: it is never a header (RFC 9110, section 6.5.1)
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("latin-1")  # RFC 9110, section 5.5
        self._pairs.append((_READ.get(name) or _read(name), text.strip(" \t")))

    def on_headers_complete(self) -> None:
        if self._replaying:
            self._replaying = self._in_head = False
            return
        pairs = self._pairs
        limits = self._limits
        if len(pairs) > limits.max_headers or self._first + self._since > limits.max_header_size:
            self._measure()
        parser = self._parser
        method = parser.get_method().decode()
        keep_alive = parser.should_keep_alive()
        told = dict(reversed(pairs))
        host = told.get("host")
        coding = told.get("transfer-encoding")
        if not keep_alive or host is None or coding is not None or "connection" in told:
            # Any other is HTTP/1.1: nothing else stays open without a word.
            version = parser.get_http_version()
            if version != "1.1":
                if version != "1.0":
                    self._stop(505, "HTTP/1.1 is spoken here")
                keep_alive = self.speaks_chunks = False
            elif host is None:
                self._stop(400, "exactly one Host header is needed")
            # The parser takes one coding or one length, which is a number, and not both.
            if coding is not None and (version != "1.1" or coding.lower() != "chunked"):
                self._stop(400, "only chunked transfer encoding is understood")
        if method == "CONNECT" or method == "TRACE":
            self._stop(501, f"{method} is not served here")
        if len(told) != len(pairs) and sum(name == "host" for name, _ in pairs) > 1:
            self._stop(400, "exactly one Host header is needed")
        if host is not None and host != self._host:
            if not _HOST.match(host):
                self._stop(400, "the Host header is not valid")
            self._host = host
        target = self._url.decode("ascii")  # the parser takes nothing else, and no spaces
        if target[0] != "/" or "#" in target:
            target = self._other_target(target, method, host or "")
        path, _, query = target.partition("?")
        exchange = Exchange(self, method, path, query, Headers.parsed(pairs, told), keep_alive)
        if "expect" in told:
            exchange.expects = told["expect"].lower() == "100-continue"
            if not exchange.expects:
                self._stop(417, "only 100-continue can be expected")
        if "upgrade" in told and parser.should_upgrade():
            # The body is all that is still needed: see _not_upgraded.
            for name in ("content-length", "transfer-encoding"):
                if name in told:
                    self._upgrade = f"{name}: {told[name]}".encode()
        self._in_head = self._timed = False
        self._since = 0
        self._reading = exchange
        self._waiting.append(exchange)
        if len(self._waiting) > _PIPELINE:
            self._stop(400, "too many requests wait for their answers")

    def _measure(self) -> None:
        limits = self._limits
        if len(self._pairs) > limits.max_headers:
            self._stop(431, f"there are more than {limits.max_headers} headers")
        if sum(len(n) + len(v) + 4 for n, v in self._pairs) > limits.max_header_size:
            self._stop(431, f"the headers are larger than {limits.max_header_size} bytes")

    def _other_target(self, target: str, method: str, host: str) -> str:
        """Path and query of a request target that is not just these (RFC 9112, section 3.2)."""
        if "#" in target:
            self._stop(400, "the request target has characters that must be encoded")
        if target == "*" and method == "OPTIONS":
            return target
        absolute = _ABSOLUTE.match(target)
        if absolute is None or absolute[1].lower() != host.lower():
            self._stop(400, "the request target does not belong to this host")
        assert absolute is not None
        return absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]

    def on_body(self, body: bytes) -> None:
        self._since = 0
        exchange = self._reading
        assert exchange is not None
        exchange.arrived(body)
        if exchange.steady:
            self._timed = False

    def on_message_complete(self) -> None:
        if self._upgrade:
            return  # not yet: see _not_upgraded
        exchange, self._reading = self._reading, None
        assert exchange is not None
        exchange.complete = True
        exchange.wake()

    # --- one after the other ---

    def _go_on(self) -> None:
        """Hand over what is next in line, until something takes its time."""
        waiting = self._waiting
        while waiting and self._running is None:
            exchange = self._running = waiting.popleft()
            try:
                work = self.server.app(exchange)
            except Exception:
                log.exception("a request failed", path=exchange.path, method=exchange.method)
                exchange.fail()
            else:
                if work is not None:
                    server = self.server
                    server.running.add(exchange)
                    # A given name costs nothing; one that is made up costs a quarter of the task.
                    exchange.task = asyncio.Task(
                        server.run(exchange, work), loop=self.loop, name="a request"
                    )

    def answered(self, exchange: Exchange) -> None:
        """For an exchange: its answer is written."""
        self.server.served += 1
        if exchange is not self._running:
            return
        self._running = None
        if not exchange.keep_alive or self._closed:
            self._waiting.clear()
            self._finish(unread=self._closed)
        elif self._waiting:
            self.loop.call_soon(self._go_on, context=self._context)
        else:
            if self._read_paused:
                self._resume_reading()
            if not self._in_head:
                self._arm(self._limits.idle_timeout)


def _problem(status: int, detail: str) -> tuple[int, list[tuple[str, str]], bytes]:
    members = {
        "type": "about:blank",  # the title is the status's own
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return status, [("content-type", "application/problem+json")], msgspec.json.encode(members)


def _named(transport: asyncio.Transport) -> str:
    """Whom the caller's certificate names: its common name, else its first alternative name."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return ""
    names = [value for part in certificate.get("subject", ()) for key, value in part
             if key == "commonName"]  # fmt: skip
    names += [value for _, value in certificate.get("subjectAltName", ())]
    return names[0] if names else ""


# --- names of headers: there are few, so that each is looked at once ------------------------------

_MANY: Final = 1000
_LONG: Final = 64

_READ: Final[dict[bytes, str]] = {}
"""Names as they came: as they are read."""

_WRITTEN: Final = {"connection": "", "content-length": "", "transfer-encoding": "", "date": ""}
"""Names of an answer: what its line begins with; nothing for those that are written here."""


def _read(name: bytes) -> str:
    text = name.lower().decode()
    if len(_READ) < _MANY and len(name) <= _LONG:
        _READ[name] = text
    return text


def _written(name: str) -> str:
    if not _TOKEN.match(name):
        raise ValueError(f"{name[:40]!r} is no name of a header")
    start = _WRITTEN.get(name.lower(), f"{name}: ")
    if len(_WRITTEN) < _MANY and len(name) <= _LONG:
        _WRITTEN[name] = start
    return start
