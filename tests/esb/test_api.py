"""The admin listener towards callers who do not behave; what it answers to the others is tested
with the command line."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.web import Wire, ask

from esb.api import AdminServer
from esb.bus import Bus, Shared
from esb.errors import EsbError
from esb.http import Limits


@contextlib.asynccontextmanager
async def admin(port: int = 0, **limits: Any) -> AsyncIterator[AdminServer]:
    server = AdminServer(Bus([], Shared()), None, "127.0.0.1", port, Limits(**limits))
    await server.open()
    try:
        yield server
    finally:
        await server.close()


async def told(server: AdminServer, request: bytes) -> tuple[int, bytes]:
    status, _, body = await ask(f"http://127.0.0.1:{server.port}", request)
    return status, body


async def test_what_it_serves() -> None:
    async with admin() as server:
        for request, status in (
            (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
            (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
            (b"GET /readyz HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n", 503),  # it never started
            (b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
            (b"GET /rou%74es HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
            (b"GET /admin/routes HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 200),
            (b"GET /administrators HTTP/1.1\r\nHost: localhost:1\r\n\r\n", 404),
            (b"POST /reload HTTP/1.1\r\nHost: [::1]:1\r\nContent-Length: 0\r\n\r\n", 409),
            (b"GET /routes HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
            (b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        ):
            answer = await told(server, request)
            assert answer[0] == status, (request, answer)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
        b"GET /healthz HTTP/1.1\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(head: bytes) -> None:
    async with admin() as server:
        assert (await told(server, head + b"\r\n0\r\n\r\n"))[0] == 400


async def test_a_head_that_does_not_end_is_not_waited_for() -> None:
    async with admin(header_timeout=0.2) as server:
        wire = Wire(*await asyncio.open_connection("127.0.0.1", server.port))
        await wire.send(b"GET /healthz HTTP/1.1\r\nHos")
        async with asyncio.timeout(10):
            status, headers, _ = await wire.answer()
            assert (status, headers.get("connection")) == (408, "close")


async def test_an_address_that_is_taken_is_told_with_what_helps() -> None:
    async with admin() as server:
        with pytest.raises(EsbError, match=r"the admin API cannot listen .*'enabled: false'"):
            async with admin(server.port):
                pass
