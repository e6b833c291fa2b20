"""Connections and their pool, on both event loops: what is used again, what is not believed, what
passes as it arrives."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import socket
import ssl
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from support.waiting import until
from support.web import backend, read_request

from esb.deadlines import Deadlines
from esb.envelope import Body
from esb.errors import (
    BadReply,
    EsbError,
    Permanent,
    RouteFailure,
    TimedOut,
    Transient,
)
from esb.outbox import Outbox
from esb_web import ClientOptions, ClientReply, WebClient, transport
from esb_web.connection import Connection, HttpParserError
from esb_web.transport import Pool

MB = 1024 * 1024
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"


@contextlib.asynccontextmanager
async def client(
    limit: int = 100, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[WebClient]:
    pool = Pool(tls, None, limit)
    try:
        yield WebClient(pool, ClientOptions.model_validate(options))
    finally:
        await pool.close()


class Far:
    """A far side that gives its answers in turn, the last again and again, on connections that it
    keeps open. connections: what was asked on each, as request lines."""

    def __init__(self, *answers: bytes, hangs_up: bool = False) -> None:
        self.answers = list(answers)
        self.hangs_up = hangs_up
        self.connections: list[list[str]] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked: list[str] = []
        self.connections.append(asked)
        self.writers.append(writer)
        while True:
            asked.append((await read_request(reader))[0])
            writer.write(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
            await writer.drain()
            if self.hangs_up:
                return


def ok(body: bytes = b"", *headers: str) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def whole(reply: ClientReply) -> bytes:
    assert reply.stream is not None
    assert reply.body == b""
    return b"".join([piece async for piece in reply.stream])


# --- which connection is used ---------------------------------------------------------------------


async def test_the_connection_used_last_is_used_again() -> None:
    far = Far(ok(b"a"))
    async with backend(far) as url, client() as web:
        await asyncio.gather(*(web.request("GET", url) for _ in range(3)))
        assert [len(asked) for asked in far.connections] == [1, 1, 1]
        for _ in range(5):
            await web.request("GET", url)
    assert sorted(len(asked) for asked in far.connections) == [1, 1, 6]


async def test_who_waits_first_is_served_first_and_who_leaves_takes_no_turn() -> None:
    asked: list[str] = []
    go = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append((await read_request(reader))[0].split()[1])
            await go.wait()
            writer.write(ok())

    async with backend(behave) as url, client(limit=1) as web:
        tasks = [asyncio.ensure_future(web.request("GET", f"{url}/{n}")) for n in range(5)]
        await until(lambda: asked == ["/0"])
        tasks[2].cancel()
        go.set()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert asked == ["/0", "/1", "/3", "/4"]
        assert isinstance(done[2], asyncio.CancelledError)


async def test_a_turn_of_a_connection_that_ended_goes_to_the_next() -> None:
    far = Far(ok(b"a", "Connection: close"))
    async with backend(far) as url, client(limit=2) as web:
        replies = await asyncio.gather(*(web.request("GET", url) for _ in range(8)))
        assert [reply.body for reply in replies] == [b"a"] * 8
    assert [len(asked) for asked in far.connections] == [1] * 8


async def test_a_request_that_nobody_waits_for_any_longer_frees_its_connection() -> None:
    stuck = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line, _, _ = await read_request(reader)
        if "/stuck" in line:
            stuck.set()
            await reader.read()
        writer.write(ok(b"a"))

    async with backend(behave) as url, client(limit=1) as web:
        first = asyncio.ensure_future(web.request("GET", f"{url}/stuck"))
        await stuck.wait()
        first.cancel()
        assert (await web.request("GET", url)).body == b"a"


async def test_who_leaves_as_his_answer_comes_does_no_harm_to_the_next() -> None:
    go = asyncio.Event()
    asked: list[str] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked.append((await read_request(reader))[0])
            await go.wait()
            writer.write(ok(b"a"))

    async with backend(behave) as url, client(limit=1) as web:
        first = asyncio.ensure_future(web.request("GET", f"{url}/1"))
        await until(lambda: asked)
        second = asyncio.ensure_future(web.request("GET", f"{url}/2"))
        [origin] = await _origins(web)
        await until(lambda: origin._waiting)
        [connection] = origin._open
        returned, loop = origin.returned, asyncio.get_running_loop()

        def leave(one: Connection) -> None:
            # Before the first wakes up, the connection is the second's.
            returned(one)
            loop.call_soon(first.cancel)

        origin.returned = leave
        go.set()
        assert (await second).body == b"a"
        assert first.cancelled()
        assert origin._open == {connection}


async def test_a_badly_packed_answer_does_no_harm_to_the_next() -> None:
    far = Far(ok(gzip.compress(b"a")[:-4], "Content-Encoding: gzip"), ok(b"a"))
    async with backend(far) as url, client(limit=1) as web:
        first, second = await asyncio.gather(
            web.request("GET", url), web.request("GET", url), return_exceptions=True
        )
        assert isinstance(first, BadReply)
        assert isinstance(second, ClientReply)
    assert len(far.connections) == 2


@pytest.mark.parametrize(
    "answer",
    [ok(b"x" * 200_000), ok(b"x" * 60_000), CHUNKED + b"\r\nbad", CHUNKED + b"\r\n5\r\nhel"],
    ids=["large", "small", "broken", "broken off"],
)
async def test_a_message_that_was_taken_is_taken_whatever_follows(answer: bytes) -> None:
    far = Far(answer, hangs_up=True)
    async with backend(far) as url, client() as web:
        reply = await web.request("POST", url, body=b"x", want_body=False)
        assert (reply.status, reply.body) == (200, b"")


async def test_over_tls_all_is_the_same() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    far = Far(ok(LARGE))
    async with backend(far, server) as url, client(tls=ours) as web:
        for _ in range(2):
            assert (await web.request("POST", url, body=LARGE)).body == LARGE
            reply = await web.request("POST", url, body=Sent(LARGE).body(len(LARGE)))
            assert reply.body == LARGE
            assert await whole(await web.request("GET", url, may_stream=True)) == LARGE
        [origin] = web._pool._origins.values()  # type: ignore[union-attr]
        far.writers[0].close()
        await until(lambda: not origin._idle)
        assert (await web.request("GET", url)).body == LARGE
    assert [len(asked) for asked in far.connections] == [6, 1]


CLOSED = {
    "closed": lambda writer: writer.close(),
    "reset": lambda writer: writer.transport.abort(),
    "a late error": lambda writer: writer.write(b"HTTP/1.1 408 Timeout\r\n\r\n"),
    "an answer for nobody": lambda writer: writer.write(ok(b"evil")),
}  # fmt: skip


@pytest.mark.parametrize("end", CLOSED.values(), ids=CLOSED)
async def test_no_request_goes_out_on_a_connection_that_ended_meanwhile(end: Any) -> None:
    far = Far(ok(b"a"))
    async with backend(far) as url, client() as web:
        await web.request("GET", url)
        [origin] = web._pool._origins.values()  # type: ignore[union-attr]
        end(far.writers[0])
        await until(lambda: not origin._idle)
        assert (await web.request("POST", url, body=b"x")).body == b"a"
    assert [len(asked) for asked in far.connections] == [1, 1]


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_IDLE_FOR", 0.02)
    far = Far(ok(b"a"))
    async with backend(far) as url, client() as web:
        await web.request("GET", url)
        # And a host that nobody asks any longer is forgotten.
        await until(lambda: not web._pool._origins)  # type: ignore[union-attr]
        assert (await web.request("GET", url)).body == b"a"
    assert len(far.connections) == 2


MORE = {
    "another answer": ok(b"a") + ok(b"evil"),
    "half of one": ok(b"a") + b"HTT",
    "garbage": ok(b"a") + b"\0\0",
    "a body of an answer that has none": b"HTTP/1.1 204 No\r\nContent-Length: 4\r\n\r\nevil",
    "and says so": ok(b"a", "Connection: close"),
    "an older server": b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na",
    "chunks of an older server": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", MORE.values(), ids=MORE)
async def test_a_connection_with_more_than_an_answer_is_not_used_again(answer: bytes) -> None:
    far = Far(answer, ok(b"good"))
    async with backend(far) as url, client() as web:
        assert (await web.request("GET", url)).body in (b"a", b"")
        assert (await web.request("GET", url)).body == b"good"
    assert len(far.connections) == 2


async def test_closing_the_pool_ends_what_is_under_way() -> None:
    async def behave(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with backend(behave) as url:
        async with client() as web:
            task = asyncio.ensure_future(web.request("GET", url))
            await until(lambda: bool(web._pool._origins))  # type: ignore[union-attr]
            [origin] = web._pool._origins.values()  # type: ignore[union-attr]
            await until(lambda: bool(origin._open))
        with pytest.raises(TimedOut):
            await task


# --- what is no answer ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", 200),
        ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 304 Not\r\nContent-Length: 5\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 204 No\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 205 Reset\r\nContent-Length: 0\r\n\r\n", 205),
    ],
)
async def test_answers_without_a_body(method: str, answer: bytes, status: int) -> None:
    far = Far(answer)
    async with backend(far) as url, client() as web:
        for _ in range(3):
            reply = await web.request(method, url)
            assert (reply.status, reply.body) == (status, b"")
    assert len(far.connections) == 1


async def test_what_comes_before_the_answer_is_skipped() -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    far = Far(early + ok(b"a", "X-A: 1"))
    async with backend(far) as url, client() as web:
        for _ in range(2):
            reply = await web.request("POST", url, body=b"x")
            assert (reply.status, reply.body) == (200, b"a")
            assert list(reply.headers) == [("X-A", "1")]
    assert len(far.connections) == 1


BAD = {
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "no end of what comes before": b"HTTP/1.1 100 Continue\r\nX: aaaaaaaaaaaaaaa\r\n\r\n" * 10_000,
    "a status that is none": b"HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n",
    "too many fields": ok(b"", *(f"X-{n}: 1" for n in range(256))),
    "a field that is too long": ok(b"", "X: " + "a" * 33_000),
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 300_000,
    "a folded field": ok(b"", "X: a\r\n b"),
    "chunks of something packed": b"HTTP/1.1 200 OK\r\n"
    b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a packing that is no chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "chunks twice": CHUNKED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length twice": ok(b"a", "Content-Length: 1"),
    "a negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "a list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na",
    "a bad chunk": CHUNKED + b"\r\n5\r\nhelloX0\r\n\r\n",
    "a chunk of a size that is none": CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a chunk that is too large": CHUNKED + b"\r\nffffffffffffffffff\r\n",
    "an extension without an end": CHUNKED + b"\r\n5;" + b"a" * 300_000,
    "trailers without an end": CHUNKED + b"\r\n0\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaa\r\n" * 12_000,
    "a length in the trailers": CHUNKED + b"\r\n0\r\nContent-Length: 5\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
async def test_an_answer_that_is_not_believed(answer: bytes) -> None:
    async with backend(Far(answer)) as url, client() as web:
        with pytest.raises(BadReply):
            await web.request("PUT", url, body=b"x", timeout=20)


async def test_trailers_are_dropped() -> None:
    answer = CHUNKED + b"X-A: 1\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-A: 2\r\nX-B: 2\r\n\r\n"
    far = Far(answer)
    async with backend(far) as url, client() as web:
        for _ in range(2):
            reply = await web.request("GET", url)
            assert (list(reply.headers), reply.body) == ([("X-A", "1")], b"hello")
    assert len(far.connections) == 1


async def test_old_servers_are_understood() -> None:
    async with backend(
        Far(b"HTTP/1.0 200\nX-A:1 \nX-B:\n\nhello", hangs_up=True)
    ) as url, client() as web:  # fmt: skip
        reply = await web.request("GET", url)
        assert (list(reply.headers), reply.body) == ([("X-A", "1"), ("X-B", "")], b"hello")


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Expect"]
)
async def test_a_header_that_would_make_another_request_is_not_sent(name: str) -> None:
    async with backend(Far(ok())) as url, client() as web:
        with pytest.raises(RouteFailure):
            await web.request("POST", url, headers=[(name, "1")], body=b"x")


async def test_a_name_with_an_address_where_nobody_listens() -> None:
    """`localhost` is ::1 too, where nobody is."""
    far = Far(ok(b"a"))
    async with backend(far) as url, client() as web:
        reply = await web.request("GET", url.replace("127.0.0.1", "localhost"))
        assert reply.body == b"a"


# --- any answer, in any pieces --------------------------------------------------------------------


class Nobody:
    """An owner who notes what is given back."""

    def __init__(self) -> None:
        self.back = 0

    def returned(self, _connection: Connection) -> None:
        self.back += 1

    def gone(self, _connection: Connection) -> None:
        """It is closed."""


async def fed(
    pieces: list[bytes], method: str = "GET", *, left: bool = True, **options: Any
) -> tuple[Any, int]:
    """What a connection says to these bytes and the end of the connection; and whether it could
    have been used again before that. left: whether what was asked has left by then."""
    ours, theirs = socket.socketpair()
    owner = Nobody()
    loop = asyncio.get_running_loop()
    deadlines, outbox = Deadlines(loop), Outbox(loop)
    with theirs:
        _, connection = await loop.create_connection(
            lambda: Connection(deadlines, outbox, owner), sock=ours
        )
        answer = connection.ask(
            method, b"GET / HTTP/1.1\r\n\r\n", None, due=loop.time() + 60, silence=None,
            limit=MB, want_body=True, may_stream=False, **options,
        )  # fmt: skip
        if left:
            outbox.flush()
        for piece in pieces:
            if not connection.transport.is_closing() and not owner.back:
                connection.data_received(piece)
        back = owner.back
        with contextlib.suppress(OSError):
            theirs.shutdown(socket.SHUT_WR)
        [said] = await asyncio.gather(answer, return_exceptions=True)
        connection.abort()
    deadlines.close()
    return said, back


async def test_an_answer_that_was_there_before_what_was_asked_had_left() -> None:
    # Its connection would give the next request the answer to this one.
    early = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert (await fed([early]))[1] == 1
    assert (await fed([early], left=False))[1] == 0


def split(data: bytes, places: list[int]) -> list[bytes]:
    cuts = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(cuts)]


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, int, list[tuple[str, str]], bytes, bool]:
    """An answer as bytes, and what is in it: status, headers, body, and whether its connection can
    be used again."""
    status = draw(st.sampled_from([200, 201, 400, 404, 500, 503]))
    name = st.from_regex(r"X-[A-Za-z0-9!#$%&'*+.^_`|~-]{1,8}", fullmatch=True)
    value = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
    headers = draw(st.lists(st.tuples(name, value), max_size=5))
    body = draw(st.binary(max_size=300))
    keep = draw(st.booleans())
    lines = [f"{n}:{draw(st.sampled_from(['', ' ', '  ']))}{v}" for n, v in headers]
    if not keep:
        lines.append("Connection: close")
    packed = body
    packing = draw(st.sampled_from(["", "gzip", "deflate"]))
    if packing:
        packed = gzip.compress(body, mtime=0) if packing == "gzip" else zlib.compress(body)
        lines.append(f"Content-Encoding: {packing}")
    framing = draw(st.sampled_from(["length", "chunks", "end"]))
    if framing == "length":
        lines.append(f"content-length: {len(packed)}")
    elif framing == "chunks":
        lines.append("Transfer-Encoding: Chunked")
        pieces = split(packed, draw(st.lists(st.integers(1, 300), max_size=4)))
        packed = b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        packed += b"0\r\n" + draw(st.sampled_from([b"", b"X-T: 1\r\n"])) + b"\r\n"
    early = b"HTTP/1.1 100 Continue\r\n\r\n" * draw(st.integers(0, 2))
    head = "\r\n".join([f"HTTP/1.1 {status} Some Reason", *lines, "", ""]).encode()
    return early + head + packed, status, headers, body, keep and framing != "end"


@settings(deadline=None, max_examples=150)
@given(answers(), st.lists(st.integers(0, 600), max_size=12))
async def test_an_answer_is_the_same_in_whatever_pieces_it_comes(
    answer: tuple[bytes, int, list[tuple[str, str]], bytes, bool], places: list[int]
) -> None:
    data, status, headers, body, keep = answer
    said, back = await fed(split(data, places))
    assert isinstance(said, ClientReply), said
    assert (said.status, list(said.headers), said.body) == (status, headers, body)
    assert back == keep


@settings(deadline=None, max_examples=300)
@given(
    answers(),
    st.lists(st.integers(0, 600), max_size=6),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=6)), min_size=1,
             max_size=4),
)  # fmt: skip
async def test_whatever_comes_is_an_answer_or_one_of_the_known_errors(
    answer: tuple[bytes, int, list[tuple[str, str]], bytes, bool],
    places: list[int],
    changes: list[tuple[int, int, bytes]],
) -> None:
    data = answer[0]
    for place, gone, more in changes:
        data = data[:place] + more + data[place + gone :]
    said, back = await fed(split(data, places))
    assert isinstance(said, ClientReply | BadReply | HttpParserError | ConnectionError), said
    if not isinstance(said, ClientReply):
        assert not back
    # What it means does not depend on the pieces.
    at_once, _ = await fed([data])
    assert type(at_once) is type(said)
    if isinstance(said, ClientReply) and isinstance(at_once, ClientReply):
        assert (said.status, said.body, list(said.headers)) == (
            at_once.status, at_once.body, list(at_once.headers)
        )  # fmt: skip


# --- bodies that are sent piece by piece ----------------------------------------------------------


class Sent:
    """Pieces of a body; how many were taken, and whether it was closed."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces = pieces
        self.error = error
        self.taken = 0
        self.closed = False

    async def __call__(self) -> AsyncIterator[bytes]:
        try:
            for piece in self.pieces:
                self.taken += 1
                yield piece
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    def body(self, size: int | None = None) -> Body:
        return Body.from_stream(self(), "text/plain", size)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert b"transfer-encoding: chunked\r\n" in head
    assert b"content-length" not in head
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        assert await reader.readexactly(2) == b"\r\n"
    assert await reader.readexactly(2) == b"\r\n"
    return body


