"""Pools of connections: which one a request goes out on, and what it means when that breaks.

Every wait has a deadline and every answer a limit, counted after unpacking.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import aiohappyeyeballs
from httptools import HttpParserError, HttpParserUpgrade

from esb.adapter import Health
from esb.deadlines import Deadlines, TimeLimit
from esb.envelope import Body
from esb.errors import (
    BadReply,
    EsbError,
    OutcomeUnknown,
    RouteFailure,
    TimedOut,
    Transient,
    Unreachable,
)
from esb.outbox import Outbox
from esb_web.client import ClientReply, client_tls
from esb_web.connection import Connection
from esb_web.messages import HOP_BY_HOP, TOKEN, UNSAFE
from esb_web.proxy import Proxies
from esb_web.reach import Reach, numeric
from esb_web.standing import BITS, Standing

_IDLE_FOR: Final = 4.0
"""Seconds that a connection is kept for the next request: below the usual five after which servers
hang up, since a request that meets a closing connection has an unknown outcome."""

_EYEBALLS: Final = 0.25
"""Seconds after which the next address of a host is tried too (RFC 8305, section 8)."""


class Pool:
    """Connections with the same TLS and limits, shared by all endpoints that want such.

    reach: where they may lead, if messages choose their hosts; None: anywhere.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None,
        proxies: Proxies | None,
        limit: int,
        reach: Reach | None = None,
    ) -> None:
        self._tls = tls
        self._proxies = proxies or Proxies()
        self._limit = limit
        self._reach = reach
        self._origins: dict[str, _Origin] = {}
        self._deadlines: Deadlines | None = None
        self._outbox: Outbox

    async def open(self) -> None:
        """Nothing is needed before the first request."""

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        body: bytes | Body | None,
        standing: Standing,
        *,
        timeout: float,
        idempotent: bool,
        max_reply: int,
        want_body: bool,
        may_stream: bool,
    ) -> ClientReply:
        """One request and its answer; see `WebClient.request`."""
        target = _target(url)
        origin = self._origins.get(target.origin) or self._new_origin(target)
        head = origin.head(method, target, headers, body, standing)
        due = origin.loop.time() + timeout
        connection = origin.idle()
        answer: asyncio.Future[ClientReply] | None = None
        try:
            if connection is None:
                connection = await origin.connected(standing.connect_timeout, timeout)
            answer = connection.ask(
                method,
                head,
                body,
                due=due,
                silence=standing.read_timeout,
                limit=max_reply,
                want_body=want_body,
                may_stream=may_stream,
            )
            reply = await answer
        except Exception as e:  # noqa: BLE001 - `_told` says what it means
            # Whatever failed hung up, so the status is still that of this answer.
            sent = connection is not None and answer is not None
            status = connection.status if connection is not None and sent else 0
            raise _told(e, method, url, sent, status, idempotent) from None
        except BaseException:
            if connection is not None and answer is not None:
                connection.give_up(answer)
            raise
        if reply.stream is not None:
            reply.stream.told = partial(
                _told, method=method, url=url, sent=True, status=reply.status,
                idempotent=idempotent,
            )  # fmt: skip
        return reply

    def _new_origin(self, target: _Target) -> _Origin:
        loop = asyncio.get_running_loop()
        if self._deadlines is None or self._deadlines.loop is not loop:
            self._deadlines, self._outbox = Deadlines(loop), Outbox(loop)
        made = self._origins[target.origin] = _Origin(
            target, self._trusted, self._proxies, self._limit, self._deadlines, self._outbox,
            self._origins, self._reach,
        )  # fmt: skip
        return made

    def _trusted(self) -> ssl.SSLContext:
        """What TLS goes by; that of the system is read when the first needs it."""
        if self._tls is None:
            self._tls = client_tls()
        return self._tls

    async def close(self) -> None:
        for origin in list(self._origins.values()):
            origin.close()
        self._origins.clear()
        if self._deadlines is not None:
            self._deadlines.close()

    def health(self) -> Health:
        return Health(True)


class _Target(NamedTuple):
    """A URL, as far as connections and requests care. origin: scheme, host and port as written."""

    origin: str
    scheme: str
    host: str
    port: int
    authority: str
    path: str


_URL: Final = re.compile(
    r"((https?)://(([A-Za-z0-9.\-_]+|\[[0-9A-Fa-f:.]+\])(?::(\d*))?))([/?][!-\"$-~]*)?(?:#[!-~]*)?\Z"
)


@lru_cache(maxsize=1024)
def _target(url: str) -> _Target:
    found = _URL.match(url)
    if not found:
        raise RouteFailure("the URL to call is not valid")
    origin, scheme, authority, host, number, path = found.groups()
    usual = 443 if scheme == "https" else 80
    port = int(number or usual)
    if not 0 < port < 65536:
        raise RouteFailure("the URL to call is not valid")
    path = path or "/"
    return _Target(
        origin,
        scheme,
        host.strip("[]"),
        port,
        # The usual port is left out (RFC 9110, section 4.2.3).
        host if port == usual else authority,
        path if path.startswith("/") else f"/{path}",
    )


