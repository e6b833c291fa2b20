"""Bodies that pass through the listener as they arrive, both ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.waiting import until
from support.web import Wire, ask, serving, site, wire

from esb.envelope import Body
from esb.errors import EsbError, Unreachable
from esb.outline import Passage
from esb_web import Request, Response, Site

PIECE = bytes(range(256)) * 256
TOTAL = 64 * 1024**2
ENOUGH = 16 * 1024**2
"""What may lie in the buffers of sockets, and here, while somebody is slow; far less than all."""


def streaming(handler: Any, **options: Any) -> Site:
    passage = Passage()
    passage.open = True
    return site("/in", handler=handler, passage=passage, max_body=2 * TOTAL, **options)


def body_of(request: Request) -> Body:
    assert request.body == b""
    assert request.arriving is not None
    return request.arriving


async def upload(one: Wire, total: int, *, chunked: bool = False) -> AsyncIterator[int]:
    """Send a body, and tell after each piece how much went out."""
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {total}"
    head = f"POST /in HTTP/1.1\r\nHost: a\r\nContent-Type: x/y\r\n{length}\r\n\r\n"
    await one.send(head.encode())
    for sent in range(0, total, len(PIECE)):
        piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
        await one.send(piece)
        yield sent + len(PIECE)
    if chunked:
        await one.send(b"0\r\n\r\n")


async def slowly() -> None:
    """Give everybody else the time to do more than they should."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_large_body_waits_for_who_takes_it(chunked: bool) -> None:
    sent = taken = most = 0
    told: list[tuple[int | None, str]] = []

    async def take(request: Request) -> Response:
        nonlocal taken, most
        body = body_of(request)
        told.append((body.size, body.content_type))
        async for piece in body.chunks():
            at = taken % 256
            assert piece[:64] == (PIECE[at:] + PIECE)[: len(piece[:64])]
            taken += len(piece)
            await slowly()
            most = max(most, sent - taken)
        return Response(200, [], b"all of it")

    async with serving(streaming(take)) as server, wire(server.url) as one:
        async for sent in upload(one, TOTAL, chunked=chunked):  # noqa: B007 - `take` looks at it
            pass
        assert (await one.answer())[2] == b"all of it"
        assert told == [(None if chunked else TOTAL, "x/y")]
        assert taken == TOTAL
        assert most < ENOUGH
        assert server._held == 0
        # The connection is good for more.
        async for _ in upload(one, 2 * 1024**2):
            pass
        assert (await one.answer())[2] == b"all of it"


async def test_a_small_body_is_whole() -> None:
    async def take(request: Request) -> Response:
        assert request.arriving is None
        return Response(200, [], b"%d" % len(request.body))

    async with serving(streaming(take)) as server, wire(server.url) as one:
        for total in (len(PIECE), 8 * len(PIECE)):
            async for _ in upload(one, total):
                pass
            assert (await one.answer())[2] == b"%d" % total


async def test_a_body_that_arrives_has_its_limit() -> None:
    async def take(request: Request) -> Response:
        async for _ in body_of(request).chunks():
            pass
        return Response(200)

    async with serving(streaming(take)) as server, wire(server.url) as one:
        async for _ in upload(one, 2 * TOTAL + len(PIECE), chunked=True):
            if one.reader.at_eof():
                break
        assert (await one.answer())[0] == 413


async def test_who_hangs_up_amid_a_body_is_told_to_who_takes_it() -> None:
    told: list[EsbError] = []

    async def take(request: Request) -> Response:
        try:
            async for _ in body_of(request).chunks():
                pass
        except EsbError as e:
            told.append(e)
            raise
        return Response(200)

    async with serving(streaming(take)) as server:
        async with wire(server.url) as one:
            async for sent in upload(one, TOTAL):
                if sent == TOTAL // 2:
                    break
        (error,) = await until(lambda: told)
        assert error.code == "bad-message"


async def test_a_body_that_stops_arriving_is_given_up() -> None:
    told: list[EsbError] = []

    async def take(request: Request) -> Response:
        try:
            async for _ in body_of(request).chunks():
                pass
        except EsbError as e:
            told.append(e)
            raise
        return Response(200)

    async with serving(streaming(take), body_timeout=0.3) as server, wire(server.url) as one:
        async for sent in upload(one, TOTAL):
            if sent == TOTAL // 2:
                break
        assert (await one.answer())[0] == 408
        assert await until(lambda: told)