@pytest.mark.parametrize("size", [None, 10])
async def test_a_body_that_arrives_is_sent_as_it_arrives(size: int | None) -> None:
    got: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            chunks = size is None
            got.append(await read_chunks(reader) if chunks else (await read_request(reader))[2])
            writer.write(ok(b"a"))

    async with backend(behave) as url, client() as web:
        for _ in range(2):
            sent = Sent(b"hello", b"", b"world")
            assert (await web.request("POST", url, body=sent.body(size))).body == b"a"
            assert sent.closed
    assert got == [b"helloworld"] * 2


async def test_a_slow_far_side_slows_the_body_down() -> None:
    go = asyncio.Event()

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        await reader.readexactly(64 * MB)
        writer.write(ok(b"a"))

    async with backend(behave) as url, client() as web:
        sent = Sent(*[b"x" * MB] * 64)
        task = asyncio.ensure_future(web.request("POST", url, body=sent.body(64 * MB)))
        [origin] = await _origins(web)
        await until(lambda: any(one._writable is not None for one in origin._open))
        taken = sent.taken
        assert taken < 32
        await asyncio.sleep(0)
        assert sent.taken == taken
        go.set()
        assert (await task).body == b"a"


async def _origins(web: WebClient) -> Any:
    origins: dict[str, Any] = web._pool._origins  # type: ignore[union-attr]
    await until(lambda: bool(origins) and all(one._open for one in origins.values()))
    return list(origins.values())


