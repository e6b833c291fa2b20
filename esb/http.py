"""The HTTP/1.1 server below every listener: uvicorn's protocol, and closed what it leaves open.

uvicorn 0.54 with httptools takes two Host headers or none, headers without end in number and size,
trailers as headers, and waits for ever for a slow head or body. Whatever this file refuses is
answered with problem+json where an answer is still possible, and the connection is closed:

    400  ambiguous or malformed framing, Host, target or header (RFC 9112, sections 3, 5, 6)
    408  a head or a body that does not arrive in time
    414, 431  a target, or headers, over their limit
    417, 501, 505  an expectation, a method or a version that is not spoken here
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Final

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from esb.errors import EsbError

App = Callable[[Any, Any, Any], Awaitable[None]]

_VALUE: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET: Final = re.compile(rb"[!-~]+\Z")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)\Z", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~\-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?\Z")

_PIPELINE: Final = 100
"""Requests of one connection that may wait for the answers before theirs."""

_LINGER: Final = 2.0
"""Seconds to read on after an early answer, so that the caller gets to see it (RFC 9112, 9.6)."""

_DISCARD: Final = 1024**2
_DISCARD_BODY: Final = 16 * 1024**2
"""Bytes to read on at most; many clients look for an answer only when their body is sent."""


_CATCH_UP: Final = 0.2
"""Seconds at most in which connections that wait to be accepted still are, before a close."""


@dataclass(frozen=True)
class Limits:
    """What a caller may take of us: sizes in bytes, times in seconds."""

    max_uri: int = 8 * 1024
    max_header_size: int = 32 * 1024
    max_headers: int = 100
    max_connections: int = 1000
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 75.0
    write_timeout: float = 30.0


class HttpServer:
    """Serves an ASGI app on one address, in the running event loop. What `scope` says of the path
    is `raw_path`; `path` is empty."""

    def __init__(self, app: App, limits: Limits, tls: ssl.SSLContext | None = None) -> None:
        self._app = app
        self._limits = limits
        self._tls = tls
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._tick: asyncio.TimerHandle | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    async def open(self, host: str, port: int, sock: socket.socket | None = None) -> int:
        """Listen, on a free port if that is 0. sock: one that somebody bound already, to listen on
        instead. Returns the port. Raises EsbError when the address is taken or not ours."""
        loop = asyncio.get_running_loop()
        config = Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
        )
        config.load()
        limits = self._limits
        where: dict[str, Any] = {"host": host, "port": port} if sock is None else {"sock": sock}
        try:
            self._server = await loop.create_server(
                lambda: Connection(config, self._state, limits, loop),
                **where,
                ssl=self._tls,
                backlog=2048,
                ssl_handshake_timeout=limits.header_timeout if self._tls else None,
            )
        except (OSError, UnicodeError) as e:
            # uvloop's own text repeats the address, so the system's is taken.
            errno = e.errno if isinstance(e, OSError) else None
            reason = os.strerror(errno) if errno and errno > 0 else "no such address"
            raise EsbError(f"cannot listen on {host}:{port}: {reason.lower()}") from e
        for sock in self._server.sockets:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                port = sock.getsockname()[1]
        self._each_second()
        return port

    def _each_second(self) -> None:
        date = formatdate(time.time(), usegmt=True).encode()
        self._state.default_headers[:] = [(b"date", date)]
        self._tick = asyncio.get_running_loop().call_later(1.0, self._each_second)

    async def close(self) -> None:
        """Stop listening, let answers under way be written, and close every connection."""
        if self._tick is not None:
            self._tick.cancel()
        if self._server is None:
            return
        await self._catch_up()
        self._server.close()
        await self._catch_up()
        state = self._state
        for connection in list(state.connections):
            connection.shutdown()
        if state.tasks:
            await asyncio.wait(set(state.tasks), timeout=5.0)
        for task in list(state.tasks):
            task.cancel()
        for connection in list(state.connections):
            connection.transport.close()

    async def _catch_up(self) -> None:
        """Take what had arrived by now from the kernel, which would reset connections that it holds
        when their socket is closed. A turn of the loop may take no more than one of them."""
        state, quiet = self._state, 0
        end = time.monotonic() + _CATCH_UP
        while quiet < 3 and time.monotonic() < end:
            before = len(state.connections), state.total_requests, len(state.tasks)
            await asyncio.sleep(0)
            after = len(state.connections), state.total_requests, len(state.tasks)
            quiet = quiet + 1 if before == after else 0


class Cycle(RequestResponseCycle):
    """One request and its answer."""

    def __init__(self, connection: Connection, scope: Any, keep_alive: bool, expect: bool) -> None:
        self.out = connection.out
        super().__init__(
            scope=scope,
            transport=connection.out,  # type: ignore[arg-type]
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expect,
            keep_alive=keep_alive,
            on_response=connection.on_response_complete,
        )

    async def send(self, message: Any) -> None:
        """Write a part of the answer. One that comes before the request was read ends the
        connection: what still arrives is not wanted."""
        if self.more_body and not self.response_started:
            self.keep_alive = False
        self.out.holds = not self.response_started
        await super().send(message)
        if not self.out.holds:
            self.out.flush()


class _Out:
    """What a cycle sees of the transport. The head is held back until it can leave with the body:
    one system call instead of two. Closing goes through the connection, which lingers."""

    __slots__ = ("_connection", "_head", "_write", "holds", "is_closing")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self._head = b""
        self.holds = False

    def write(self, data: bytes) -> None:
        """Write, or keep for the next write."""
        if self.holds:
            self._head += data
        else:
            self._write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Write what was kept."""
        if self._head:
            self._write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._connection.finish()


