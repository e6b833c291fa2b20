"""The one HTTP server of a bus: Sites are mounted on it, also while it runs.

The app of `esb.http`, inside the event loop of the bus. A caller who hangs up does not stop the
route that works on his request: it may have had effects already. A caller who waits longer than
the deadline of the request gets a 504 meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from weakref import WeakSet

import msgspec
import structlog
from msgspec.structs import replace as replace_fields

from esb.adapter import Build, Health, Probe
from esb.envelope import Body, Headers
from esb.errors import (
    BadMessage,
    Denied,
    EsbError,
    NoSuchOperation,
    OutcomeUnknown,
    Overloaded,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from esb.http import Exchange, HttpServer, HungUp, Limits
from esb.identity import NOBODY, PUBLIC, Authenticator, Credentials, Principal
from esb.metrics import Gauge
from esb_web.callers import readers
from esb_web.cors import allowed_by, preflight
from esb_web.forwarded import Forwarded
from esb_web.listen import ListenOptions
from esb_web.messages import Headerlist, Request, Response, Site
from esb_web.problems import challenges, problem, unexpected
from esb_web.query import parse_query
from esb_web.router import Found, Router, normal_path
from esb_web.tls import Files, Handshakes

log = structlog.get_logger("esb.web")

_SMALL: Final = 64 * 1024
"""Bodies up to this size are not counted: connections bound them well enough."""

_LARGE: Final = 1024**2
"""Bodies over this size are handed over as they arrive, where their site takes them so."""

_BACK_AFTER: Final = {"starting": 1.0, "stopping": 5.0}
"""Seconds after which to come back (Retry-After), by what the bus is doing."""

_PAUSED: Final = 30.0
"""Seconds after which to come back to a route that an operator stopped."""

_OVERTIME: Final = 1.0
"""Seconds after the deadline in which the route's own error may still come: it says more."""


_DOCS: Final = re.compile(r"/\Z|/docs/|.*(?:/docs|/openapi\.json)\Z")


def web_server(build: Build) -> WebServer:
    """The server of this bus, made from its `listen:` section on first use.

    Records a problem for TLS files that are missing or unusable.
    """
    options: ListenOptions = build.section("listen")

    def make() -> WebServer:
        return WebServer(options, _server_tls(build, options))

    server = build.shared("web", make)
    otherwise, who = NOBODY if build.ways else PUBLIC, readers(build)
    build.once_running("callers of the web server", lambda: server.know(otherwise, who))
    return server


def _server_tls(build: Build, options: ListenOptions) -> ssl.SSLContext | None:
    tls = options.tls
    if tls is None:
        return None
    cert, key = build.credential(tls.cert), build.credential(tls.key)
    authorities = None if tls.client_ca is None else build.credential(tls.client_ca)
    try:
        return Handshakes(Files(cert, key, authorities, tls.certified)).context
    except (ssl.SSLError, ValueError) as e:
        raise build.problem("listen.tls holds no usable certificate and key", code="tls") from e


def claim_path(build: Build, path: str, methods: Sequence[str], *where: str | int) -> None:
    """Take a path and its methods for the route being built, so that no other route serves them.

    Records a problem at `where` for a path that is none, or that another route serves.
    """
    try:
        normal = normal_path(path)
    except ValueError as e:
        raise build.problem(str(e), *where, code="path") from e
    for method in methods:
        build.claim(f"http {method} {normal}", *where)


