"""One connection: what of its bytes is a request, and in what time they come.

The parser (llhttp, without leniencies) takes two Host headers or none, targets with a fragment,
codings it does not know, headers without end in number and size, trailers as headers, and waits
for ever for a slow head or body. Whatever this file refuses is answered with problem+json where an
answer is still possible, and the connection is closed:

    400  ambiguous or malformed framing, Host, target or header (RFC 9112, sections 3, 5, 6)
    408  a head or a body that does not arrive in time
    414, 431  a target, or headers, over their limit
    417, 501, 505  an expectation, a method or a version that is not spoken here
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Iterable
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httptools
import structlog

from esb.deadlines import Deadlines
from esb.envelope import Headers
from esb.http.exchange import LONG, MANY, Exchange, problem
from esb.identity import network_of
from esb.outbox import Outbox

if TYPE_CHECKING:
    from esb.http.server import HttpServer

log = structlog.get_logger("esb.http")

_ABSOLUTE: Final = re.compile(r"https?://([^/?#]*)([^#]*)\Z", re.IGNORECASE)
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")

_PIPELINE: Final = 100
"""Requests of one connection that may wait for the answers before theirs."""

BUFFER: Final = 64 * 1024
"""Bytes of a body that may lie here before the caller has to wait for whoever reads them."""

_LINGER: Final = 2.0
"""Seconds to read on after an early answer, so that the caller gets to see it (RFC 9112, 9.6)."""

_DISCARD: Final = 1024**2
_DISCARD_BODY: Final = 16 * 1024**2
"""Bytes to read on at most; many clients look for an answer only when their body is sent."""

_READ: Final[dict[bytes, str]] = {}
"""Names as they came: as they are read."""


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
        if self._waiting or (reading is not None and reading.lying > BUFFER):
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
            told, lines, body = problem(status, detail)
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


def _named(transport: asyncio.Transport) -> str:
    """Whom the caller's certificate names: its common name, else its first alternative name. One of
    several common names is nobody's, since each reads another of them."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return ""
    names = [value for part in certificate.get("subject", ()) for key, value in part
             if key == "commonName"]  # fmt: skip
    if len(names) > 1:
        return ""
    names += [value for _, value in certificate.get("subjectAltName", ())]
    return names[0] if names else ""


def _read(name: bytes) -> str:
    text = name.lower().decode()
    if len(_READ) < MANY and len(name) <= LONG:
        _READ[name] = text
    return text