@pytest.mark.parametrize("arriving", [False, True])
async def test_an_answer_before_the_body_was_sent_is_seen(arriving: bool) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await asyncio.Event().wait()  # reads no more

    async with backend(behave) as url, client() as web:
        sent = Sent(*[b"x" * MB] * 64)
        body = sent.body(64 * MB) if arriving else b"x" * 64 * MB
        reply = await web.request("POST", url, body=body, timeout=20)
        assert (reply.status, reply.body) == (413, b"big")
        [origin] = web._pool._origins.values() or [None]  # type: ignore[union-attr]
        assert origin is None or not origin._idle
        if arriving:
            await until(lambda: sent.closed)


@pytest.mark.parametrize(
    ("sent", "size", "error"),
    [
        (Sent(b"hello", error=Permanent("the sender hung up")), None, Permanent),
        (Sent(b"hello", error=ValueError("a slip")), 9, RouteFailure),
        (Sent(b"hello"), 9, Permanent),
        (Sent(b"hello", b"world"), 9, Permanent),
    ],
    ids=["broken off", "a mistake", "too short", "too long"],
)
async def test_a_body_that_breaks_off_is_no_request(
    sent: Sent, size: int | None, error: type[EsbError]
) -> None:
    got: list[bytes] = []

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            got.append(await reader.read())
        writer.write(ok())

    async with backend(behave) as url, client() as web:
        with pytest.raises(error) as caught:
            await web.request("POST", url, body=sent.body(size))
        assert type(caught.value) is error
    assert sent.closed
    for raw in got:
        assert not raw.endswith(b"0\r\n\r\n")
        assert len(raw) < 12