class WebServer:
    """A Resource (open, close, health) that serves what is mounted on it.

    probes: what GET on "/healthz" and "/readyz" tells, by name; put there by the bus.
    socket: one that somebody bound already, to listen on instead of `options.host` and `port`.
    otherwise: who may call a site that does not say so. readers: who may read the pages about what
    is served.
    """

    def __init__(self, options: ListenOptions, tls: ssl.SSLContext | None = None) -> None:
        self.options = options
        self.probes: dict[str, Probe] = {}
        self.socket: socket.socket | None = None
        self.otherwise = self.readers = PUBLIC
        self.sites = Router()
        self.version = 0  # counts changes of what is mounted
        self._tls = tls
        self._server: HttpServer | None = None
        self._bound = options.port
        self._bus = "starting"  # or "running", "stopping"
        self._paused: dict[Site, Site] = {}  # what answers in the place of a site
        self._running = 0
        _SERVERS.add(self)
        self._held = 0  # bytes of large bodies in memory
        self._forwarded = Forwarded(options.trusted_proxies) if options.trusted_proxies else None
        self._cors = options.cors
        self._docs: Any = None

    @property
    def url(self) -> str:
        """Where this is served, with the port really bound: "http://127.0.0.1:8080"."""
        host = self.options.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound
            host = "localhost"
        host = f"[{host}]" if ":" in host else host
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{host}:{self._bound}{self.options.base_path}"

    @property
    def address(self) -> tuple[str, int]:
        """See `Handed`."""
        return self.options.host, self.options.port

    async def leave(self, grace: float) -> None:
        """See `Handed`."""
        if self._server is not None:
            await self._server.leave(grace)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._server.connections) if self._server else 0

    @property
    def requests(self) -> int:
        """How many requests are being answered."""
        return len(self._server.running) if self._server else 0

    def know(self, otherwise: Authenticator, readers: Authenticator) -> None:
        """From now on these may call; see above."""
        self.otherwise, self.readers = otherwise, readers

    # --- what is served ---

    def mount(self, site: Site) -> None:
        """Serve a site from now on. It takes the place of one with the same path and method.

        Raises ValueError if its path is none.
        """
        self.sites.add(site)
        self._paused.pop(site, None)
        self.version += 1

    def unmount(self, site: Site) -> None:
        """Serve it no longer, except where another site took its place already."""
        self.sites.remove(site)
        if (stand_in := self._paused.pop(site, None)) is not None:
            self.sites.remove(stand_in)
        self.version += 1

    async def retire(self, site: Site, grace: float) -> None:
        """Unmount and wait until its requests are answered, for `grace` seconds at most; those
        left are then cancelled and answered with 503. For `Source.stop`."""
        self.unmount(site)
        await self._finish(site, grace)

    async def pause(self, site: Site, grace: float) -> None:
        """As `retire`, but whoever calls from now on is told to come back later: a 404 would be
        final. It need not be mounted. For `Pausing.pause`."""
        if site not in self._paused:

            async def away(request: Request) -> Response:
                return _refusal(site, _Paused(), request.headers, request.raw_path)

            stand_in = replace(site, handler=away)
            self.sites.add(stand_in)
            self._paused[site] = stand_in
            self.version += 1
        await self._finish(site, grace)

    async def _finish(self, site: Site, grace: float) -> None:
        if tasks := self._working_for(site):
            await asyncio.wait(tasks, timeout=grace)
        left = self._working_for(site)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5.0)

    def _working_for(self, site: Site) -> list[asyncio.Task[None]]:
        running = self._server.running if self._server else ()
        return [one.task for one in running if one.site is site and one.task is not None]

    def serve(self) -> None:
        """From now on every request is answered; before, only probes were and the rest got 503."""
        if self._bus == "starting":
            self._bus = "running"
            if self.socket is not None and self._server is not None:
                self._taking = asyncio.create_task(self._server.take())

    def drain(self) -> None:
        """From now on only probes are answered; every other new request gets 503."""
        self._bus = "stopping"

    # --- the resource ---

    async def open(self) -> None:
        """Listen. Raises EsbError when the address is taken or not ours."""
        options = self.options
        limits = Limits(**{each.name: getattr(options, each.name) for each in fields(Limits)})
        forwarded = self._forwarded
        shared = {} if forwarded is None else {"shared": forwarded.trusts}
        server = HttpServer(self, limits, self._tls, **shared)
        self._bound = await server.open(options.host, options.port, self.socket)
        self._server = server
        log.info("listening", url=self.url)

    async def close(self) -> None:
        """Stop listening, let answers under way be written, and close every connection."""
        self.drain()
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    def health(self) -> Health:
        """Whether it listens."""
        if self._server is None:
            return Health(False, "not listening")
        return Health(True)

    # --- one request ---

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None] | None:
        """The app of the HTTP server."""
        asked = time.monotonic()
        method = exchange.method
        site: Site | None = None
        try:
            looks = method == "GET" or method == "HEAD"
            if looks and (probe := self.probes.get(exchange.path[1:])) is not None:
                up, members = probe()
                if self.otherwise is not PUBLIC:
                    members = {"status": members.get("status", "")}
                exchange.answer(*_json(200 if up else 503, members))
                return None
            if self._bus != "running":
                raise _Away(self._bus)
            if self.options.hosts and not self._serves(exchange.headers.get("host", "")):
                raise _Misdirected("this host is not served here")
            inner = self._inside(exchange.path)
            if inner is None:
                found, allowed = None, set[str]()
            else:
                found, allowed = self.sites.find(inner, method)
                if looks and (found is None or found[1]) and self._is_document(inner):
                    base = self._prefix(exchange) + self.options.base_path
                    if self.readers is not PUBLIC:
                        return self._document(exchange, self.readers, inner, base)
                    return self._docs.answer(exchange, inner, base)  # type: ignore[no-any-return]
            if found is None:
                self._answer(exchange, self._unserved(exchange, allowed))
                return None
            site, values = found
            if self._running >= self.options.max_requests:
                raise Overloaded("too many requests are being worked on", retry_after=1.0)
            limit = site.max_body or self.options.max_body
            packing = exchange.headers.get("content-encoding")
            if packing is not None and packing.lower() != "identity":
                raise UnsupportedMedia("a packed body (Content-Encoding) is not unpacked here")
            if not exchange.complete and int(exchange.headers.get("content-length", 0)) > limit:
                raise _too_large(limit)
            if (auth := site.auth or self.otherwise) is not PUBLIC:
                return self._admit(exchange, site, auth, asked, limit)
            if not exchange.complete:
                return self._admit(exchange, site, PUBLIC, asked, limit)
            body = exchange.taken()
            if len(body) > limit:
                raise _too_large(limit)
            request = self._request(exchange, site, inner or "", values, asked, body)
        except EsbError as e:
            self._refuse(exchange, site, e)
            return None
        return self._serve(exchange, site, request)

    async def _admit(
        self, exchange: Exchange, site: Site, auth: Authenticator, asked: float, limit: int
    ) -> None:
        """Serve a request once it is here and it is known who sent it: before its body is read,
        where that does not tell."""
        try:
            who: Principal | None = None
            if auth is not PUBLIC and "body" not in auth.asks:
                who = await auth.authenticate(self._credentials(exchange, auth))
            arriving: Body | None = None
            if exchange.complete:
                body = exchange.taken()
                if len(body) > limit:
                    raise _too_large(limit)
            else:
                body, arriving = await self._read(exchange, limit)
            # Meanwhile routes may have been replaced: who may call is what the new one says.
            site, values = self._now(exchange)
            now = site.auth or self.otherwise
            if now is PUBLIC:
                who = None
            elif who is None or now is not auth:
                if arriving is not None and "body" in now.asks:
                    raise Unavailable("what is served here has just changed")
                who = await now.authenticate(self._credentials(exchange, now, body))
            path = self._inside(exchange.path) or ""
            request = self._request(exchange, site, path, values, asked, body, arriving)
            if who is not None:
                headers = request.headers
                if hidden := {name: None for name in now.conceals if name in headers}:
                    headers = headers.replace(hidden)
                request = replace_fields(request, who=who, principal=who.name, headers=headers)
        except HungUp:
            return
        except EsbError as e:
            self._refuse(exchange, site, e)
            return
        except Exception:
            log.exception("a caller could not be looked at", path=exchange.path)
            self._answer(exchange, unexpected(exchange.path))
            return
        await self._serve(exchange, site, request)

    def _credentials(
        self, exchange: Exchange, auth: Authenticator, body: bytes = b""
    ) -> Credentials:
        connection, headers = exchange.connection, exchange.headers
        client = connection.client
        if self._forwarded is not None and self._forwarded.trusts(client):
            client = self._forwarded.told(headers, client, "", "")[0]
        certificate = None
        if "certificate" in auth.asks:
            certificate = connection.transport.get_extra_info("peercert")
        return Credentials(
            headers=headers, method=exchange.method, address=client, body=body,
            target=f"{exchange.path}?{exchange.query}" if exchange.query else exchange.path,
            certificate=certificate,
        )  # fmt: skip

    async def _document(
        self, exchange: Exchange, auth: Authenticator, path: str, base: str
    ) -> None:
        """A page about what is served, for those who may read it."""
        try:
            await auth.authenticate(self._credentials(exchange, auth))
        except EsbError as e:
            if isinstance(e, Denied) and "text/html" in exchange.headers.get("accept", ""):
                from esb_web.door import HEADERS, door

                headers = [*HEADERS.items(), *challenges(e)]
                self._answer(exchange, Response(401, headers, door(auth.described)))
                return
            self._refuse(exchange, None, e)
            return
        await self._docs.answer(exchange, path, base)

    def _now(self, exchange: Exchange) -> Found:
        """What serves a request by now."""
        if self._bus != "running":
            raise _Away(self._bus)
        found, _ = self.sites.find(self._inside(exchange.path) or "", exchange.method)
        if found is None:
            raise NoSuchOperation("nothing is served at this path")
        return found

    async def _serve(self, exchange: Exchange, site: Site, request: Request) -> None:
        """Run the site's handler; the answer is given here, at the latest at the deadline."""
        assert request.deadline is not None
        large = len(request.body) if len(request.body) > _SMALL else 0
        self._held += large
        self._running += 1
        exchange.site = site
        # Both clocks are the system's monotonic one.
        exchange.answer_by(request.deadline + _OVERTIME, self._give_up)
        try:
            response = await site.handler(request)
            if response.arriving is not None:
                await self._pass_on(exchange, response, response.arriving)
                return
        except EsbError as e:
            response = problem(e, instance=request.path)
        except HungUp:
            return
        except asyncio.CancelledError:
            # Only `retire` and `close` cancel: the grace time is over.
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
            error = OutcomeUnknown("the bus stopped before an answer came; what it did is unknown")
            response = _refusal(site, error, request.headers, request.path)
            response = Response(503, response.headers, response.body)
        except Exception:
            log.exception("handler failed", path=request.path, method=request.method)
            response = unexpected(request.path)
        finally:
            self._held -= large
            self._running -= 1
            if request.arriving is not None:
                await request.arriving.close()
        self._answer(exchange, response)

    async def _pass_on(self, exchange: Exchange, response: Response, body: Body) -> None:
        """Give an answer whose body is still arriving. An error before its first bytes is raised,
        a later one cuts it off."""
        pieces = body.chunks()
        try:
            piece = await anext(pieces, b"")
            self._answer(exchange, response, body)
            try:
                while piece:
                    await exchange.write(piece)
                    piece = await anext(pieces, b"")
                exchange.end()
            except EsbError as e:
                log.warning("an answer broke off", path=exchange.path, error=e.detail)
                exchange.fail()
        finally:
            await body.close()

    def _give_up(self, exchange: Exchange) -> None:
        """The deadline of a request is over."""
        error = OutcomeUnknown("no answer in time; what was done is unknown")
        path = _decoded_path(self._inside(exchange.path) or "")
        self._answer(exchange, _refusal(exchange.site, error, exchange.headers, path))

    def _refuse(self, exchange: Exchange, site: Site | None, error: EsbError) -> None:
        """Answer with what the listener has against a request."""
        response = _refusal(site, error, exchange.headers, exchange.path)
        if isinstance(error, _Away):
            exchange.keep_alive = False
        elif isinstance(error, _Misdirected):
            response = Response(421, response.headers, response.body)
        self._answer(exchange, response)

    def _answer(self, exchange: Exchange, response: Response, arriving: Body | None = None) -> None:
        """Give an answer, or begin the one with a body that is arriving; one whose headers cannot
        be written becomes a 500. Raises HungUp where there is nobody to begin it for."""
        if self._bus == "stopping":
            # Whoever asks on this connection again would only hear that nobody is there.
            exchange.keep_alive = False
        headers = response.headers
        if self._cors is not None:
            headers = [*headers, *allowed_by(self._cors, exchange.headers), ("vary", "Origin")]
        try:
            if arriving is None:
                exchange.answer(response.status, headers, response.body)
            else:
                exchange.begin(response.status, headers, arriving.size)
        except ValueError as e:
            log.error("a header of an answer cannot be written", header=str(e))
            response = unexpected("")
            exchange.answer(response.status, response.headers, response.body)

    def _inside(self, path: str) -> str | None:
        """The path below the base path; None if it is not below it."""
        base = self.options.base_path
        if path == "*":
            return None
        if not base:
            return path
        if path == base:
            return "/"
        return path[len(base) :] if path.startswith(f"{base}/") else None

    def _serves(self, host: str) -> bool:
        name = re.sub(r":\d+\Z", "", host).lower()
        return any(
            name == wanted.lower() or (wanted[:2] == "*." and name.endswith(wanted[1:].lower()))
            for wanted in self.options.hosts
        )

    async def _read(self, exchange: Exchange, limit: int) -> tuple[bytes, Body | None]:
        """The whole body, or else one that is still arriving, if it is large and its site takes it
        so. Raises TooLarge before all of it is here, HungUp if it never will be."""
        parts: list[bytes] = []
        size = 0
        try:
            while piece := await exchange.receive():
                parts.append(piece)
                size += len(piece)
                self._held += len(piece)
                if size > limit:
                    raise _too_large(limit)
                if size > _LARGE and self._now(exchange)[0].passage.open:
                    kind = exchange.headers.get("content-type", "")
                    told = exchange.headers.get("content-length")
                    pieces = self._pieces(exchange, b"".join(parts), limit)
                    return b"", Body.from_stream(pieces, kind, None if told is None else int(told))
                if self._held > self.options.max_memory:
                    raise Overloaded("too much is being received", retry_after=1.0)
        finally:
            self._held -= size
        return b"".join(parts), None

    async def _pieces(self, exchange: Exchange, piece: bytes, limit: int) -> AsyncIterator[bytes]:
        """A body as it arrives, behind its first bytes; who sends waits for who takes them."""
        size = 0
        exchange.steady = True
        while piece:
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            yield piece
            try:
                piece = await exchange.receive()
            except HungUp as e:
                raise BadMessage("the body broke off before its end") from e

    def _request(
        self,
        exchange: Exchange,
        site: Site,
        path: str,
        values: dict[str, str],
        asked: float,
        body: bytes,
        arriving: Body | None = None,
    ) -> Request:
        headers = exchange.headers
        connection = exchange.connection
        client, scheme, host, prefix = connection.client, connection.scheme, "", ""
        host = headers.get("host", "")
        if self._forwarded is not None and self._forwarded.trusts(client):
            client, scheme, host, prefix = self._forwarded.told(headers, client, scheme, host)
        query = exchange.query
        return Request(
            method=exchange.method,
            path=_decoded_path(path),
            raw_path=path,
            headers=headers,
            path_params=values,
            query=parse_query(query) if query else {},
            query_string=query,
            body=body,
            client=client,
            scheme=scheme,
            host=host,
            base_path=prefix + self.options.base_path,
            deadline=asked + (site.timeout or self.options.request_timeout),
            principal=connection.principal,
            arriving=arriving,
        )

    def _prefix(self, exchange: Exchange) -> str:
        """What a trusted proxy says it took off the front of the path."""
        if self._forwarded is None or not self._forwarded.trusts(exchange.connection.client):
            return ""
        return self._forwarded.told(exchange.headers, "", "", "")[3]

    def _is_document(self, path: str) -> bool:
        """Whether this is the path of one of the pages about what is served."""
        if not self.options.docs or not _DOCS.match(path):
            return False
        if self._docs is None:
            from esb_web.docs import Docs  # loads FastAPI: 200 ms

            self._docs = Docs(self)
        return bool(self._docs.has(path))

    def _unserved(self, exchange: Exchange, allowed: set[str]) -> Response:
        """What no site answers: OPTIONS, a wrong method, nothing at all."""
        method = exchange.method
        if allowed:
            methods = sorted(allowed | {"OPTIONS"} | ({"HEAD"} if "GET" in allowed else set()))
            if method == "OPTIONS":
                answer = [("allow", ", ".join(methods))]
                if self._cors and exchange.headers.get("access-control-request-method"):
                    answer += preflight(self._cors, exchange.headers)
                return Response(204, answer)
            raise NoSuchOperation(f"{method} is not served at this path", methods)
        if method == "OPTIONS" and exchange.path == "*":
            return Response(204, [("allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")])
        raise NoSuchOperation("nothing is served at this path")


