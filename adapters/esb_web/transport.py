"""The one file that knows the HTTP client library; nothing of the library gets past it.

Every wait has a deadline and every answer a limit, counted after unpacking.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import zlib
from functools import lru_cache
from typing import Any

import aiohttp
import yarl
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser, HttpResponseParserPy

from esb.adapter import Health
from esb.envelope import Headers
from esb.errors import (
    BadReply,
    EsbError,
    OutcomeUnknown,
    RouteFailure,
    TimedOut,
    Transient,
    Unreachable,
)
from esb_web.client import ClientReply
from esb_web.messages import Headerlist, decoded
from esb_web.proxy import Proxies


class Pool:
    """Connections with the same TLS and limits, shared by all endpoints that want such."""

    def __init__(self, tls: ssl.SSLContext | None, proxies: Proxies | None, limit: int) -> None:
        self._tls = tls
        self._proxies = proxies or Proxies()
        self._limit = limit
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self.session()

    def session(self) -> aiohttp.ClientSession:
        """The session, made inside the running loop on first use."""
        if self._session is None or self._session.closed:
            if HttpResponseParser is HttpResponseParserPy:
                # AIOHTTP_NO_EXTENSIONS, or a wheel without C code: the parser in Python lets
                # smuggled framing through (CVE-2025-53643, CVE-2025-69224).
                raise EsbError("the HTTP client library runs without its strict C parser")
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=self._tls or ssl.create_default_context(),
                    limit=0,
                    limit_per_host=self._limit,
                    # Below the usual five seconds after which servers hang up: a request that
                    # meets a closing connection has an unknown outcome.
                    keepalive_timeout=4.0,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
                auto_decompress=False,  # see _Unpacker: the library unpacks without our limit
                trust_env=False,
                max_headers=256,
                max_field_size=32 * 1024,
                trace_configs=[trace],
            )
            # The library would repeat idempotent requests by itself; retrying is the route's.
            self._session._retry_connection = False
        return self._session

    async def exchange(
        self,
        method: str,
        url: str,
        headers: Headerlist,
        body: bytes | None,
        *,
        timeout: float,
        connect_timeout: float,
        read_timeout: float | None,
        idempotent: bool,
        max_reply: int,
        want_body: bool,
    ) -> ClientReply:
        """One request and its answer; see `WebClient.request`."""
        target = _target(url)
        proxy = self._proxies.server(target.scheme, target.raw_host or "")
        to_proxy: dict[str, str] | None = None
        if proxy is not None and proxy.authorization:
            # Of a tunnel the proxy sees no more than how it is opened.
            if target.scheme == "https":
                to_proxy = {"Proxy-Authorization": proxy.authorization}
            else:
                headers = [*headers, ("Proxy-Authorization", proxy.authorization)]
        progress = _Progress()
        try:
            async with (
                asyncio.timeout(timeout),
                self.session().request(
                    method,
                    target,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    timeout=aiohttp.ClientTimeout(
                        total=None, connect=connect_timeout, sock_read=read_timeout
                    ),
                    proxy=proxy.url if proxy else None,
                    proxy_headers=to_proxy,
                    trace_request_ctx=progress,
                ) as response,
            ):
                progress.status = response.status
                if not want_body and response.status < 300:
                    await _drained(response)
                    return ClientReply(response.status, _headers(response), b"")
                content = await _read(response, max_reply)
                return ClientReply(response.status, _headers(response), content)
        except (TimeoutError, OSError, aiohttp.ClientError, HttpProcessingError) as e:
            raise _translated(e, progress, idempotent).noted(
                f"{method} {url.partition('?')[0]}: {_reason(e)}"
            ) from None  # the library's own text may hold the query and its secrets
        except BadReply as e:
            e.add_note(f"{method} {url.partition('?')[0]}: status {progress.status}")
            raise

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def health(self) -> Health:
        return Health(True)


class _Progress:
    """How far one request got."""

    __slots__ = ("sent", "status")

    def __init__(self) -> None:
        self.sent = False
        self.status = 0


async def _note_sent(_session: Any, context: Any, _params: Any) -> None:
    context.trace_request_ctx.sent = True


_TARGET = re.compile(r"https?://[!-~]+\Z")


@lru_cache(maxsize=1024)
def _target(url: str) -> yarl.URL:
    if not _TARGET.match(url):
        raise RouteFailure("the URL to call is not valid")
    try:
        target = yarl.URL(url, encoded=True)
        usable = bool(target.raw_host) and target.user is None and target.port is not None
    except ValueError:
        usable = False
    if not usable:
        raise RouteFailure("the URL to call is not valid")
    return target


def _translated(e: Exception, progress: _Progress, idempotent: bool) -> EsbError:
    timed_out = isinstance(e, TimeoutError) and not isinstance(e, aiohttp.ClientConnectorError)
    if not progress.sent:
        if isinstance(e, aiohttp.ConnectionTimeoutError):
            return Unreachable("no connection to the service in time")
        if timed_out:
            return TimedOut("no time was left to reach the service")
        if isinstance(e, aiohttp.ClientHttpProxyError):
            return Unreachable("the proxy in front of the service did not let the request through")
        if isinstance(e, aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch):
            return Unreachable("no trusted TLS connection to the service")
        return Unreachable("the service cannot be reached")
    if timed_out:
        if idempotent:
            return TimedOut("the service did not answer in time")
        return OutcomeUnknown("the service did not answer in time; what it did is unknown")
    if isinstance(e, HttpProcessingError | aiohttp.ClientResponseError):
        return BadReply("the service answered something that is not HTTP")
    if progress.status:
        text = "the answer of the service broke off"
        return Transient(text) if idempotent else BadReply(text)
    text = "the service hung up without an answer"
    return TimedOut(text) if idempotent else OutcomeUnknown(f"{text}; what it did is unknown")


def _reason(e: Exception) -> str:
    if isinstance(e, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {e.status}"
    cause = e.os_error if isinstance(e, aiohttp.ClientConnectorError) else e
    if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
        # asyncio and aiohttp put addresses around what the system said; ours stands before it.
        said = os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or str(cause)
        of = "the proxy: " if isinstance(e, aiohttp.ClientProxyConnectionError) else ""
        return of + said.lower()
    text = e.message if isinstance(e, aiohttp.ClientResponseError) else str(e)
    return f"{type(e).__name__}: {text}" if text else type(e).__name__


def _headers(response: aiohttp.ClientResponse) -> Headers:
    return Headers.trusted((decoded(n), decoded(v)) for n, v in response.raw_headers)


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    if (response.content_length or 0) > limit:
        raise BadReply(f"the answer of the service is larger than {limit} bytes")
    unpack = _Unpacker(response.headers.get("Content-Encoding", ""), limit)
    chunks: list[bytes] = []
    while chunk := await response.content.readany():
        chunks.append(unpack(chunk))
    chunks.append(unpack.end())
    return b"".join(chunks)


async def _drained(response: aiohttp.ClientResponse) -> None:
    """Read a short body so that its connection can be used again; hang up on anything else."""
    size = 0
    try:
        async with asyncio.timeout(1.0):
            while size < 64 * 1024 and (chunk := await response.content.readany()):
                size += len(chunk)
    except (TimeoutError, OSError, aiohttp.ClientError, HttpProcessingError):
        pass  # the far side has taken the message; how its answer ends does not matter
    if not response.content.at_eof():
        response.close()


class _Unpacker:
    """Undoes a Content-Encoding (RFC 9110, section 8.4) and counts, so that memory is bounded."""

    def __init__(self, encoding: str, limit: int) -> None:
        encoding = encoding.strip().lower()
        self._left = limit
        self._limit = limit
        self._inflate: zlib._Decompress | None = None
        self._raw_deflate = encoding == "deflate"
        if encoding in ("gzip", "x-gzip"):
            self._inflate = zlib.decompressobj(wbits=31)
        elif encoding == "deflate":
            self._inflate = zlib.decompressobj()
        elif encoding not in ("", "identity"):
            raise BadReply("the answer of the service is packed in a way that was not asked for")

    def __call__(self, chunk: bytes) -> bytes:
        if self._inflate is not None:
            chunk = self._inflated(chunk)
        self._left -= len(chunk)
        if self._left < 0:
            raise BadReply(f"the answer of the service is larger than {self._limit} bytes")
        return chunk

    def _inflated(self, chunk: bytes) -> bytes:
        assert self._inflate is not None
        try:
            # One byte more than is left, so that going over the limit shows.
            return self._inflate.decompress(chunk, self._left + 1)
        except zlib.error as e:
            if self._raw_deflate:
                # Some servers send "deflate" without the zlib wrapper that it is defined with.
                self._raw_deflate = False
                self._inflate = zlib.decompressobj(wbits=-15)
                return self._inflated(chunk)
            raise BadReply("the answer of the service cannot be unpacked") from e

    def end(self) -> bytes:
        if self._inflate is not None and not self._inflate.eof:
            raise BadReply("the packed answer of the service is incomplete")
        return b""