# --- answers that pass as they arrive -------------------------------------------------------------

LARGE = bytes(range(256)) * 4 * 3 * 1024  # 3 MB
STREAMS = {
    "with a length": (ok(LARGE), len(LARGE)),
    "in chunks": (CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(LARGE), LARGE), None),
    "packed": (ok(gzip.compress(LARGE, mtime=0), "Content-Encoding: gzip"), None),
    "hardly packed": (ok(gzip.compress(LARGE, 0, mtime=0), "Content-Encoding: gzip"), None),
}


@pytest.mark.parametrize(("answer", "size"), STREAMS.values(), ids=STREAMS)
async def test_a_large_answer_passes_as_it_arrives(answer: bytes, size: int | None) -> None:
    far = Far(answer)
    async with backend(far) as url, client() as web:
        for _ in range(2):
            reply = await web.request("GET", url, may_stream=True)
            assert reply.size == size
            assert await whole(reply) == LARGE
        assert (await web.request("GET", url)).body == LARGE
    assert len(far.connections) == 1


@pytest.mark.parametrize("encoding", ["", "gzip", "identity"])
async def test_a_small_answer_is_whole(encoding: str) -> None:
    packed = gzip.compress(b"hello", mtime=0) if encoding == "gzip" else b"hello"
    far = Far(ok(packed, *([f"Content-Encoding: {encoding}"] if encoding else [])))
    async with backend(far) as url, client() as web:
        reply = await web.request("GET", url, may_stream=True)
        assert (reply.body, reply.stream) == (b"hello", None)