class _Stop(Exception):
    """Ends parsing from inside a parser callback."""


class Connection(HttpToolsProtocol):
    """One connection."""

    out: _Out

    def __init__(
        self,
        config: Config,
        state: ServerState,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(config, state, {}, loop)
        # Without the leniencies that uvicorn turns on.
        self.parser = httptools.HttpRequestParser(self)
        self._limits = limits
        self._in_head = False
        self._closed = False  # nothing that still arrives is looked at
        self._unwanted = _DISCARD
        self._pending = 0  # bytes since the last progress in the message
        self._size = 0
        self._upgrade = b""  # how long the body is, of a request that asks for an upgrade
        self._replaying = False
        self._running: RequestResponseCycle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # --- the connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.out = _Out(self)
        self._extensions = _shown(transport)
        if len(self.connections) > self._limits.max_connections:
            self.refuse(503, "too many connections are open", [(b"retry-after", b"1")])
            return
        self._arm(self._limits.header_timeout, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._disarm()
        if self._write_timer is not None:
            self._write_timer.cancel()
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            self._unwanted -= len(data)
            if self._unwanted < 0:
                self.transport.abort()
            return
        self._pending += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.refuse(400, "the request is not valid HTTP/1.1")
        if not self._closed and self._pending - len(data) > self._limits.max_header_size:
            self.refuse(431, "the headers are too large")

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as e:
            # Nothing is upgraded here, the request is plain HTTP (RFC 9110, section 7.8). The
            # parser thinks otherwise and skipped the body, so another one goes on with that.
            self.parser = httptools.HttpRequestParser(self)
            if self._upgrade:
                self._replaying = True
                self.parser.feed_data(b"POST / HTTP/1.1\r\n" + self._upgrade + b"\r\n\r\n")
                self._replaying = False
                self._upgrade = b""
            self._feed(data[e.args[0] :])

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer = self.loop.call_later(self._limits.write_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, then)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        """The head or the body of a request did not arrive in time, or no request came at all."""
        if self.flow.read_paused:
            # It is us who do not read: the answers to earlier requests come first.
            self._arm(self._limits.body_timeout, self._late)
        elif self._in_head or (self.cycle is not None and self.cycle.more_body):
            self.refuse(408, "the request did not arrive in time")
        else:
            self.finish()

    def finish(self) -> None:
        """Close once everything is written; if the caller still sends, let it see the answer."""
        self._closed = True
        in_body = self.cycle is not None and self.cycle.more_body
        self._unwanted = _DISCARD_BODY if in_body and not self._in_head else _DISCARD
        if (in_body or self._in_head) and not self.transport.is_closing():
            # Closing now would reset the connection and could destroy the answer under way.
            self.flow.resume_reading()
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self._arm(_LINGER, self._abandon)
        else:
            self._abandon()

    def _abandon(self) -> None:
        self.transport.close()
        self._arm(self._limits.write_timeout, self.transport.abort)

    def refuse(
        self, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Answer a request that cannot be worked on, if its turn has come, and close."""
        if self._closed:
            return
        self._closed = True
        running = self._running
        if running is not None and not running.response_complete:
            if self._in_head or not running.more_body:
                # An earlier request is being worked on: it is answered, and then it is over.
                running.keep_alive = False
                self.pipeline.clear()
                self._disarm()
                return
            running.disconnected = True  # the app stops reading
            running.message_event.set()
        if running is None or running.response_complete or not running.response_started:
            body = msgspec.json.encode(
                {
                    "type": "about:blank",  # the title is the status's own
                    "title": STATUS_LINE[status][13:-2].decode(),
                    "status": status,
                    "detail": detail,
                }
            )
            lines = [
                *self.server_state.default_headers,
                (b"content-type", b"application/problem+json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
                *(headers or ()),
            ]
            head = b"".join(b"%b: %b\r\n" % line for line in lines)
            self.transport.write(STATUS_LINE[status] + head + b"\r\n" + body)
        self._in_head = True  # for `finish`: whatever comes is left unread
        self.finish()

    def shutdown(self) -> None:
        """Close when the answers under way are given."""
        if self.cycle is None or self.cycle.response_complete:
            self.finish()
        else:
            self.cycle.keep_alive = False

    # --- the message, as the parser reads it ---

    def _stop(self, status: int, detail: str) -> None:
        self.refuse(status, detail)
        raise _Stop

    def on_message_begin(self) -> None:
        if self._replaying:
            return
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head = True
        self._pending = self._size = 0
        self._arm(self._limits.header_timeout, self._late)

    def on_url(self, url: bytes) -> None:
        if self._replaying:
            return
        self.url += url
        if len(self.url) > self._limits.max_uri:
            self._stop(414, f"the request target is longer than {self._limits.max_uri} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._replaying:
            return
        self._size += len(name) + len(value) + 4
        if self._size > self._limits.max_header_size:
            self._stop(431, f"the headers are larger than {self._limits.max_header_size} bytes")
        if not self._in_head:
            return  # a trailer: it is never a header (RFC 9110, section 6.5.1)
        if len(self.headers) >= self._limits.max_headers:
            self._stop(431, f"there are more than {self._limits.max_headers} headers")
        if _VALUE.search(value):
            self._stop(400, "a header has a control character")
        self.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        keep_alive, expect = self._checked()
        self._in_head = False
        self._pending = self._size = 0
        cycle = Cycle(self, self.scope, keep_alive, expect)
        before, self.cycle = self.cycle, cycle
        self._arm(self._limits.body_timeout, self._late)
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
            return
        self.flow.pause_reading()
        self.pipeline.appendleft((cycle, self.app))
        if len(self.pipeline) > _PIPELINE:
            self._stop(400, "too many requests wait for their answers")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade:
            return  # not yet: see _feed
        self._disarm()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        if self._closed or self.transport.is_closing():
            return
        if self.cycle.more_body and not self.pipeline:
            # Answered before the request was read: what follows cannot be told from a body.
            self.finish()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_head:
            self._arm(self._limits.idle_timeout, self._late)

    def _checked(self) -> tuple[bool, bool]:
        """Check the head and make the ASGI scope; whether the connection goes on after it, and
        whether the caller waits for a 100."""
        parser = self.parser
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(505, "HTTP/1.1 is spoken here")
        method = parser.get_method().decode("ascii")
        if method in ("CONNECT", "TRACE"):
            self._stop(501, f"{method} is not served here")
        lengths = codings = 0
        length = b""
        host = b""
        hosts = 0
        expect = False
        for name, value in self.headers:
            if name == b"host":
                host = value
                hosts += 1
            elif name == b"content-length":
                lengths += 1
                length = b"Content-Length: " + value
                if not value.isdigit():
                    self._stop(400, "Content-Length is no number")
            elif name == b"transfer-encoding":
                codings += 1
                length = b"Transfer-Encoding: chunked"
                if value.lower() != b"chunked" or version == "1.0":
                    self._stop(400, "only chunked transfer encoding is understood")
            elif name == b"expect":
                expect = value.lower() == b"100-continue"
                if not expect:
                    self._stop(417, "only 100-continue can be expected")
        if lengths + codings > 1:
            self._stop(400, "the length of the body is told more than once")
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            self._stop(400, "exactly one Host header is needed")
        if hosts and not _HOST.match(host):
            self._stop(400, "the Host header is not valid")
        raw_path, query = self._target(method, host)
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": version,
            "method": method,
            "scheme": self.scheme or "http",
            "path": "",  # set where somebody needs it decoded
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": self.headers,
            "client": self.client,
            "server": self.server,
            "extensions": self._extensions,
        }
        self._upgrade = length if parser.should_upgrade() else b""
        return version == "1.1" and parser.should_keep_alive(), expect

    def _target(self, method: str, host: bytes) -> tuple[bytes, bytes]:
        """Path and query of the request target (RFC 9112, section 3.2)."""
        target = self.url
        if not _TARGET.match(target) or b"#" in target:
            self._stop(400, "the request target has characters that must be encoded")
        if not target.startswith(b"/"):
            if target == b"*" and method == "OPTIONS":
                return b"*", b""
            absolute = _ABSOLUTE.match(target)
            if absolute is None or absolute[1].lower() != host.lower():
                self._stop(400, "the request target does not belong to this host")
            assert absolute is not None
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        path, _, query = target.partition(b"?")
        return path, query


def _shown(transport: asyncio.Transport) -> dict[str, Any]:
    """Whom the caller's certificate names, if he had to show one: {"principal": "billing"}, its
    common name, else its first alternative name."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return {}
    names = [value for part in certificate.get("subject", ()) for key, value in part
             if key == "commonName"]  # fmt: skip
    names += [value for _, value in certificate.get("subjectAltName", ())]
    return {"principal": names[0]} if names else {}
