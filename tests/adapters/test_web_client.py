"""The client against far sides that misbehave in every way they know; raw sockets, real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import resource
import socket
import ssl
import struct
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError
from support.fake_build import FakeBuild
from support.web import Backend, backend, read_request

from esb.adapter import BuildFailed
from esb.envelope import Envelope, Headers
from esb.errors import (
    BadReply,
    EsbError,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RouteFailure,
    TimedOut,
    Transient,
    Unreachable,
)
from esb_web import ClientOptions, ClientReply, OutboundHeaders, WebClient, error_of, web_client


@contextlib.asynccontextmanager
async def client(build: FakeBuild | None = None, **options: Any) -> AsyncIterator[WebClient]:
    """A client with these options; its pool is closed at the end."""
    build = build or FakeBuild()
    try:
        yield web_client(build, ClientOptions.model_validate(options))
    finally:
        for shared in build.objects.values():
            await shared.close()


def says(answer: bytes, *, hang: bool = False) -> Backend:
    """A far side that reads a request, writes these bytes, and hangs up or does nothing more."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        if hang:
            await reader.read()

    return behave


def ok(body: bytes, *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def fails(
    behave: Backend, method: str = "POST", *, body: bytes | None = b"x", **options: Any
) -> EsbError:
    """The error that a request to a backend ends with."""
    async with backend(behave) as url, client(**options) as web:
        with pytest.raises(EsbError) as caught:
            await web.request(method, f"{url}/a?secret=1", body=body)
    error = caught.value
    # What the sender of a message may see names no host; what operators see names no secret.
    assert "127.0.0.1" not in error.detail
    notes = "\n".join(getattr(error, "__notes__", []))
    assert url in notes
    assert "secret=1" not in notes
    assert error.__cause__ is None
    return error


async def test_a_good_answer() -> None:
    seen: list[tuple[str, Headers, bytes]] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await read_request(reader))
            writer.write(ok(b"hello", "Content-Type: text/plain", "X-A: 1", "X-A: 2"))

    async with backend(behave) as url, client() as web:
        reply = await web.request(
            "POST", f"{url}/a%2Fb?x=%20", headers=[("X-B", "ü"), ("X-B", "2")], body=b"data"
        )
        assert (reply.status, reply.body) == (200, b"hello")
        assert reply.headers.get_all("x-a") == ["1", "2"]
        await web.request("GET", f"{url}/")  # on the same connection
    line, headers, body = seen[0]
    assert (line, body) == ("POST /a%2Fb?x=%20 HTTP/1.1", b"data")
    assert headers.get_all("X-B") == ["ü", "2"]
    assert headers.get("accept-encoding") == "gzip, deflate"
    assert headers.get("content-type") is None
    assert seen[1][1].get("content-length") is None


# --- nothing was sent ----------------------------------------------------------------------------


async def test_nobody_listens() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        async with client() as web:
            with pytest.raises(Unreachable):
                await web.request("POST", f"http://127.0.0.1:{port}/", body=b"")


async def test_no_such_host() -> None:
    async with client() as web:
        with pytest.raises(Unreachable):
            await web.request("POST", "http://nobody.invalid/", body=b"")


async def test_a_host_that_swallows_connections() -> None:
    # A full backlog: the handshake of TCP is never completed.
    with socket.socket() as one, contextlib.ExitStack() as others:
        one.bind(("127.0.0.1", 0))
        one.listen(0)
        for _ in range(4):
            other = others.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(one.getsockname())
        async with client(connect_timeout="200ms") as web:
            with pytest.raises(Unreachable):
                await web.request("POST", f"http://127.0.0.1:{one.getsockname()[1]}/", body=b"")


async def test_no_time_is_left() -> None:
    async with client() as web:
        with pytest.raises(TimedOut):
            await web.request("POST", "http://127.0.0.1:1/", deadline=time.monotonic() - 1)


async def test_no_connection_gets_free_in_time() -> None:
    started = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        started.set()
        await reader.read()

    async with backend(behave) as url, client(max_connections=1) as web:
        first = asyncio.ensure_future(web.request("POST", url, timeout=5))
        await started.wait()
        with pytest.raises(TimedOut):
            await web.request("POST", url, timeout=0.1)
        first.cancel()
        await asyncio.wait([first])


# --- no answer -----------------------------------------------------------------------------------


def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> Any:
    return reader.read()