def _refusal(site: Site | None, error: EsbError, headers: Headers, path: str) -> Response:
    """What the listener has against a request, written as its site does."""
    if site is None or site.refused is None:
        return problem(error, instance=path)
    return site.refused(error, headers)


class _Away(Overloaded):
    """The bus is "starting" or "stopping": its routes are not there."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"the bus is {doing}", retry_after=_BACK_AFTER[doing])


class _Paused(Unavailable):
    """Those who run the bus stopped the route."""

    def __init__(self) -> None:
        super().__init__("this is stopped for a while")
        self.retry_after = _PAUSED


class _Misdirected(NoSuchOperation):
    """The request names a host that is not served (421, RFC 9110, section 15.5.20)."""


def _decoded_path(path: str) -> str:
    """The path that was dispatched: decoded (the router has checked it), no slash at its end."""
    if len(path) > 1 and path.endswith("/"):
        path = path[:-1]
    return unquote_to_bytes(path).decode() if "%" in path else path


def _json(status: int, members: Mapping[str, object]) -> tuple[int, Headerlist, bytes]:
    headers = [("content-type", "application/json"), ("cache-control", "no-store")]
    return status, headers, msgspec.json.encode(members, enc_hook=str)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes")


# --- what is read when somebody asks --------------------------------------------------------------

_SERVERS: Final[WeakSet[WebServer]] = WeakSet()


def _requests() -> dict[tuple[str, ...], float]:
    return {(): sum(server.requests for server in list(_SERVERS))}


def _connections() -> dict[tuple[str, ...], float]:
    return {(): sum(server.connections for server in list(_SERVERS))}


Gauge("esb_listener_requests", "Requests that are being answered now.", (), _requests)
Gauge("esb_listener_connections", "Connections that are open to the listener.", (), _connections)
