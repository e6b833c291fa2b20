"""The socket below aio-pika: silence, stalls, and what a broker says before it lets us in."""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pamqp.frame
import pytest
from pamqp.commands import Connection as Says
from pamqp.heartbeat import Heartbeat
from support.waiting import until

from esb.errors import Denied, Unreachable
from esb_amqp.client import Connection
from esb_amqp.wire import FRAME_MAX, Address, Wire

HEARTBEAT = Heartbeat().marshal()

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(serve: Serve) -> AsyncIterator[Address]:
    """A server that may say what no real broker can be made to say."""
    serving = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with serving:
        yield Address("127.0.0.1", serving.sockets[0].getsockname()[1])


async def test_a_stall_of_our_own_is_no_silence_of_the_broker() -> None:
    speaking = asyncio.Event()
    speaking.set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while speaking.is_set():
            writer.write(HEARTBEAT)
            await asyncio.sleep(0.05)
        await reader.read()
        writer.close()

    heard = 0

    async def listen(frames: asyncio.StreamReader) -> None:
        nonlocal heard
        while await frames.readexactly(len(HEARTBEAT)):
            heard += 1

    async with server(serve) as address:
        wire = Wire(address, None, heartbeat=1)
        frames, _ = await wire.create()
        listening = asyncio.ensure_future(listen(frames))
        await until(lambda: heard)
        time.sleep(2.5)  # nothing runs, as when a machine is suspended
        before = heard
        await until(lambda: heard > before + 10)
        assert not wire.closed.done()
        speaking.clear()
        async with asyncio.timeout(10):
            # Rounded, and a busy machine looks late.
            assert re.fullmatch(r"nothing heard for [2-9] s", await wire.closed)
        with contextlib.suppress(OSError, EOFError):
            await listening


@pytest.mark.parametrize(
    ("offered", "told"),
    [
        ("EXTERNAL", "the broker refuses: not you"),
        ("SCRAM-SHA-1 GSSAPI", "no way to log in that we know"),
    ],
)
async def test_a_broker_that_wants_no_password(offered: str, told: str) -> None:
    """One that goes by the client certificate alone is met with EXTERNAL, one that goes by what
    nobody here knows is told."""
    used: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(pamqp.frame.marshal(Says.Start(mechanisms=offered), 0))
        with contextlib.suppress(EOFError, OSError):
            head = await reader.readexactly(7)
            size = int.from_bytes(head[3:])
            frame = head + await reader.readexactly(size + 1)
            said = pamqp.frame.unmarshal(frame)[2]
            assert isinstance(said, Says.StartOk)
            used.append(said.mechanism)
            writer.write(pamqp.frame.marshal(Says.Close(403, "not you", 0, 0), 0))
            await reader.read()
        writer.close()

    async with server(serve) as address:
        with pytest.raises(Denied, match=told):
            await Connection.open(address)
    assert used == [m for m in ["EXTERNAL"] if m in offered]


async def _frame(reader: asyncio.StreamReader) -> object:
    head = await reader.readexactly(7)
    return pamqp.frame.unmarshal(head + await reader.readexactly(int.from_bytes(head[3:]) + 1))[2]


@pytest.mark.parametrize(
    ("offered", "agreed"), [(0, FRAME_MAX), (2**32 - 1, FRAME_MAX), (4096, 4096)]
)
async def test_a_broker_that_sets_no_bound_gets_ours(offered: int, agreed: int) -> None:
    """Else one that was taken over says that 4 GB are to come, and we gather them."""
    answered: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(pamqp.frame.marshal(Says.Start(), 0))
        await _frame(reader)
        writer.write(pamqp.frame.marshal(Says.Tune(0, offered, 0), 0))
        tuned = await _frame(reader)
        assert isinstance(tuned, Says.TuneOk)
        answered.append(tuned.frame_max)
        await _frame(reader)
        writer.write(pamqp.frame.marshal(Says.OpenOk(), 0))
        writer.write(struct.pack(">BHI", 1, 0, 2**32 - 1))
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async with server(serve) as address:
        connection = await Connection.open(address)
        assert connection.frame_max == agreed
        async with asyncio.timeout(10):
            assert "does not speak AMQP 0-9-1 as it should" in await connection.closed
        await connection.close()
    assert answered == [agreed]


@pytest.mark.parametrize("offered", [1, 8, 4095])
async def test_frames_that_hold_nothing_are_not_agreed_to(offered: int) -> None:
    """Of 8 bytes a frame has none left for content: to publish would never end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)
        writer.write(pamqp.frame.marshal(Says.Start(), 0))
        await _frame(reader)
        writer.write(pamqp.frame.marshal(Says.Tune(0, offered, 0), 0))
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    async with server(serve) as address:
        with pytest.raises(Unreachable, match="does not speak AMQP 0-9-1 as it should"):
            await Connection.open(address)


def _nested(depth: int) -> bytes:
    """A table in a table, and so on."""
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


def _start(table: bytes) -> bytes:
    payload = struct.pack(">HH", 10, 10) + b"\0\x09" + table + struct.pack(">I", 5) + b"PLAIN"
    payload += struct.pack(">I", 5) + b"en_US"
    return struct.pack(">BHI", 1, 0, len(payload)) + payload + b"\xce"


UNREADABLE = {
    "a table 2,000 deep": _start(_nested(2_000)),
    "a method that nobody knows": b"\x01\0\0\0\0\0\x04\0\x0a\xff\xff\xce",
    "a method of nothing": b"\x01\0\0\0\0\0\0\xce",
    "a tune that is cut short": b"\x01\0\0\0\0\0\x05\0\x0a\0\x1e\0\xce",
    "a method of 20 KB": struct.pack(">BHI", 1, 0, 20_000) + bytes(20_000) + b"\xce",
    "content": b"\x02\0\0\0\0\0\x01\0\xce",
}


@pytest.mark.parametrize("case", UNREADABLE)
async def test_what_cannot_be_read_of_the_connection_ends_it(case: str) -> None:
    wire = Wire(Address("localhost", 0), None, heartbeat=0)
    wire.on_bytes(UNREADABLE[case])
    assert "does not speak AMQP 0-9-1 as it should" in wire.closed.result()


async def test_content_of_a_channel_that_has_gone_is_nobodys() -> None:
    """Also not the library's, which would keep it."""
    wire = Wire(Address("localhost", 0), None, heartbeat=0)
    for kind in (2, 3):
        wire.on_bytes(struct.pack(">BHI", kind, 9, 4) + b"abcd\xce")
    wire.on_bytes(HEARTBEAT)
    assert await wire.left.readexactly(len(HEARTBEAT)) == HEARTBEAT
    assert not wire.closed.done()


async def test_what_comes_by_the_thousand_leaves_others_their_turn() -> None:
    wire = Wire(Address("localhost", 0), None, heartbeat=0)
    transport = Paused()
    wire._transport = transport  # type: ignore[assignment]
    heard: list[int] = []

    def take(kind: int, data: bytes, at: int, end: int) -> bool:
        heard.append(kind)
        return True

    wire.channels[0] = take
    wire.on_bytes(pamqp.frame.marshal(Heartbeat(), 0) * 5000 + b"\x08")
    at_once = len(heard)
    assert 0 < at_once < 5000
    assert transport.reading is False
    while len(heard) < 5000:
        await asyncio.sleep(0)
    assert transport.reading
    wire.on_bytes(b"\x00\x00\x00\x00\x00\x00\xce")
    assert len(heard) == 5001


class Paused:
    """A transport, as far as it is told to read or not."""

    reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