async def hangs_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await read_request(reader)


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    one = writer.get_extra_info("socket")
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@pytest.mark.parametrize("behave", [silent, hangs_up, resets])
async def test_no_answer_after_the_request_left(behave: Backend) -> None:
    assert type(await fails(behave, timeout="200ms")) is OutcomeUnknown
    assert type(await fails(behave, timeout="200ms", idempotent=True)) is TimedOut
    assert type(await fails(behave, "PUT", timeout="200ms")) is TimedOut
    assert type(await fails(behave, "GET", body=None, timeout="200ms")) is TimedOut


async def test_the_library_never_repeats_a_request() -> None:
    requests = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        if requests == 1:
            writer.write(ok(b""))
            await read_request(reader)  # on the connection that was kept, and then hang up
            requests += 1

    async with backend(behave) as url, client() as web:
        await web.request("GET", url)
        with pytest.raises(TimedOut):
            await web.request("GET", url)
    assert requests == 2


# --- answers that are none -----------------------------------------------------------------------

GZIPPED = gzip.compress(b"hello" * 100, mtime=0)
BAD = {
    "not HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "garbage": b"\x00\x01\x02\x03\r\n\r\n",
    "a header with a NUL": b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a header that is too large": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "a length over the limit": b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n",
    "a body over the limit": b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 99_999,
    "chunks over the limit": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"2710\r\n" + b"a" * 10_000 + b"\r\n0\r\n\r\n",
    "packed over the limit": ok(gzip.compress(b"a" * 99_999, mtime=0), "Content-Encoding: gzip"),
    "not gzip at all": ok(b"hello", "Content-Encoding: gzip"),
    "gzip that breaks off": ok(GZIPPED[:-10], "Content-Encoding: gzip"),
    "an unknown packing": ok(b"hello", "Content-Encoding: br"),
    "packed twice": ok(gzip.compress(GZIPPED, mtime=0), "Content-Encoding: gzip, gzip"),
}  # fmt: skip


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_an_answer_that_cannot_be_used(answer: bytes) -> None:
    for method, options in (("POST", {}), ("PUT", {}), ("POST", {"idempotent": True})):
        error = await fails(says(answer), method, max_reply="8KB", timeout="5s", **options)
        assert type(error) is BadReply


BROKEN_OFF = {
    "by its length": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "in a chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
    "before the last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
}


@pytest.mark.parametrize("answer", BROKEN_OFF.values(), ids=BROKEN_OFF)
async def test_an_answer_that_breaks_off(answer: bytes) -> None:
    assert type(await fails(says(answer))) is BadReply
    assert type(await fails(says(answer), "PUT")) is Transient
    assert type(await fails(says(answer, hang=True), timeout="200ms")) is OutcomeUnknown
    assert type(await fails(says(answer, hang=True), "PUT", timeout="200ms")) is TimedOut


async def test_an_answer_that_drips_ends_with_the_total_time() -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    start = time.monotonic()
    assert type(await fails(behave, timeout="300ms", read_timeout="200ms")) is OutcomeUnknown
    assert time.monotonic() - start < 3


async def test_a_silence_in_the_answer_ends_with_the_read_timeout() -> None:
    behave = says(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", hang=True)
    assert type(await fails(behave, timeout="20s", read_timeout="100ms")) is OutcomeUnknown


async def test_an_endless_answer_and_a_gzip_bomb_take_little_memory() -> None:
    bomb = zlib.compressobj(wbits=31)
    packed = b"".join([bomb.compress(b"\0" * 1024**2) for _ in range(200)]) + bomb.flush()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        for behave in (endless, says(ok(packed, "Content-Encoding: gzip"))):
            assert type(await fails(behave, max_reply="1MB")) is BadReply
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * 1024**2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KB


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [(GZIPPED, "gzip"), (GZIPPED, "x-gzip"), (zlib.compress(b"hello" * 100), "deflate"),
     (zlib.compress(b"hello" * 100, wbits=-15), "deflate"), (b"hello" * 100, "identity")],
)  # fmt: skip
async def test_a_packed_answer_is_unpacked(packed: bytes, encoding: str) -> None:
    async with (
        backend(says(ok(packed, f"Content-Encoding: {encoding}"))) as url,
        client(max_reply=500) as web,
    ):
        assert (await web.request("GET", url)).body == b"hello" * 100


async def test_a_proxy_is_asked_in_place_of_the_host() -> None:
    seen: list[str] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, headers, _ = await read_request(reader)
        seen.append(f"{line} for {headers.get('host')}")
        writer.write(ok(b"hello") if "GET" in line else b"HTTP/1.1 403 No\r\n\r\n")

    async with backend(behave) as url, client(proxy=url) as web:
        assert (await web.request("GET", "http://far.invalid/a")).body == b"hello"
        with pytest.raises(Unreachable):
            await web.request("POST", "https://far.invalid/a")
    assert seen == [
        "GET http://far.invalid/a HTTP/1.1 for far.invalid",
        "CONNECT far.invalid:443 HTTP/1.1 for far.invalid",
    ]


