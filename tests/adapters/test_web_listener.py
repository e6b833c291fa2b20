"""The listener against callers who are hostile, broken, slow or merely unusual; real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import ssl
import warnings
from contextvars import ContextVar
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import pytest
import trustme
from pydantic import ValidationError
from support.fake_build import FakeBuild
from support.waiting import until
from support.web import Wire, ask, serving, site, tell, wire

from esb.adapter import BuildFailed
from esb.errors import BadMessage, EsbError, Overloaded
from esb.http import Exchange, HttpServer, Limits
from esb_web import ListenOptions, Request, Response, WebServer
from esb_web.query import parse_query
from esb_web.server import web_server

GOOD = b"POST /in HTTP/1.1\r\nHost: bus\r\nContent-Length: 2\r\n\r\nok"


# --- framing -------------------------------------------------------------------------------------

CHUNKED = b"Transfer-Encoding: chunked\r\n"

SMUGGLING = {
    "content length and chunked": b"Content-Length: 4\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunked and content length": CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n",
    "two content lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "two equal content lengths": b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "a list of content lengths": b"Content-Length: 2, 2\r\n\r\nab",
    "a signed content length": b"Content-Length: +4\r\n\r\nabcd",
    "a negative content length": b"Content-Length: -4\r\n\r\nabcd",
    "a hexadecimal content length": b"Content-Length: 0x2\r\n\r\nab",
    "a content length with a space": b"Content-Length: 1 2\r\n\r\nab",
    "an empty content length": b"Content-Length: \r\n\r\n",
    "a content length beyond 64 bits": b"Content-Length: 99999999999999999999\r\n\r\nab",
    "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked not last": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip and chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two transfer encodings": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"X-A: b\r\n Content-Length: 2\r\n\r\nab",
    "a folded transfer encoding": b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "line feeds only": b"Content-Length: 2\n\nab",
    "a bare carriage return": b"X-A: b\rContent-Length: 2\r\n\r\nab",
    "a NUL in a value": b"X-A: b\x00c\r\n\r\n",
    "a NUL in a name": b"X\x00A: b\r\n\r\n",
    "a control character in a value": b"X-A: b\x01c\r\n\r\n",
    "no header name": b": b\r\n\r\n",
    "no colon": b"X-A\r\n\r\n",
    "a space in a name": b"X A: b\r\n\r\n",
    "a chunk size with a sign": b"Transfer-Encoding: chunked\r\n\r\n+2\r\nab\r\n0\r\n\r\n",
    "a chunk size with 0x": b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
    "a chunk size with spaces": b"Transfer-Encoding: chunked\r\n\r\n 2\r\nab\r\n0\r\n\r\n",
    "a chunk ended by a line feed": b"Transfer-Encoding: chunked\r\n\r\n2\nab\r\n0\r\n\r\n",
    "a chunk extension with a line feed": b"Transfer-Encoding: chunked\r\n\r\n2;\nab\r\n0\r\n\r\n",
    "a chunk longer than it says": b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "a chunk size beyond 64 bits": b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nab",
    "an expectation": b"Expect: the-unexpected\r\nContent-Length: 0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("probe", SMUGGLING.values(), ids=SMUGGLING)
async def test_smuggled_framing_is_refused_and_the_connection_closed(probe: bytes) -> None:
    seen: list[Request] = []

    async def see(request: Request) -> Response:
        seen.append(request)
        return await tell(request)

    async with serving(site("/in", handler=see)) as server, wire(server.url) as one:
        # Whatever the probe makes of it, the request behind it must never be seen.
        await one.send(b"POST /in HTTP/1.1\r\nHost: bus\r\n" + probe + GOOD)
        status, headers, body = await one.answer()
        assert status in (400, 417), body
        assert headers.get("connection") == "close"
        assert headers.get("content-type") == "application/problem+json"
        assert json.loads(body)["status"] == status
        assert await one.ended() == b""
    assert not [r for r in seen if r.body == b"ok"]


HEADS = {
    "no host": (b"POST /in HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"POST /in HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "two equal hosts": (b"POST /in HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "an empty host": (b"POST /in HTTP/1.1\r\nHost: \r\n\r\n", 400),
    "a host with a path": (b"POST /in HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a host with a user": (b"POST /in HTTP/1.1\r\nHost: u@a\r\n\r\n", 400),
    "a host list": (b"POST /in HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "another version": (b"POST /in HTTP/1.2\r\nHost: a\r\n\r\n", 400),
    "version 2": (b"POST /in HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "version 0.9": (b"GET /in\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "no method": (b"/in HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "an unknown method": (b"FROB /in HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a method in lower case": (b"post /in HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "connect": (b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
    "trace": (b"TRACE /in HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a target without a slash": (b"POST in HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target of another host": (b"POST http://b/in HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a target with a fragment": (b"POST /in#x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a raw UTF-8 target": ("POST /ü HTTP/1.1\r\nHost: a\r\n\r\n".encode(), 400),
    "a space in the target": (b"POST /i n HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "chunked in version 1.0": (
        b"POST /in HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a long target": (b"POST /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "many headers": (b"POST /in HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    "a large header": (b"POST /in HTTP/1.1\r\nHost: a\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431),
    "a packed body": (
        b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Encoding: br\r\nContent-Length: 0\r\n\r\n", 415),
}  # fmt: skip


@pytest.mark.parametrize(("probe", "status"), HEADS.values(), ids=HEADS)
async def test_a_bad_head_is_refused(probe: bytes, status: int) -> None:
    async with serving(site("/in")) as server:
        got, headers, body = await ask(server.url, probe)
        assert got == status, body
        assert headers.get("content-type") == "application/problem+json"
        # The offending bytes are not repeated, and the server lives on.
        assert b"bbbb" not in body
        assert (await ask(server.url, GOOD))[0] == 200


GOOD_HEADS = {
    "plain": GOOD,
    "version 1.0 without a host": b"POST /in HTTP/1.0\r\nContent-Length: 2\r\n\r\nok",
    "the absolute form": b"POST http://BUS/in HTTP/1.1\r\nHost: bus\r\nContent-Length: 2\r\n\r\nok",
    "a host with a port": b"POST /in HTTP/1.1\r\nHost: bus:80\r\nContent-Length: 2\r\n\r\nok",
    "an address as host": b"POST /in HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 2\r\n\r\nok",
    "chunked": b"POST /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"1\r\no\r\n1;x=y\r\nk\r\n0\r\nX-Trailer: t\r\n\r\n",
    "a slash at the end": b"POST /in/ HTTP/1.1\r\nHost: bus\r\nContent-Length: 2\r\n\r\nok",
    "an upgrade nobody takes": b"POST /in HTTP/1.1\r\nHost: bus\r\nConnection: upgrade\r\n"
    b"Upgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
    "an upgrade with chunks": b"POST /in HTTP/1.1\r\nHost: bus\r\nConnection: upgrade\r\n"
    b"Upgrade: h2c\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("probe", GOOD_HEADS.values(), ids=GOOD_HEADS)
async def test_unusual_but_right_requests_are_served(probe: bytes) -> None:
    async with serving(site("/in")) as server:
        status, headers, body = await ask(server.url, probe)
        assert (status, body) == (200, b"POST /in 2 ok")
        assert headers.get("date")
        assert headers.get("server") is None
        async with wire(server.url) as one:  # the same in the smallest pieces, and one behind it
            for index in range(len(probe)):
                await one.send(probe[index : index + 1])
            assert (await one.answer())[2] == b"POST /in 2 ok"
            if b"HTTP/1.0" not in probe:
                await one.send(GOOD)
                assert (await one.answer())[2] == b"POST /in 2 ok"


async def test_an_upgrade_nobody_takes_needs_no_body() -> None:
    head = b"POST /in HTTP/1.1\r\nHost: bus\r\nConnection: upgrade\r\nUpgrade: h2c\r\n"
    async with serving(site("/in"), body_timeout=60.0) as server, wire(server.url) as one:
        for length in (b"", b"Content-Length: 0\r\n", CHUNKED):
            await one.send(head + length + b"\r\n" + (b"0\r\n\r\n" if length == CHUNKED else b""))
            async with asyncio.timeout(20):
                assert (await one.answer())[2] == b"POST /in 0 "


PLACES = {
    "a value": b"POST /in HTTP/1.1\r\nHost: a\r\nX: a%bb\r\nContent-Length: 0\r\n\r\n",
    "a name": b"POST /in HTTP/1.1\r\nHost: a\r\nX%bx: ab\r\nContent-Length: 0\r\n\r\n",
    "a path": b"POST /i%bn HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "a query": b"POST /in?x%bx HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "an absolute target": b"POST http://a%b/in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "a length": b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 0%b\r\n\r\n",
}  # fmt: skip

TOKEN = frozenset(
    b"!#$%&'*+-.^_`|~" + bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123))
)
VISIBLE = frozenset(range(0x21, 0x7F))

ALLOWED = {
    "a value": frozenset(range(0x20, 0x7F)) | frozenset(range(0x80, 0x100)) | {0x09},
    "a name": TOKEN | {ord(":")},  # after which "x: ab" is a value
    # What is a path or a query is looked at again; here it is that nothing else gets so far.
    "a path": VISIBLE - {ord("#")},
    "a query": VISIBLE - {ord("#")},
    "an absolute target": VISIBLE - {ord("#")},
    "a length": frozenset(b"0123456789 \t"),
}


@pytest.mark.parametrize("spot", PLACES)
async def test_the_parser_refuses_what_nobody_looks_for_behind_it(spot: str) -> None:
    """Each byte in each place: the listener relies on that, and a newer parser may be kinder."""
    async with serving(site("/:a"), site("/:a/:b")) as server:
        for byte in range(256):
            status, _, body = await ask(server.url, PLACES[spot] % bytes([byte]) + GOOD)
            if byte not in ALLOWED[spot]:
                assert status in (0, 400), (byte, body)


async def test_trailers_never_become_headers() -> None:
    seen: list[Request] = []

    async def see(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    async with serving(site("/in", handler=see)) as server:
        await ask(
            server.url,
            b"POST /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\nAuthorization: Bearer x\r\nX-Trailer: t\r\n\r\n",
        )
    assert [name for name, _ in seen[0].headers] == ["host", "transfer-encoding"]


async def test_many_requests_on_one_connection() -> None:
    async with serving(site("/in")) as server, wire(server.url) as one:
        await one.send(GOOD * 50)
        for _ in range(50):
            assert (await one.answer())[0] == 200
        await one.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n" + GOOD)
        assert (await one.answer())[0] == 404
        assert (await one.answer())[0] == 200


@pytest.mark.parametrize("seed", range(10))
async def test_requests_are_understood_in_whatever_pieces_they_come(seed: int) -> None:
    chance = Random(seed)
    kinds = [probe for probe in GOOD_HEADS.values() if b"HTTP/1.0" not in probe]
    async with serving(site("/in")) as server, wire(server.url) as one:
        for _ in range(20):
            probes = chance.choices(kinds, k=chance.randint(1, 8))
            data = b"".join(probes)
            cuts = sorted(chance.choices(range(len(data)), k=chance.randint(0, 12)))
            for start, end in itertools.pairwise([0, *cuts, len(data)]):
                await one.send(data[start:end])
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
            for _probe in probes:
                assert (await one.answer())[2] == b"POST /in 2 ok"


_seen: ContextVar[str] = ContextVar("seen", default="nothing")


async def test_what_one_request_sets_in_its_context_is_not_seen_by_the_next() -> None:
    async def see(_request: Request) -> Response:
        before = _seen.get()
        _seen.set("the first")
        await asyncio.sleep(0)
        return Response(200, [], before.encode())

    async with serving(site("/in", handler=see)) as server, wire(server.url) as one:
        await one.send(GOOD * 3)
        assert [(await one.answer())[2] for _ in range(3)] == [b"nothing"] * 3


async def test_a_bad_request_behind_a_good_one_ends_the_connection_after_its_answer() -> None:
    async with serving(site("/in")) as server, wire(server.url) as one:
        await one.send(GOOD + b"POST /in HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + GOOD)
        status, headers, body = await one.answer()
        assert (status, body) == (200, b"POST /in 2 ok")
        assert headers.get("connection") == "close"
        assert await one.ended() == b""


# --- floods and slowness -------------------------------------------------------------------------


async def _flood(one: Wire, piece: bytes, total: int) -> int:
    """Send until the far side hangs up; how much went out."""
    sent = 0
    while sent < total:
        try:
            one.writer.write(piece)
            await one.writer.drain()
        except ConnectionError:
            break
        sent += len(piece)
        if one.reader.at_eof():
            break
    return sent


FLOODS = {
    "20 MB of headers": (b"", b"X-Header: " + b"v" * 1000 + b"\r\n"),
    "a header that never ends": (b"X-Header: ", b"v" * 1000),
    "a header name that never ends": (b"", b"v" * 1000),
    "a target that never ends": (None, b"v" * 1000),
    "chunk extensions that never end": (b"Transfer-Encoding: chunked\r\n\r\n1;", b"v" * 1000),
    "trailers that never end": (b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-T: " + b"v" * 995),
    "a trailer that never ends": (b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"v" * 1000),
}  # fmt: skip


@pytest.mark.parametrize(("start", "piece"), FLOODS.values(), ids=FLOODS)
async def test_floods_are_cut_short(start: bytes | None, piece: bytes) -> None:
    async with serving(site("/in")) as server, wire(server.url) as one:
        head = b"POST /in HTTP/1.1\r\nHost: a\r\n" + start if start is not None else b"POST /"
        await one.send(head)
        async with asyncio.timeout(20):
            sent = await _flood(one, piece, 20 * 1024**2)
        # A little may fill the buffers of the sockets before the refusal arrives.
        assert sent < 8 * 1024**2
        assert (await ask(server.url, GOOD))[0] == 200


async def test_empty_lines_that_never_end() -> None:
    async with serving(site("/in")) as server, wire(server.url) as one:
        assert await _flood(one, b"\r\n" * 500, 20 * 1024**2) < 8 * 1024**2


SLOW = {
    "nothing at all": (b"", {"header_timeout": 0.2}, 0),
    "half a head": (b"POST /in HTTP/1.1\r\nHos", {"header_timeout": 0.2}, 408),
    "half a body": (GOOD[:-1], {"body_timeout": 0.2}, 408),
    "half a chunk": (
        b"POST /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        {"body_timeout": 0.2}, 408),
}  # fmt: skip


@pytest.mark.parametrize(("data", "options", "status"), SLOW.values(), ids=SLOW)
async def test_what_does_not_arrive_in_time_is_given_up(
    data: bytes, options: dict[str, float], status: int
) -> None:
    async with serving(site("/in"), **options) as server:
        assert (await ask(server.url, data))[0] == status


async def test_slowloris_gets_no_more_time_for_each_byte() -> None:
    async with serving(site("/in"), header_timeout=0.3) as server, wire(server.url) as one:
        await one.send(b"POST /in HTTP/1.1\r\n")
        async with asyncio.timeout(5):
            while not one.reader.at_eof():
                await one.send(b"X-A: b\r\n")
                await asyncio.wait([asyncio.ensure_future(one.reader.read(1))], timeout=0.02)


async def test_an_idle_connection_is_closed() -> None:
    async with serving(site("/in"), idle_timeout=0.1) as server, wire(server.url) as one:
        await one.send(GOOD)
        assert (await one.answer())[0] == 200
        assert await one.ended() == b""


async def test_a_caller_who_does_not_read_is_dropped() -> None:
    async def large(_request: Request) -> Response:
        return Response(200, [], b"x" * 20 * 1024**2)

    async with serving(site("/in", handler=large), write_timeout=0.2) as server:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as one:
            one.sendall(GOOD)
            await until(lambda: server.connections == 1)
            await until(lambda: server.connections == 0)


async def test_answers_that_nobody_reads_have_a_limit_together() -> None:
    async def large(_request: Request) -> Response:
        return Response(200, [], bytes(32 * 1024**2))

    async def stuck(server: WebServer) -> Wire:
        parts = urlsplit(server.url)
        sock = socket.create_connection((parts.hostname, parts.port))
        one = Wire(*await asyncio.open_connection(sock=sock, limit=2**16))
        await one.send(b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        return one

    options = {"max_memory": 80 * 1024**2, "write_timeout": "60s"}
    async with serving(site("/in", handler=large), **options) as server:
        http = server._server
        assert http is not None
        first = await stuck(server)
        await until(lambda: http.served == 1)
        second, third = await stuck(server), await stuck(server)
        await until(lambda: http.served == 3 and server.connections == 2)
        assert len(await first.ended()) < 32 * 1024**2
        for one in (second, third):
            _, _, body = await one.answer()
            assert len(body) == 32 * 1024**2
            one.writer.close()


async def test_too_many_connections() -> None:
    async with serving(site("/in"), max_connections=2) as server:
        async with wire(server.url) as first, wire(server.url):
            await first.send(GOOD)
            assert (await first.answer())[0] == 200
            status, headers, _ = await ask(server.url, GOOD)
            assert status == 503
            assert headers.get("retry-after")
        await until(lambda: server.connections == 0)
        assert (await ask(server.url, GOOD))[0] == 200


async def test_too_many_connections_of_one_address() -> None:
    async with serving(site("/in"), max_connections_per_address=2) as server:
        async with wire(server.url) as first, wire(server.url):
            await first.send(GOOD)
            assert (await first.answer())[0] == 200
            status, headers, _ = await ask(server.url, GOOD)
            assert status == 503
            assert headers.get("retry-after")
        await until(lambda: server.connections == 0)
        assert (await ask(server.url, GOOD))[0] == 200


async def test_a_proxy_stands_for_many_callers() -> None:
    limits = {"max_connections_per_address": 1, "trusted_proxies": ["127.0.0.1"]}
    async with serving(site("/in"), **limits) as server, wire(server.url), wire(server.url):
        assert (await ask(server.url, GOOD))[0] == 200


async def test_too_many_requests() -> None:
    go = asyncio.Event()
    started = asyncio.Event()

    async def slow(_request: Request) -> Response:
        started.set()
        await go.wait()
        return Response(200)

    async with serving(site("/in", handler=slow), max_requests=1) as server:
        first = asyncio.ensure_future(ask(server.url, GOOD))
        await started.wait()
        status, headers, _ = await ask(server.url, GOOD)
        assert status == 503
        assert headers.get("retry-after") == "1"
        go.set()
        assert (await first)[0] == 200


# --- bodies --------------------------------------------------------------------------------------


async def test_a_large_body_is_refused_before_it_is_sent() -> None:
    async with serving(site("/in"), max_body="1KB") as server, wire(server.url) as one:
        await one.send(b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\n\r\n")
        status, headers, body = await one.answer()
        assert status == 413
        assert headers.get("connection") == "close"
        assert "1024 bytes" in json.loads(body)["detail"]
        assert await one.ended() == b""


async def test_a_large_chunked_body_is_refused_on_the_way() -> None:
    async with serving(site("/in"), max_body="64KB") as server, wire(server.url) as one:
        await one.send(b"POST /in HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await one.send((b"400\r\n" + b"x" * 1024 + b"\r\n") * 200)
        assert (await one.answer())[0] == 413
        sent = await _flood(one, b"400\r\n" + b"x" * 1024 + b"\r\n", 100 * 1024**2)
        assert sent < 16 * 1024**2


async def test_a_site_has_a_limit_of_its_own() -> None:
    async with serving(site("/in", max_body=10), site("/large", max_body=10**7)) as server:
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000\r\n\r\n" + b"x" * 6_000_000
        assert (await ask(server.url, head % b"/large"))[0] == 200
        assert (await ask(server.url, head % b"/in"))[0] == 413


async def test_all_bodies_together_have_a_limit() -> None:
    head = b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
    options = {"max_body": "1MB", "max_memory": "500KB"}
    async with serving(site("/in"), **options) as server, wire(server.url) as first:
        await first.send(head + b"x" * 299_999)
        await until(lambda: server._held >= 290_000)
        status, headers, _ = await ask(server.url, head + b"x" * 300_000)
        assert status == 503
        assert headers.get("retry-after") == "1"
        await first.send(b"x")
        assert (await first.answer())[0] == 200
        await until(lambda: server._held == 0)
        assert (await ask(server.url, head + b"x" * 300_000))[0] == 200


async def test_a_request_that_is_still_coming_when_its_site_is_replaced() -> None:
    async def new(request: Request) -> Response:
        return Response(200, [], b"new")

    old = site("/in")
    async with serving(old) as server, wire(server.url) as one, wire(server.url) as other:
        for half in (one, other):
            await half.send(GOOD[:-1])
            # Only a request that is being read says that it may go on.
            await ask(server.url, GOOD)
        server.mount(site("/in", handler=new))
        await server.retire(old, 5)
        await one.send(b"k")
        assert (await one.answer())[2] == b"new"
        server.drain()
        await other.send(b"k")
        assert (await other.answer())[0] == 503


async def test_continue_is_told_only_if_the_body_is_wanted() -> None:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with serving(site("/in")) as server:
        async with wire(server.url) as one:
            await one.send(head % b"/in")
            assert (await one.answer())[0] == 100
            await one.send(b"ok")
            assert (await one.answer())[2] == b"POST /in 2 ok"
        async with wire(server.url) as one:
            await one.send(head % b"/nowhere")
            assert (await one.answer())[0] == 404


async def test_no_continue_is_told_in_the_middle_of_an_answer() -> None:
    async def early(exchange: Exchange) -> None:
        exchange.begin(200)
        await exchange.write(b"first ")
        await exchange.write(await exchange.receive())
        exchange.end()

    server = HttpServer(early, Limits())
    port = await server.open("127.0.0.1", 0)
    try:
        async with wire(f"http://127.0.0.1:{port}") as one:
            await one.send(
                b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            )
            answer = await one.reader.readuntil(b"first \r\n")
            await one.send(b"ok")
            answer += await one.reader.read()
    finally:
        await server.close()
    assert answer.partition(b"\r\n\r\n")[2] == b"6\r\nfirst \r\n2\r\nok\r\n0\r\n\r\n"


async def test_an_answer_ends_quietly_when_the_request_turned_out_to_be_broken() -> None:
    failed: list[RuntimeError] = []
    may_end = asyncio.Event()

    async def early(exchange: Exchange) -> None:
        exchange.begin(200)
        await exchange.write(b"first")
        await may_end.wait()
        try:
            exchange.end()
        except RuntimeError as e:
            failed.append(e)

    server = HttpServer(early, Limits())
    port = await server.open("127.0.0.1", 0)
    try:
        async with wire(f"http://127.0.0.1:{port}") as one:
            await one.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + CHUNKED + b"\r\n1\r\nx\r\n")
            await one.reader.readuntil(b"first\r\n")
            await one.send(b"no number\r\n")
            assert await one.reader.read() == b""  # cut off: no last chunk
            may_end.set()
            await until(lambda: not server.running)
    finally:
        await server.close()
    assert not failed


# --- paths and methods ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/a/%2e%2e/in", "/a/../in", "/./in", "/%2e/in", "/a%2fb", "/a%2Fb", "/a%5cb", "/a%00b",
     "/a%0ab", "/%ff", "/%c0%ae", "/%zz", "/%", "/a%2"],
)  # fmt: skip
async def test_a_path_that_can_be_read_in_two_ways_is_refused(path: str) -> None:
    async with serving(site("/:a"), site("/:a/:b"), site("/:a/:b/:c")) as server:
        status, _, _ = await ask(server.url, f"POST {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert status == 400


@pytest.mark.parametrize("path", ["//in", "/in//", "//", "/IN", "/in/x", "/..;/in", "/in;x=y"])
async def test_a_path_is_served_only_as_it_is_written(path: str) -> None:
    async with serving(site("/in"), site("/")) as server:
        status, _, _ = await ask(server.url, f"POST {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert status == 404


async def test_paths_are_decoded_once() -> None:
    seen: list[Request] = []

    async def see(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    async with serving(site("/o/:id/:part", handler=see)) as server:
        await ask(
            server.url, b"POST /o/a%20%C3%A4/%252F?x=1&x=2&y=%26+%3D&z HTTP/1.1\r\nHost: h\r\n\r\n"
        )
    (request,) = seen
    assert request.path_params == {"id": "a ä", "part": "%2F"}
    assert request.path == "/o/a ä/%2F"
    assert request.query == {"x": ["1", "2"], "y": "& =", "z": ""}
    assert request.url == "http://h/o/a%20%C3%A4/%252F?x=1&x=2&y=%26+%3D&z"


@pytest.mark.parametrize("query", ["a=%ff", "a=%0", "%00=1", "a=%00", "&".join(["a"] * 1001)])
def test_a_bad_query_is_refused(query: str) -> None:
    with pytest.raises(BadMessage):
        parse_query(query)


async def test_methods() -> None:
    async with serving(site("/in", "GET", "PUT"), site("/post")) as server:
        head = "{} {} HTTP/1.1\r\nHost: a\r\n\r\n"
        status, headers, body = await ask(server.url, head.format("POST", "/in").encode())
        assert (status, headers.get("allow")) == (405, "GET, HEAD, OPTIONS, PUT")
        assert json.loads(body)["type"] == "urn:esb:problem:no-such-operation"
        status, headers, _ = await ask(server.url, head.format("OPTIONS", "/in").encode())
        assert (status, headers.get("allow")) == (204, "GET, HEAD, OPTIONS, PUT")
        status, headers, _ = await ask(server.url, head.format("OPTIONS", "*").encode())
        assert status == 204
        status, headers, _ = await ask(server.url, head.format("GET", "/post").encode())
        assert (status, headers.get("allow")) == (405, "OPTIONS, POST")


async def test_head_is_get_without_the_body() -> None:
    async with serving(site("/in", "GET")) as server, wire(server.url) as one:
        await one.send(b"HEAD /in HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await one.ended()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"content-length: 11\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")


# --- who asks, and from where --------------------------------------------------------------------

FORWARDED = (
    b"POST /esb/in HTTP/1.1\r\nHost: inner:8080\r\n"
    b"X-Forwarded-For: 6.6.6.6, 203.0.113.9, 127.0.0.1\r\n"
    b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: api.example\r\nX-Forwarded-Prefix: /v1/\r\n\r\n"
)


@pytest.mark.parametrize(
    ("trusted", "expected"),
    [
        (["127.0.0.0/8"], ("203.0.113.9", "https://api.example/v1/esb/in")),
        (["10.0.0.0/8"], ("127.0.0.1", "http://inner:8080/esb/in")),
        ([], ("127.0.0.1", "http://inner:8080/esb/in")),
    ],
)
async def test_only_a_trusted_proxy_is_believed(
    trusted: list[str], expected: tuple[str, str]
) -> None:
    seen: list[Request] = []

    async def see(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    async with serving(
        site("/in", handler=see), base_path="/esb", trusted_proxies=trusted
    ) as server:
        assert (await ask(server.url, FORWARDED))[0] == 200
    assert (seen[0].client, seen[0].url) == expected


@pytest.mark.parametrize(
    "header",
    [b"X-Forwarded-Host: a b", b"X-Forwarded-Prefix: //evil.example", b"X-Forwarded-Proto: file",
     b"X-Forwarded-For: <script>"],
)  # fmt: skip
async def test_nonsense_from_a_trusted_proxy_is_ignored(header: bytes) -> None:
    seen: list[Request] = []

    async def see(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    async with serving(site("/in", handler=see), trusted_proxies=["127.0.0.1"]) as server:
        await ask(server.url, b"POST /in HTTP/1.1\r\nHost: h\r\n" + header + b"\r\n\r\n")
    assert (seen[0].client, seen[0].url) == ("127.0.0.1", "http://h/in")


async def test_the_base_path_is_in_front_of_everything() -> None:
    async with serving(site("/in"), site("/"), base_path="/esb") as server:
        for path, status in (("/esb/in", 200), ("/in", 404), ("/esb", 200), ("/esbin", 404)):
            request = f"POST {path} HTTP/1.1\r\nHost: a\r\n\r\n"
            assert (await ask(server.url, request.encode()))[0] == status, path


async def test_only_named_hosts_are_served() -> None:
    async with serving(site("/in"), hosts=["api.example", "*.test"]) as server:
        for host, status in (
            ("API.example", 200), ("api.example:8080", 200), ("a.b.test", 200),
            ("evil.example", 421), ("test", 421), ("api.example.evil", 421),
        ):  # fmt: skip
            request = f"POST /in HTTP/1.1\r\nHost: {host}\r\n\r\n"
            assert (await ask(server.url, request.encode()))[0] == status, host


async def test_cors() -> None:
    cors = {"origins": ["https://app.example"], "credentials": True, "expose": ["x-id"]}
    preflight = (
        "OPTIONS /in HTTP/1.1\r\nHost: a\r\nOrigin: {}\r\n"
        "Access-Control-Request-Method: POST\r\n\r\n"
    )
    simple = "POST /in HTTP/1.1\r\nHost: a\r\nOrigin: {}\r\n\r\n"
    async with serving(site("/in"), cors=cors) as server:
        status, headers, _ = await ask(server.url, preflight.format("https://app.example").encode())
        assert status == 204
        assert headers.get("access-control-allow-origin") == "https://app.example"
        assert "POST" in headers.get("access-control-allow-methods")
        assert headers.get("access-control-allow-credentials") == "true"
        assert headers.get("vary") == "Origin"
        for origin in ("https://evil.example", "null", "https://app.example.evil.example"):
            for text in (preflight, simple):
                _, headers, _ = await ask(server.url, text.format(origin).encode())
                assert headers.get("access-control-allow-origin") is None
                assert headers.get("access-control-allow-methods") is None
        status, headers, _ = await ask(server.url, simple.format("https://app.example").encode())
        assert (status, headers.get("access-control-expose-headers")) == (200, "x-id")
        # An error can be read by the page as well.
        _, headers, _ = await ask(
            server.url, simple.format("https://app.example").replace("/in", "/no").encode()
        )
        assert headers.get("access-control-allow-origin") == "https://app.example"


def test_credentials_are_not_for_every_origin() -> None:
    with pytest.raises(ValidationError, match="credentials"):
        ListenOptions.model_validate({"cors": {"origins": ["*"], "credentials": True}})


# --- TLS -----------------------------------------------------------------------------------------


def _contexts(folder: Path) -> tuple[Path, Path, trustme.CA]:
    ca = trustme.CA()
    cert = ca.issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "cert.pem", folder / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    cert.private_key_pem.write_to_path(key)
    return chain, key, ca


async def _once(url: str, tls: ssl.SSLContext) -> bytes:
    async with wire(url, tls) as one:
        await one.send(GOOD)
        return (await one.answer())[2]


async def test_tls(tmp_path: Path) -> None:
    chain, key, ca = _contexts(tmp_path)
    callers = trustme.CA()
    callers.cert_pem.write_to_path(tmp_path / "callers.pem")
    tls = {"cert": chain.name, "key": str(key), "client_ca": "callers.pem"}
    options = ListenOptions.model_validate({"port": 0, "tls": tls})
    server = web_server(FakeBuild(tmp_path, listen=options))
    principals: list[str] = []

    async def see(request: Request) -> Response:
        principals.append(request.principal)
        return await tell(request)

    server.mount(site("/in", handler=see))
    await server.open()
    server.serve()
    try:
        assert server.url.startswith("https://")
        known = ssl.create_default_context()
        ca.configure_trust(known)
        callers.issue_cert("caller@example.org").configure_cert(known)
        assert await _once(server.url, known) == b"POST /in 2 ok"
        assert principals == ["caller@example.org"]
        stranger = ssl.create_default_context()
        ca.configure_trust(stranger)
        with pytest.raises((ssl.SSLError, EOFError, ConnectionError)):
            await _once(server.url, stranger)
        old = ssl.create_default_context()
        ca.configure_trust(old)
        with warnings.catch_warnings(action="ignore"):  # of versions nobody should use
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await _once(server.url, old)
        assert len(principals) == 1
        # Somebody who speaks plain HTTP does no harm.
        assert (await ask(server.url, GOOD))[0] == 0
    finally:
        await server.close()


@pytest.mark.parametrize("cert", ["missing.pem", "/nowhere/at/all.pem", "bad.pem"])
def test_unusable_tls_files_are_a_mistake(tmp_path: Path, cert: str) -> None:
    (tmp_path / "bad.pem").write_text("nothing of use")
    options = ListenOptions.model_validate({"tls": {"cert": cert, "key": "bad.pem"}})
    with pytest.raises(BuildFailed):
        web_server(FakeBuild(tmp_path, listen=options))


# --- handlers, reload, drain ---------------------------------------------------------------------


async def test_what_a_handler_raises() -> None:
    async def bus_error(_request: Request) -> Response:
        raise Overloaded("the queue is full", retry_after=7.2)

    async def bug(_request: Request) -> Response:
        raise ZeroDivisionError("a secret")

    async def bad_header(_request: Request) -> Response:
        return Response(200, [("x", "a\r\nb: c")])

    async with serving(
        site("/error", handler=bus_error), site("/bug", handler=bug), site("/h", handler=bad_header)
    ) as server:
        head = "POST {} HTTP/1.1\r\nHost: a\r\n\r\n"
        status, headers, body = await ask(server.url, head.format("/error").encode())
        assert (status, headers.get("retry-after")) == (503, "8")
        assert json.loads(body)["detail"] == "the queue is full"
        status, _, body = await ask(server.url, head.format("/bug").encode())
        assert status == 500
        assert b"secret" not in body
        assert b"ZeroDivision" not in body
        status, headers, _ = await ask(server.url, head.format("/h").encode())
        assert status == 500
        assert headers.get("b") is None


async def test_who_comes_with_many_others_is_let_in_with_them() -> None:
    # uvloop takes one connection a turn off a listening socket; with many callers turns are long.
    async with serving(site("/in")) as server:
        where = urlsplit(server.url)
        with contextlib.ExitStack() as callers:
            for _ in range(160):
                callers.enter_context(socket.create_connection((where.hostname, where.port)))
            turns = 0
            while server.connections < 160:
                await asyncio.sleep(0)
                turns += 1
            assert turns <= 40


async def test_a_caller_who_hangs_up_does_not_stop_the_work() -> None:
    started, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(_request: Request) -> Response:
        started.set()
        await go.wait()
        done.set()
        return Response(200)

    async with serving(site("/in", handler=work)) as server:
        async with wire(server.url) as one:
            await one.send(GOOD)
            await started.wait()
        await until(lambda: server.connections == 0)
        go.set()
        await asyncio.wait_for(done.wait(), 5)


async def test_a_request_beyond_its_deadline_is_answered_and_worked_on() -> None:
    go, done = asyncio.Event(), asyncio.Event()

    async def work(request: Request) -> Response:
        assert request.deadline is not None
        await go.wait()
        done.set()
        return Response(200)

    async with serving(site("/in", handler=work, timeout=0.05)) as server, wire(server.url) as one:
        await one.send(GOOD)
        status, _, body = await one.answer()
        assert status == 504
        assert json.loads(body)["type"] == "urn:esb:problem:outcome-unknown"
        go.set()
        await asyncio.wait_for(done.wait(), 5)
        # The connection is good for more.
        await one.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await one.answer())[0] == 404


async def test_a_site_is_replaced_without_a_gap() -> None:
    async def new(_request: Request) -> Response:
        return Response(200, [], b"new")

    old = site("/in")
    async with serving(old) as server, wire(server.url) as one:
        await one.send(GOOD)
        assert (await one.answer())[2] == b"POST /in 2 ok"
        replacement = site("/in", handler=new)
        server.mount(replacement)
        await server.retire(old, 1)
        await one.send(GOOD)
        assert (await one.answer())[2] == b"new"
        await server.retire(replacement, 1)
        await one.send(GOOD)
        assert (await one.answer())[0] == 404


async def test_retiring_waits_for_requests_and_then_cancels_them() -> None:
    go = asyncio.Event()
    started: list[int] = []

    async def work(request: Request) -> Response:
        started.append(1)
        await go.wait()
        return await tell(request)

    slow = site("/in", handler=work)
    async with serving(slow) as server:
        first = asyncio.ensure_future(ask(server.url, GOOD))
        await until(lambda: started == [1])
        stopping = asyncio.ensure_future(server.retire(slow, 10))
        await until(lambda: not list(server.sites))
        assert not stopping.done()
        go.set()
        await stopping
        assert (await first)[0] == 200

        go.clear()
        server.mount(slow)
        second = asyncio.ensure_future(ask(server.url, GOOD))
        await until(lambda: started == [1, 1])
        await server.retire(slow, 0.05)
        assert (await second)[0] == 503


async def test_draining_answers_probes_and_nothing_new() -> None:
    async with serving(site("/in")) as server:
        server.probes["readyz"] = lambda: (False, {"status": "stopping"})
        server.probes["healthz"] = lambda: (True, {"status": "ok"})
        server.drain()
        status, headers, _ = await ask(server.url, GOOD)
        assert status == 503
        assert headers.get("connection") == "close"
        assert headers.get("retry-after")
        head = "GET {} HTTP/1.1\r\nHost: a\r\n\r\n"
        status, _, body = await ask(server.url, head.format("/readyz").encode())
        assert (status, json.loads(body)) == (503, {"status": "stopping"})
        assert (await ask(server.url, head.format("/healthz").encode()))[0] == 200


async def test_an_address_that_is_taken_is_a_clear_error() -> None:
    async with serving() as server:
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(EsbError, match=f"cannot listen on 127.0.0.1:{port}: "):
            async with serving(port=port):
                pass


async def test_it_listens_on_a_socket_that_was_bound_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        server = WebServer(ListenOptions.model_validate({"port": 1, "docs": False}))
        server.socket = bound.dup()
        server.mount(site("/in"))
        await server.open()
        server.serve()
        try:
            assert server.url == f"http://127.0.0.1:{port}"
            assert (await ask(server.url, GOOD))[2] == b"POST /in 2 ok"
        finally:
            await server.close()
        # Whoever bound it still has it, for the next one.
        with socket.create_connection(("127.0.0.1", port)):
            pass


async def test_an_answer_given_while_draining_ends_its_connection() -> None:
    asked, may = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> Response:
        asked.set()
        await may.wait()
        return Response(200, [], b"done")

    async with serving(site("/a", handler=handler)) as server, wire(server.url) as one:
        await one.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await asked.wait()
        server.drain()
        may.set()
        status, headers, body = await one.answer()
        assert (status, headers.get("connection"), body) == (200, "close", b"done")
        assert await one.ended() == b""


async def test_who_had_connected_before_the_listener_closes_is_answered() -> None:
    """The kernel would reset connections that it holds for us when their socket is closed."""
    request = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    async with serving(site("/a")) as server:
        port = int(server.url.rpartition(":")[2])
        callers = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for caller in callers:
            caller.sendall(request)
        # Until here the loop had no chance to take them.
        await server.close()
        for caller in callers:
            with caller:
                caller.settimeout(10)
                assert caller.recv(1000).startswith(b"HTTP/1.1 503 ")