async def test_an_error_is_whole() -> None:
    answer = ok(LARGE).replace(b"200", b"404", 1)
    async with backend(Far(answer)) as url, client() as web:
        assert (await web.request("GET", url, may_stream=True)).body == LARGE


async def test_a_slow_receiver_slows_the_far_side_down() -> None:
    written = 0

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 * MB))
        for _ in range(64):
            writer.write(b"x" * MB)
            await writer.drain()
            written += 1

    async with backend(behave) as url, client(max_reply="64MB") as web:
        reply = await web.request("GET", url, may_stream=True)
        assert reply.stream is not None
        await until(lambda: reply.stream.paused)  # type: ignore[union-attr]
        assert written < 32
        assert sum([len(piece) async for piece in reply.stream]) == 64 * MB


async def test_an_answer_that_breaks_off_while_it_passes() -> None:
    answer = ok(LARGE)[:-1]
    for idempotent, error in ((True, Transient), (False, BadReply)):
        async with backend(Far(answer, hangs_up=True)) as url, client() as web:
            reply = await web.request(
                "POST", f"{url}/a?secret=1", idempotent=idempotent, may_stream=True
            )
            with pytest.raises(error) as caught:
                await whole(reply)
            assert "secret" not in str(caught.value.notes)
            assert f"POST {url}/a" in caught.value.notes[0]