# --- answers with a meaning ----------------------------------------------------------------------


async def test_redirects_are_not_followed_and_cookies_not_kept() -> None:
    seen: list[Headers] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append((await read_request(reader))[1])
            writer.write(
                b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\n"
                b"Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
            )

    async with backend(behave) as url, client() as web:
        for _ in range(2):
            reply = await web.request("GET", url)
            error = error_of(reply, idempotent=True)
            assert isinstance(error, Rejected)
            assert error.status == 302
    assert len(seen) == 2
    assert seen[1].get("cookie") is None


@pytest.mark.parametrize(
    ("status", "kind", "idempotent_kind"),
    [
        (200, type(None), type(None)), (201, type(None), type(None)), (204, type(None), type(None)),
        (304, Rejected, Rejected), (400, Rejected, Rejected), (401, Rejected, Rejected),
        (404, Rejected, Rejected), (408, Transient, Transient), (409, Rejected, Rejected),
        (425, Transient, Transient), (429, Overloaded, Overloaded), (500, Transient, Transient),
        (501, Rejected, Rejected), (502, Transient, Transient), (503, Overloaded, Overloaded),
        (504, OutcomeUnknown, TimedOut), (505, Rejected, Rejected), (599, Transient, Transient),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, kind: type, idempotent_kind: type) -> None:
    reply = ClientReply(status, Headers(), b"<html>\n no </html>")
    assert type(error_of(reply, idempotent=False)) is kind
    error = error_of(reply, idempotent=True)
    assert type(error) is idempotent_kind
    if error is not None:
        assert "html" not in error.detail
        assert error.__notes__ == ["<html> no </html>"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0), ("0", 0.0), ("99999999", 3600.0), ("9" * 400, 3600.0), ("-1", None),
        ("soon", None), ("", None), ("1.5", None), ("٣", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Thu, 99 Jan 2099 00:00:00 GMT", None),
        ("Fri, 01 Jan 2999 00:00:00 GMT", 3600.0), ("Fri, 01 Jan 2999 00:00:00", 3600.0),
    ],
)  # fmt: skip
def test_retry_after(value: str, seconds: float | None) -> None:
    error = error_of(ClientReply(429, Headers([("Retry-After", value)]), b""), idempotent=False)
    assert isinstance(error, Overloaded)
    assert error.retry_after == seconds


def test_retry_after_as_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    error = error_of(ClientReply(503, Headers([("Retry-After", when)]), b""), idempotent=False)
    assert isinstance(error, Overloaded)
    assert error.retry_after == pytest.approx(100, abs=2)


# --- what only matters for send ------------------------------------------------------------------


async def test_a_taken_message_is_taken_however_its_answer_ends() -> None:
    for answer in (*BROKEN_OFF.values(), ok(b"", "Content-Encoding: br"), BAD["not gzip at all"]):
        async with backend(says(answer, hang=True)) as url, client(timeout="20s") as web:
            reply = await web.request("POST", url, body=b"x", want_body=False)
            assert reply.status == 200


async def test_an_error_is_read_even_if_no_body_is_wanted() -> None:
    answer = b"HTTP/1.1 400 Bad\r\nContent-Length: 3\r\n\r\nwhy"
    async with backend(says(answer)) as url, client() as web:
        assert (await web.request("POST", url, want_body=False)).body == b"why"


# --- TLS -----------------------------------------------------------------------------------------


