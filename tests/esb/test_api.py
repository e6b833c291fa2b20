"""The admin listener towards callers who do not behave; what it answers to the others is tested
with the command line."""

from __future__ import annotations

import asyncio
import contextlib
import json
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
            (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
            (b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
        ):
            answer = await told(server, request)
            assert answer[0] == status, (request, answer)


async def test_a_name_that_was_rebound_learns_of_a_probe_its_status_alone() -> None:
    async with admin() as server:
        for host, details in (("localhost", True), ("127.0.0.1:1", True), ("evil.example", False)):
            request = f"GET /readyz HTTP/1.1\r\nHost: {host}\r\n\r\n"
            status, body = await told(server, request.encode())
            assert (status, "routes" in json.loads(body)) == (503, details), host
            assert "status" in json.loads(body)


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


async def test_its_document_tells_of_refusals_and_of_what_is_no_json() -> None:
    async with admin() as server:
        _, content = await told(server, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
    paths = json.loads(content)["paths"]
    for path, item in paths.items():
        for method, operation in item.items():
            missing = {"400", "401", "403", "404", "409", "422", "429", "503"}.difference(
                operation["responses"]
            )
            assert not missing, (method, path)
    for path, media in (
        ("/dead/{key}/body", "application/octet-stream"),
        ("/routes/{name}/trace", "application/x-ndjson"),
    ):
        assert list(paths[path]["get"]["responses"]["200"]["content"]) == [media]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/dead/1", "DELETE, GET"),
        ("/dead/drop", "POST"),
        ("/messages/a/story", "GET"),
        ("/cache", "DELETE"),
    ],
)
async def test_a_method_that_is_not_there_is_told_all_that_are(path: str, allowed: str) -> None:
    async with admin() as server:
        request = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        status, headers, _ = await ask(f"http://127.0.0.1:{server.port}", request.encode())
    assert (status, headers.get("allow")) == (405, allowed)


@pytest.mark.parametrize("not_a_number", [b"true", b"false", b'"1"', b"1.5", b"-1"])
async def test_dead_letters_are_dropped_by_numbers_alone(not_a_number: bytes) -> None:
    content = b'{"keys": [%b]}' % not_a_number
    async with admin() as server:
        status, body = await told(
            server,
            b"POST /dead/drop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(content), content),
        )
    assert status == 422
    assert b"keys" in body


@pytest.mark.parametrize("not_a_boolean", [b"1", b"0", b'"yes"'])
async def test_all_dead_letters_are_dropped_by_true_alone(not_a_boolean: bytes) -> None:
    content = b'{"all": %b, "code": ""}' % not_a_boolean
    async with admin() as server:
        status, body = await told(
            server,
            b"POST /dead/drop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(content), content),
        )
    assert status == 422
    assert b"boolean" in body