async def test_limits_hold_for_what_passes_as_it_arrives() -> None:
    chunks = CHUNKED + b"\r\n" + b"100000\r\n%b\r\n" % (b"x" * MB) * 3 + b"0\r\n\r\n"
    packed = ok(gzip.compress(LARGE, mtime=0), "Content-Encoding: gzip")
    cut = ok(gzip.compress(LARGE, mtime=0)[:-4], "Content-Encoding: gzip")
    for answer, limit in ((chunks, "2MB"), (packed, "2MB"), (cut, "5MB")):
        async with backend(Far(answer)) as url, client(max_reply=limit) as web:
            with pytest.raises(BadReply):
                await whole(await web.request("GET", url, may_stream=True))
    async with backend(Far(ok(LARGE)[:-1])) as url, client() as web:
        reply = await web.request("GET", url, may_stream=True, timeout=0.3)
        with pytest.raises(TimedOut):
            await whole(reply)


async def test_who_takes_no_more_hangs_up() -> None:
    far = Far(ok(LARGE)[:-1])
    async with backend(far) as url, client(limit=1) as web:
        reply = await web.request("GET", url, may_stream=True)
        assert reply.stream is not None
        await anext(reply.stream)
        await reply.stream.aclose()
        far.answers = [ok(b"a")]
        assert (await web.request("GET", url)).body == b"a"
    assert len(far.connections) == 2