class _Unconnected(Exception):
    """No connection: what the sender is told, and the reason for operators."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class _Origin:
    """The connections to one scheme, host and port; forgotten when there are none."""

    def __init__(
        self,
        target: _Target,
        tls: Callable[[], ssl.SSLContext],
        proxies: Proxies,
        limit: int,
        deadlines: Deadlines,
        outbox: Outbox,
        others: dict[str, _Origin],
        reach: Reach | None,
    ) -> None:
        self.loop = deadlines.loop
        self._target = target
        self._tls = tls
        self._limit = limit
        self._deadlines = deadlines
        self._outbox = outbox
        self._others = others
        self._allowed = reach
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._taken = 0  # of the limit: connections that are open, and those that are being made
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._proxy = proxies.server(target.scheme, target.host)
        self._via = ""
        self._more = f" HTTP/1.1\r\nHost: {target.authority}\r\n"
        if self._proxy is not None and target.scheme == "http":
            # In absolute form (RFC 9112, section 3.2.2); of a tunnel the proxy sees no request.
            self._via = f"http://{target.authority}"
            if self._proxy.authorization:
                self._more += f"Proxy-Authorization: {self._proxy.authorization}\r\n"

    # --- requests

    def head(
        self,
        method: str,
        target: _Target,
        headers: Sequence[tuple[str, str]],
        body: bytes | Body | None,
        standing: Standing,
    ) -> bytes:
        """The head of a request. Raises RouteFailure for a header that cannot be written."""
        start = f"{method} {self._via}{target.path}{self._more}".encode()
        length = b"\r\n"
        if body is None:
            if method in _MEANS_A_BODY:
                length = b"Content-Length: 0\r\n\r\n"
        elif (size := body.size if isinstance(body, Body) else len(body)) is None:
            length = b"Transfer-Encoding: chunked\r\n\r\n"
        else:
            length = b"Content-Length: %d\r\n\r\n" % size
        if not headers:
            return b"".join((start, standing.raw, length))
        given = 0
        lines = []
        for name, value in headers:
            given |= _given[name]
            lines.append(f"{name}: {value}\r\n")
        try:
            own = "".join(lines).encode()
        except UnicodeEncodeError:
            raise _unwritable(headers) from None
        # One look at all of them: the only control characters are the ends of our own lines.
        if len(own) - len(own.translate(None, _CONTROLS)) != 2 * len(lines):
            raise _unwritable(headers)
        return b"".join((start, own, standing.without(given) if given else standing.raw, length))

    # --- connections

    def idle(self) -> Connection | None:
        """The connection that was used last, if there is one to use again."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    async def connected(self, connect_timeout: float, timeout: float) -> Connection:
        """A connection: one that gets free, or a new one.

        Raises TimedOut if all the time for the request went by, _Unconnected if there is none.
        """
        try:
            with TimeLimit(min(connect_timeout, timeout)):
                return await self._turn()
        except TimeoutError:
            if timeout <= connect_timeout:
                raise TimedOut("no time was left to reach the service") from None
            raise _Unconnected("no connection to the service in time", "TimeoutError") from None

    async def _turn(self) -> Connection:
        first = False
        while self._taken >= self._limit:
            turn: asyncio.Future[Connection | None] = self.loop.create_future()
            (self._waiting.appendleft if first else self._waiting.append)(turn)
            try:
                given = await turn
            except asyncio.CancelledError:
                # What was given to somebody who left in the same moment goes to the next.
                if turn.done() and not turn.cancelled():
                    self._pass_on(turn.result())
                raise
            if given is None:
                break
            if not given.transport.is_closing():
                return given
            first = True  # it was closed meanwhile, and its place is free in a moment
        else:
            self._taken += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._free()
            raise
        self._open.add(connection)
        return connection

    def _pass_on(self, given: Connection | None) -> None:
        if given is None:
            self._free()
        elif not given.transport.is_closing():
            self.returned(given)

    def _free(self) -> None:
        """The place of a connection is free: for who waits first."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._taken -= 1
        if not self._taken and self._others.get(self._target.origin) is self:
            del self._others[self._target.origin]

    def returned(self, connection: Connection) -> None:
        """It can be used again."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        connection.due = self.loop.time() + _IDLE_FOR
        self._deadlines.add(connection)
        self._idle.append(connection)

    def gone(self, connection: Connection) -> None:
        """It is closed."""
        if connection in self._open:
            self._open.discard(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._free()

    def close(self) -> None:
        """Close all; what is under way fails."""
        for connection in list(self._open):
            connection.abort()

    async def _connect(self) -> Connection:
        target, proxy = self._target, self._proxy
        if proxy is None:
            tls = self._tls() if target.scheme == "https" else None
            connection = await self._reach(target.host, target.port, tls)
        else:
            if self._allowed is not None and (found := numeric(target.host)):
                self._allowed.check(target.host, found)  # names are the proxy's to look up
            parts = urlsplit(proxy.url)
            secure = parts.scheme == "https"
            connection = await self._reach(
                parts.hostname or "",
                parts.port or (443 if secure else 80),
                self._tls() if secure else None,
                of="the proxy: ",
            )
            if target.scheme == "https":
                await self._tunnel(connection, proxy.authorization)
        if connection.lost:
            raise _Unconnected("the service cannot be reached", "it hung up")
        return connection

    async def _reach(
        self, host: str, port: int, tls: ssl.SSLContext | None, of: str = ""
    ) -> Connection:
        try:
            found = await self.loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            if self._allowed is not None and self._proxy is None:
                self._allowed.check(host, found)
            one = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_EYEBALLS)
            try:
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self._deadlines, self._outbox, self),
                    sock=one,
                    ssl=tls,
                    server_hostname=host.rstrip(".") if tls else None,
                )
            except BaseException:
                one.close()
                raise
        except ssl.SSLError as e:
            raise _Unconnected("no trusted TLS connection to the service", _reason(e)) from None
        except (OSError, UnicodeError) as e:
            raise _Unconnected("the service cannot be reached", of + _reason(e)) from None
        return connection

    async def _tunnel(self, connection: Connection, authorization: str) -> None:
        """Through the proxy to the far side, and TLS with that (RFC 9110, section 9.3.6)."""
        target = self._target
        host = f"[{target.host}]" if ":" in target.host else target.host
        said = f"Proxy-Authorization: {authorization}\r\n" if authorization else ""
        ask = f"CONNECT {host}:{target.port} HTTP/1.1\r\nHost: {target.authority}\r\n{said}\r\n"
        refused = "the proxy in front of the service did not let the request through"
        try:
            reply = await connection.ask(
                "CONNECT", ask.encode(), None, due=self.loop.time() + 3600, silence=None,
                limit=1024**2, want_body=False, may_stream=False,
            )  # fmt: skip
            if reply.status >= 300:
                raise _Unconnected(refused, f"the proxy answered {reply.status}")
            tunnel = await self.loop.start_tls(
                connection.transport, connection, self._tls(),
                server_hostname=target.host.rstrip("."),
            )  # fmt: skip
            if tunnel is None:
                raise ConnectionError("it hung up")
            connection.transport = tunnel
        except BaseException as e:
            connection.abort()
            if isinstance(e, ssl.SSLError):
                text = "no trusted TLS connection to the service"
                raise _Unconnected(text, _reason(e)) from None
            if isinstance(e, OSError | HttpParserError | HttpParserUpgrade | BadReply):
                raise _Unconnected(refused, f"the proxy: {_reason(e)}") from None
            raise