def _server_tls(ca: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


async def test_tls_is_verified(tmp_path: Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    build = FakeBuild(tmp_path)
    ours = {"ca": "ca.pem"}
    async with backend(says(ok(b"hello")), _server_tls(ca)) as url:
        async with client(build, tls=ours) as web:
            assert (await web.request("GET", url)).body == b"hello"
        async with client(build) as web:
            with pytest.raises(Unreachable, match="TLS"):
                await web.request("GET", url)
    async with (
        backend(says(ok(b"hello")), _server_tls(other)) as url,
        client(build, tls=ours) as web,
    ):
        with pytest.raises(Unreachable, match="TLS"):
            await web.request("GET", url)
    async with (
        backend(says(ok(b"hello")), _server_tls(ca, "else.example")) as url,
        client(build, tls=ours) as web,
    ):
        with pytest.raises(Unreachable, match="TLS"):
            await web.request("GET", url)
    async with backend(says(ok(b"hello"))) as url, client(build, tls=ours) as web:
        with pytest.raises(Unreachable):
            await web.request("GET", url.replace("http://127.0.0.1", "https://localhost"))


async def test_our_own_certificate_is_shown(tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = ca.issue_cert("bus.example")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "bus.pem")
    ours.private_key_pem.write_to_path(tmp_path / "bus.key")
    server = _server_tls(ca)
    ca.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    tls = {"ca": "ca.pem", "cert": "bus.pem", "key": "bus.key"}
    build = FakeBuild(tmp_path)
    async with backend(says(ok(b"hello")), server) as url:
        async with client(build, tls=tls) as web:
            assert (await web.request("GET", url)).body == b"hello"
        async with client(build, tls={"ca": "ca.pem"}) as web:
            # The server of TLS 1.3 refuses a missing certificate only after the handshake.
            with pytest.raises((Unreachable, TimedOut)):
                await web.request("GET", url, timeout=5)


@pytest.mark.parametrize(
    "tls", [{"ca": "no.pem"}, {"ca": "bad.pem"}, {"cert": "bad.pem", "key": "bad.pem"}]
)
def test_unusable_tls_files_are_a_mistake(tmp_path: Path, tls: dict[str, str]) -> None:
    (tmp_path / "bad.pem").write_text("nothing of use")
    with pytest.raises(BuildFailed):
        web_client(FakeBuild(tmp_path), ClientOptions.model_validate({"tls": tls}))


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"tls": {"cert": "a"}}, {"tls": {"verify": False}}, {"auth": {}}, {"proxy": "socks://x"},
     {"auth": {"basic": {"username": "u", "password": "p"}, "bearer": "t"}}, {"timeout": 5}],
)  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ClientOptions.model_validate(options)


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ({"basic": {"username": "ann", "password": "s3cret-ä"}}, "Basic YW5uOnMzY3JldC3DpA=="),
        ({"bearer": "s3cret"}, "Bearer s3cret"),
    ],
)
async def test_credentials_are_sent_and_never_shown(auth: dict[str, Any], header: str) -> None:
    options = ClientOptions.model_validate({"auth": auth})
    assert "s3cret" not in repr(options)
    assert "s3cret" not in str(options.model_dump())
    seen: list[Headers] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await read_request(reader))[1])
        writer.write(ok(b""))

    async with backend(behave) as url, client(auth=auth) as web:
        await web.request("GET", url)
    assert seen[0].get("authorization") == header


@pytest.mark.parametrize(
    "url",
    ["", "a", "ftp://a/", "http://", "http:///a", "http://a b/", "http://u:p@a/", "http://a/ä",
     "http://a:99999/", "http://a/\r\nX: y", "http://a/\0"],
)  # fmt: skip
async def test_a_url_that_is_none(url: str) -> None:
    async with client() as web:
        with pytest.raises(RouteFailure):
            await web.request("GET", url)


async def test_endpoints_share_a_pool_where_they_may() -> None:
    build = FakeBuild()
    first = web_client(build, ClientOptions.model_validate({"timeout": "1s"}))
    second = web_client(build, ClientOptions.model_validate({"auth": {"bearer": "x"}}))
    third = web_client(build, ClientOptions.model_validate({"max_connections": 3}))
    assert first._pool is second._pool
    assert first._pool is not third._pool


# --- headers -------------------------------------------------------------------------------------


def outbound(build: FakeBuild | None = None, **options: Any) -> OutboundHeaders:
    return OutboundHeaders(build or FakeBuild(), ClientOptions.model_validate(options))


WIRE = Headers(
    [
        ("Host", "evil.example"), ("Connection", "close"), ("Transfer-Encoding", "chunked"),
        ("Content-Length", "5"), ("Content-Type", "text/plain"), ("Content-Encoding", "gzip"),
        ("Authorization", "Bearer x"), ("Cookie", "a=b"), ("Proxy-Authorization", "Basic x"),
        ("Forwarded", "for=1"), ("X-Forwarded-For", "1.1.1.1"), ("Traceparent", "00-bad"),
        ("Idempotency-Key", "mine"), ("Expect", "100-continue"), ("Te", "trailers"),
        ("Upgrade", "h2c"), ("Via", "1.1 x"), ("X-Business", "yes"), ("x-business", "twice"),
        ("X-Number", 7), ("X-Flag", True), ("X-Table", {"a": 1}), ("X-Bytes", b"x"),
    ]
)  # fmt: skip


