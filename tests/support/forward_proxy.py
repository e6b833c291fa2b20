"""A forward proxy: tunnels (CONNECT) and requests in absolute form, with or without a password."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit


class ForwardProxy:
    """hosts: the port on this machine where each host really is; any other is refused with 502.
    user: "name:password" to ask for. `seen`: the request lines that were let through."""

    def __init__(self, hosts: Mapping[str, int], user: str = "") -> None:
        self.seen: list[str] = []
        self.refused = 0
        self._hosts = hosts
        self._wanted = f"basic {base64.b64encode(user.encode()).decode()}" if user else ""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection; for `support.web.backend`."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *headers = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = line.split()
        given = {name.lower(): value for name, _, value in (h.partition(": ") for h in headers)}
        authorization = given.get("proxy-authorization", "")
        if self._wanted and authorization[:6].lower() + authorization[6:] != self._wanted:
            self.refused += 1
            writer.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b"Proxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
            )
            return
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = self._hosts.get(parts.hostname or "")
        if port is None:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        self.seen.append(line)
        far_reader, far = await asyncio.open_connection("127.0.0.1", port)
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            path = f"{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
            passed = [h for h in headers if not h.lower().startswith(("proxy-", "connection:"))]
            lines = [f"{method} {path} {version}", *passed, "Connection: close", "", ""]
            far.write("\r\n".join(lines).encode())
        pumps = [asyncio.ensure_future(_pump(reader, far)),
                 asyncio.ensure_future(_pump(far_reader, writer))]  # fmt: skip
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        far.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@contextlib.asynccontextmanager
async def forward_proxy(
    hosts: Mapping[str, int], user: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[ForwardProxy, str]]:
    """One on a free port, and its address, "127.0.0.1:3128"."""
    proxy = ForwardProxy(hosts, user)
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        # Cancelled only at the end; asyncio would log that as an error.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await proxy(reader, writer)
        writer.close()
        serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield proxy, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