# --- headers of requests -------------------------------------------------------------------------

_CONTROLS: Final = bytes([*range(9), *range(10, 32), 127])
_MEANS_A_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_FRAMING: Final = HOP_BY_HOP | {"content-length", "expect", "host"}
"""What follows from the request itself; another of its kind would be a second request in it."""


class _Given(dict[str, int]):
    """For names of headers, as bits: which of those that each request has they take the place of.

    Raises RouteFailure for a name that no request can have.
    """

    def __missing__(self, name: str) -> int:
        lower = name.lower()
        if not TOKEN.match(name) or lower in _FRAMING:
            raise RouteFailure(f"the header {name[:40]!r} cannot be sent")
        bit = BITS.get(lower, 0)
        if len(self) < 1024:
            self[name] = bit
        return bit


_given: Final = _Given()


def _unwritable(headers: Sequence[tuple[str, str]]) -> RouteFailure:
    name = next((name for name, value in headers if UNSAFE.search(value)), "")
    return RouteFailure(f"the header {name[:40]!r} cannot be sent")


# --- errors ---------------------------------------------------------------------------------------


def _told(
    e: Exception, method: str, url: str, sent: bool, status: int, idempotent: bool
) -> Exception:
    """What the end of an exchange means, by how far it got."""
    where = f"{method} {url.partition('?')[0]}"
    if isinstance(e, BadReply):
        e.add_note(f"{where}: status {status}")
        return e
    if isinstance(e, _Unconnected):
        return Unreachable(str(e)).noted(f"{where}: {e.reason}")
    if not sent and isinstance(e, TimedOut):
        return e.noted(f"{where}: TimeoutError")
    if not isinstance(e, OSError | HttpParserError | HttpParserUpgrade):
        return e
    return _unanswered(e, status, idempotent).noted(f"{where}: {_reason(e)}")


def _unanswered(e: Exception, status: int, idempotent: bool) -> EsbError:
    if isinstance(e, TimeoutError):
        text = "the service did not answer in time"
    elif not isinstance(e, OSError):
        return BadReply("the service answered something that is not HTTP")
    elif status:
        text = "the answer of the service broke off"
        return Transient(text) if idempotent else BadReply(text)
    else:
        text = "the service hung up without an answer"
    return TimedOut(text) if idempotent else OutcomeUnknown(f"{text}; what it did is unknown")


def _reason(e: Exception) -> str:
    if isinstance(e, OSError) and e.errno and not isinstance(e, ssl.SSLError):
        # asyncio puts addresses around what the system said; ours stands before it.
        return (os.strerror(e.errno) if e.errno > 0 else e.strerror or str(e)).lower()
    return f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