async def test_a_body_that_nobody_takes_ends_the_connection() -> None:
    async def refuse(_request: Request) -> Response:
        return Response(403)

    async with serving(streaming(refuse)) as server, wire(server.url) as one:
        async for _ in upload(one, TOTAL // 4):
            pass
        status, headers, _ = await one.answer()
        assert (status, headers.get("connection")) == (403, "close")


# --- answers -------------------------------------------------------------------------------------

GOOD = b"POST /in HTTP/1.1\r\nHost: bus\r\nContent-Length: 2\r\n\r\nok"


async def unchunked(one: Wire) -> AsyncIterator[bytes]:
    """The pieces of a chunked body. Raises EOFError if it is cut off."""
    while True:
        line = await one.reader.readline()
        if not line:
            raise EOFError
        if not (size := int(line, 16)):
            assert await one.reader.readexactly(2) == b"\r\n"
            return
        yield (await one.reader.readexactly(size + 2))[:size]


async def head_of(one: Wire) -> str:
    return (await one.reader.readuntil(b"\r\n\r\n")).decode().lower()


@pytest.mark.parametrize("size", [None, TOTAL])
async def test_a_large_answer_waits_for_its_caller(size: int | None) -> None:
    made = taken = most = 0

    async def make() -> AsyncIterator[bytes]:
        nonlocal made
        for _ in range(TOTAL // len(PIECE)):
            made += len(PIECE)
            yield PIECE

    async def give(_request: Request) -> Response:
        return Response(200, [("x-a", "b")], b"", Body.from_stream(make(), "x/y", size))

    async with serving(streaming(give)) as server, wire(server.url) as one:
        one.writer.transport.set_write_buffer_limits(0)
        await one.send(GOOD)
        head = await head_of(one)
        assert "x-a: b\r\n" in head
        assert ("transfer-encoding: chunked" in head) == (size is None)
        assert (f"content-length: {TOTAL}" in head) == (size is not None)
        if size is None:
            async for piece in unchunked(one):
                taken += len(piece)
                await slowly()
                most = max(most, made - taken)
        else:
            while taken < TOTAL:
                taken += len(await one.reader.readexactly(len(PIECE)))
                await slowly()
                most = max(most, made - taken)
        assert taken == made == TOTAL
        # The reader of this test buffers as much as it was told to (`wire`), and then waits.
        assert most < 2 * ENOUGH + ENOUGH
        await one.send(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await one.answer())[0] == 404


async def test_a_caller_of_version_1_0_gets_an_answer_of_unknown_size_up_to_the_end() -> None:
    async def make() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    async def give(_request: Request) -> Response:
        return Response(200, [], b"", Body.from_stream(make(), "x/y"))

    async with serving(streaming(give)) as server, wire(server.url) as one:
        await one.send(b"POST /in HTTP/1.0\r\n\r\n")
        head = await head_of(one)
        assert "transfer-encoding" not in head
        assert "connection: close" in head
        assert await one.ended() == b"one two"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_that_never_has_a_body_is_framed_as_none(status: int) -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for piece in ():
            yield piece

    async def answer(_request: Request) -> Response:
        return Response(status, [], b"", Body.from_stream(nothing(), ""))

    async with serving(site("/in", handler=answer)) as server, wire(server.url) as one:
        for _ in range(2):
            await one.send(b"POST /in HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            found, headers, _ = await one.answer()
            assert found == status
            assert "transfer-encoding" not in headers
            assert "content-length" not in headers


@pytest.mark.parametrize("size", [None, 100])
async def test_an_answer_that_breaks_off_is_seen_to_be_cut_off(size: int | None) -> None:
    closed: list[bool] = []

    async def make() -> AsyncIterator[bytes]:
        try:
            yield b"one "
            raise Unreachable("the service is gone")
        finally:
            closed.append(True)

    async def give(_request: Request) -> Response:
        return Response(200, [], b"", Body.from_stream(make(), "x/y", size))

    async with serving(streaming(give)) as server, wire(server.url) as one:
        await one.send(GOOD)
        await head_of(one)
        rest = await one.ended()
        assert rest in (b"", b"one ", b"4\r\none \r\n")
        assert closed == [True]


@pytest.mark.parametrize("pieces", [[b"too much"], [b"too ", b"much"], [b"few"], []])
async def test_an_answer_of_another_size_than_was_told_is_cut_off(pieces: list[bytes]) -> None:
    async def make() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def give(_request: Request) -> Response:
        return Response(200, [], b"", Body.from_stream(make(), "x/y", 5))

    async with serving(streaming(give)) as server, wire(server.url) as one:
        await one.send(GOOD)
        head, rest = await head_of(one), await one.ended()
        assert "content-length: 5" in head
        assert len(rest) < 5


async def test_an_answer_that_fails_before_its_first_byte_is_an_error_like_any_other() -> None:
    async def make() -> AsyncIterator[bytes]:
        raise Unreachable("the service is gone")
        yield b""

    async def give(_request: Request) -> Response:
        return Response(200, [], b"", Body.from_stream(make(), "x/y"))

    async with serving(streaming(give)) as server:
        assert (await ask(server.url, GOOD))[0] == 503


async def test_a_caller_who_hangs_up_amid_an_answer_ends_it() -> None:
    closed: list[bool] = []

    async def make() -> AsyncIterator[bytes]:
        try:
            while True:
                yield PIECE
        finally:
            closed.append(True)

    async def give(_request: Request) -> Response:
        return Response(200, [], b"", Body.from_stream(make(), "x/y"))

    async with serving(streaming(give)) as server:
        async with wire(server.url) as one:
            await one.send(GOOD)
            await head_of(one)
        await until(lambda: closed)
        await until(lambda: server.connections == 0)
