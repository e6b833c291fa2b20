"""A real listener, and raw sockets towards it: what a test sends is what goes over the wire."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from esb.envelope import Headers
from esb_web import ListenOptions, Request, Response, Site, WebServer


def site(path: str, *methods: str, handler: Any = None, **options: Any) -> Site:
    """A site; without a handler it answers with what it got."""
    return Site(path=path, methods=methods or ("POST",), handler=handler or tell, **options)


async def tell(request: Request) -> Response:
    """Answers with method, path and body."""
    told = f"{request.method} {request.path} {len(request.body)} "
    return Response(200, [("content-type", "text/plain")], told.encode() + request.body[:100])


@contextlib.asynccontextmanager
async def serving(
    *sites: Site, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[WebServer]:
    """A listener on a free port with these sites."""
    server = WebServer(ListenOptions.model_validate({"port": 0, "docs": False, **options}), tls)
    for one in sites:
        server.mount(one)
    await server.open()
    server.serve()
    try:
        yield server
    finally:
        await server.close()


class Wire:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Write, and do not mind that the far side hung up."""
        with contextlib.suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def answer(self) -> tuple[int, Headers, bytes]:
        """The next answer. Raises EOFError if the far side hung up without one."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as e:
            raise EOFError from e
        lines = head.decode("latin-1").split("\r\n")
        headers = Headers(
            (name, value.strip())
            for name, _, value in (line.partition(":") for line in lines[1:] if line)
        )
        status = int(lines[0].split()[1])
        if status == 100:
            return 100, headers, b""
        return status, headers, await self.reader.readexactly(int(headers.get("content-length", 0)))

    async def ended(self) -> bytes:
        """What still comes until the far side closes."""
        with contextlib.suppress(ConnectionError):
            return await self.reader.read()
        return b""


@contextlib.asynccontextmanager
async def wire(url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    """A raw connection to where `url` points."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=tls, limit=2**24)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def ask(url: str, data: bytes) -> tuple[int, Headers, bytes]:
    """Send raw bytes on a connection of their own and return the first answer; status 0 if the
    far side hung up without one."""
    async with wire(url) as one:
        await one.send(data)
        try:
            return await one.answer()
        except EOFError:
            return 0, Headers(), b""


Backend = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextlib.asynccontextmanager
async def backend(behave: Backend, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server of raw TCP connections, each given to `behave`; its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await behave(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield (
            f"{'https' if tls else 'http'}://localhost:{port}"
            if tls
            else f"http://127.0.0.1:{port}"
        )
    finally:
        server.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[str, Headers, bytes]:
    """Request line, headers and body of the next request on a raw connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.split("\r\n")
    headers = Headers((n, v.strip()) for n, _, v in (one.partition(":") for one in rest if one))
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return line, headers, body