def test_only_what_travels_end_to_end_is_forwarded() -> None:
    sent = outbound()(Envelope(headers=WIRE), "POST")
    assert sent == [
        ("X-Business", "yes"), ("x-business", "twice"), ("X-Number", "7"), ("X-Flag", "true")
    ]  # fmt: skip
    assert outbound(forward_headers=False)(Envelope(headers=WIRE), "POST") == []
    named = outbound(forward_headers=["authorization", "X-Number"])
    assert named(Envelope(headers=WIRE), "POST") == [
        ("Authorization", "Bearer x"), ("X-Number", "7")
    ]  # fmt: skip


def test_configured_headers_take_the_place_of_forwarded_ones() -> None:
    headers = outbound(headers={"X-Business": "{{ path.id }}"})
    envelope = Envelope(headers=WIRE, params={"path": {"id": "5"}})
    assert ("X-Business", "5") in headers(envelope, "POST")
    assert ("x-business", "twice") not in headers(envelope, "POST")


@pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "a b", "X:", ""])
def test_headers_that_no_route_may_set(name: str) -> None:
    with pytest.raises(BuildFailed):
        outbound(headers={name: "x"})


def test_the_trace_travels() -> None:
    trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    envelope = Envelope(id="m1", traceparent=trace, tracestate="x=1")
    assert outbound()(envelope, "POST") == [("traceparent", trace), ("tracestate", "x=1")]


def key(envelope: Envelope, build: FakeBuild | None = None, **options: Any) -> str:
    """The one header that is sent, with its name."""
    [(name, value)] = outbound(build, **{"idempotent": True, **options})(envelope, "POST")
    return f"{name}: {value}"


def test_a_message_has_one_key_at_each_place_and_it_never_changes() -> None:
    one, other = Envelope(id="m1"), Envelope(id="m2")
    # As it was written by whatever process sent it first: it must not change between versions.
    assert key(one) == 'Idempotency-Key: "a7760740-738a-5467-85ca-d668ae5d48aa"'
    assert key(one.replace(attempt=3)) == key(one) != key(other)
    elsewhere = FakeBuild()
    elsewhere.where = "steps[1].send.http"
    assert key(one, elsewhere) != key(one)
    # A method that is idempotent by definition needs no key.
    assert outbound(idempotent=True)(one, "PUT") == []


def test_a_key_of_ones_own() -> None:
    order = Envelope(id="m1", params={"path": {"order": "o-17"}})
    told = {"idempotent": False, "idempotency_key": "{{ path.order }}"}
    assert key(order, **told) == "Idempotency-Key: o-17"
    assert key(order, **told, idempotency_header="PayPal-Request-Id") == "PayPal-Request-Id: o-17"
    assert outbound(**told)(order, "PUT") == [("Idempotency-Key", "o-17")]
    # Only the draft's own header has its value in quotes.
    assert '"' not in key(order, idempotency_header="X-Key")
    with pytest.raises(RouteFailure, match="empty"):
        key(order.replace(params={"path": {"order": " "}}), **told)
    assert web_client(FakeBuild(), ClientOptions.model_validate(told)).is_idempotent("POST")
    for name in ("content-length", "a b", ""):
        with pytest.raises(BuildFailed):
            outbound(idempotent=True, idempotency_header=name)


def test_a_key_that_was_forwarded_or_set_by_name_stays() -> None:
    callers = Envelope(id="m1", headers=WIRE)
    assert key(callers, forward_headers=["idempotency-key"]) == "Idempotency-Key: mine"
    assert key(callers, headers={"Idempotency-Key": "x"}, forward_headers=False).endswith(" x")


def test_what_other_protocols_let_a_message_hold_does_no_harm() -> None:
    envelope = Envelope(
        id="a\r\nX: y\ud800",
        traceparent="00-\r\nX: y",
        headers=Headers.trusted([("X-A", "a\r\nX: y"), ("X-B", "\ud800")]),
    )
    sent = outbound(idempotent=True)(envelope, "POST")
    [(name, value)] = sent
    assert (name, len(value)) == ("Idempotency-Key", 38)


@pytest.mark.parametrize("header", [("X\r\n", "a"), ("X", "a\r\nb: c"), ("X", "\ud800"), ("", "a")])
async def test_headers_that_cannot_be_written(header: tuple[str, str]) -> None:
    async with backend(says(ok(b""))) as url, client() as web:
        with pytest.raises(RouteFailure):
            await web.request("POST", url, headers=[header])
