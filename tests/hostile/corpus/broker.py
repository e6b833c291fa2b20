"""A broker that was taken over: what it sends in place of an answer, or to who waits for it."""

# ruff: noqa: E501 - a line an input
from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection, Queue
from pamqp.heartbeat import Heartbeat

from hostile.case import Bytes, Case, Overtaken
from hostile.rogue import delivery, frame

MB: Final = 1024**2
_DELIVER: Final = frame(Basic.Deliver("esb", 1, False, "", "q"))
_HEARTBEAT: Final = frame(Heartbeat(), 0)


def _raw(
    kind: int, payload: bytes, channel: int = 1, size: int = -1, end: bytes = b"\xce"
) -> bytes:
    size = len(payload) if size < 0 else size
    return struct.pack(">BHI", kind, channel, size) + payload + end


def _method(class_: int, method: int, rest: bytes = b"", channel: int = 1) -> bytes:
    return _raw(1, struct.pack(">HH", class_, method) + rest, channel)


def _header(size: int, flags: int = 0, rest: bytes = b"") -> bytes:
    return _raw(2, struct.pack(">HHQH", 60, 0, size, flags) + rest)


def _nested(depth: int, kind: bytes = b"F") -> bytes:
    table = b""
    for _ in range(depth):
        name = b"\x01a" if kind == b"F" else b""
        table = name + kind + struct.pack(">I", len(table)) + table
    return struct.pack(">I", len(table)) + table


def _start(table: bytes, mechanisms: bytes = b"PLAIN") -> bytes:
    rest = b"\0\x09" + table + struct.pack(">I", len(mechanisms)) + mechanisms
    return _method(10, 10, rest + struct.pack(">I", 5) + b"en_US", 0)


_LEFT: Final = ("a method of nothing", "blocked, cut short")
"""What the library reads past: then the same connection goes on."""


def _frames() -> dict[str, bytes]:
    """What is no frame, or none that may come there: the connection is given up."""
    return {
        "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "a greeting of AMQP 1.0": b"AMQP\x03\x01\x00\x00",
        "an unknown type of frame": _raw(4, b"x"),
        "a wrong end": _raw(1, b"\0\x3c\0\x50" + bytes(9), end=b"\xcd"),
        "a frame of 4 GB": _raw(3, b"x", size=2**32 - 1),
        "one byte more than was agreed on": _raw(3, b"x", size=131_073),
        "a method of 20 KB": _method(60, 60, bytes(20_000)),
        "a method of nothing": _raw(1, b""),
        "a delivery that is cut short": _method(60, 60, b"\x03es"),
        "a name longer than the frame": _method(60, 60, b"\xffesb"),
        "a header before its method": _header(0),
        "a body before its header": _DELIVER + _raw(3, b"x"),
        "a header that is cut short": _DELIVER + _raw(2, b"\0\x3c\0"),
        "two headers": _DELIVER + _header(5) + _header(5),
        "two methods": _DELIVER + _DELIVER,
        "more content than was said": _DELIVER + _header(1) + _raw(3, b"xx"),
        "content of the connection": _raw(2, b"x", 0),
        "a tag of 0": delivery(0),
        "a tag twice": delivery(1) + delivery(1),
        "a tag that falls": delivery(5) + delivery(4),
        "the largest tag": _method(60, 60, b"\x03esb" + b"\xff" * 8 + b"\0\0\x01q") + _header(0),
        "11 messages where 10 were asked for": b"".join(map(delivery, range(1, 12))),
        "10,000 messages": b"".join(map(delivery, range(1, 10_001))),
        "an unknown method of the connection": _method(10, 999, b"", 0),
        "a class that nobody knows": _method(999, 1, b"", 0),
        "blocked, cut short": _method(10, 60, b"\xff", 0),
        "an end that is cut short": _method(20, 40, b"\0"),
    }  # fmt: skip


def _passing() -> dict[str, bytes]:
    """What harms nobody: the next message is read on the same connection or on a new one."""
    return {
        "a consumer that is none": delivery(1, consumer="root"),
        "a consumer whose name is no text": _method(60, 60, b"\x02\xff\xfe" + bytes(7) + b"\x01\0\0\0") + _header(0),
        "content of another channel": _raw(2, b"x", 9) + _raw(3, bytes(100_000), 9),
        "a message of another channel": frame(Basic.Deliver("esb", 1, False, "", "q"), 9),
        "a confirm of nothing": frame(Basic.Ack(7, True)) + frame(Basic.Nack(2**62, True)),
        "10,000 confirms": frame(Basic.Ack(2**62, True)) * 10_000,
        "a message that comes back": frame(Basic.Return(312, "NO_ROUTE", "", "q")) + _header(0),
        "an answer that nobody asked for": frame(Queue.DeclareOk("q", 0, 0)),
        "1,000 answers that nobody asked for": frame(Queue.DeclareOk("q", 0, 0)) * 1_000,
        "an unknown method of the channel": _method(60, 999),
        "the client's own method": frame(Basic.Get(0, "q")),
        "blocked": frame(Connection.Blocked("no memory"), 0),
        "1,000 times blocked and not": (frame(Connection.Blocked("x"), 0) + frame(Connection.Unblocked(), 0)) * 1_000,
        "an end of the consumer": frame(Basic.Cancel("esb", True)),
        "an end of the channel": frame(Channel.Close(404, "no", 60, 20)),
        "100 ends of the channel": frame(Channel.Close(404, "no", 60, 20)) * 100,
        "messages after an end": frame(Channel.Close(404, "no", 60, 20)) + delivery(1),
        "a channel that is opened again": frame(Channel.OpenOk()) + frame(Channel.CloseOk()),
        "a flow that stops": frame(Channel.Flow(False)),
        "tune again": frame(Connection.Tune(1, 4096, 1), 0),
        "start again": frame(Connection.Start(), 0),
        "properties of nothing": _DELIVER + _header(2, 0xFFFC) + _raw(3, b"{}"),
        "endless flags": _DELIVER + _raw(2, struct.pack(">HHQ", 60, 0, 2) + b"\xff\xff" * 1_000) + _raw(3, b"{}"),
        "headers 5,000 deep": _DELIVER + _header(2, 1 << 13, _nested(5_000)) + _raw(3, b"{}"),
        "lists 5,000 deep": _DELIVER + _header(2, 1 << 13, _nested(5_000, b"A")) + _raw(3, b"{}"),
        "headers that say more than they have": _DELIVER + _header(2, 1 << 13, b"\xff\xff\xff\xff") + _raw(3, b"{}"),
    }  # fmt: skip


def _floods() -> dict[str, tuple[Bytes, bytes]]:
    """What is much, and what must come of it."""
    pieces = frame(ContentBody(bytes(131_000)))
    return {
        "heartbeats": (lambda: _HEARTBEAT * 200_000, b""),
        "a body of 2 MB where 1 MB is taken": (lambda: delivery(1, bytes(2 * MB)), rb"reject 1 dead"),
        "a body that never ends": (lambda: _DELIVER + _header(2**62) + pieces * 1_000, b""),
        "a body in pieces of a byte": (lambda: _DELIVER + _header(MB) + frame(ContentBody(b"x")) * 300_000, b""),
        "a body of empty pieces": (lambda: _DELIVER + _header(MB) + frame(ContentBody(b"")) * 300_000, b""),
        "9 bodies of 1 MB": (lambda: b"".join(delivery(tag, b'"' + b"x" * (MB - 2) + b'"') for tag in range(1, 10)), rb"ack"),
        "headers of 128 KB": (lambda: _DELIVER + _header(2, 1 << 13, struct.pack(">I", 15_000 * 8) + b"\x02aat\x01\x02bt" * 15_000) + _raw(3, b"{}"), b""),
    }  # fmt: skip


def _handshakes() -> dict[tuple[str, str], bytes]:
    """By name and by the method whose answer it takes the place of."""
    closing = frame(Connection.Close(320, "CONNECTION_FORCED", 0, 0), 0)
    return {
        ("a start with a table 1,000 deep", "Header"): _start(_nested(1_000)),
        ("a start with lists 3,000 deep", "Header"): _start(_nested(3_000, b"A")),
        ("a start of 100 KB", "Header"): _start(_nested(0), b"A" * 100_000),
        ("a start without capabilities", "Header"): _start(_nested(0)),
        ("a start with no way to log in", "Header"): _start(_nested(0), b""),
        ("another protocol", "Header"): b"AMQP\0\0\x08\0",
        ("an end at once", "Header"): closing,
        ("a tune of frames of 1 byte", "Connection.StartOk"): frame(Connection.Tune(0, 1, 0), 0),
        ("a tune of no channels", "Connection.StartOk"): frame(Connection.Tune(0, 0, 0), 0),
        ("a tune of 65,535 heartbeats", "Connection.StartOk"): frame(Connection.Tune(1, 4096, 65_535), 0),
        ("a tune that is cut short", "Connection.StartOk"): _method(10, 30, b"\0", 0),
        ("a secure that asks on", "Connection.StartOk"): frame(Connection.Secure("x"), 0) * 10,
        ("a refusal", "Connection.StartOk"): frame(Connection.Close(403, "ACCESS_REFUSED \x1b[2J", 0, 0), 0),
        ("an end in place of open-ok", "Connection.Open"): closing,
        ("an end right after open-ok", "Connection.Open"): frame(Connection.OpenOk(), 0) + closing,
        ("100 ends", "Connection.Open"): frame(Connection.OpenOk(), 0) + closing * 100,
        ("a message before open-ok", "Connection.Open"): delivery(1),
        ("nothing in place of a channel", "Channel.Open"): b"",
        ("an end in place of a channel", "Channel.Open"): frame(Channel.Close(504, "no", 20, 10)),
        ("another answer in place of a channel", "Channel.Open"): frame(Basic.QosOk()),
        ("an end in place of qos-ok", "Basic.Qos"): frame(Channel.Close(540, "no", 60, 10)),
        ("an end in place of consume-ok", "Basic.Consume"): frame(Channel.Close(403, "no", 60, 20)),
        ("another consumer's consume-ok", "Basic.Consume"): frame(Basic.ConsumeOk("root")),
        ("messages before consume-ok", "Basic.Consume"): delivery(1) + frame(Basic.ConsumeOk("esb")),
    }  # fmt: skip


def cases() -> list[Case]:
    """All. 0 is a good message that was read on a new connection, 200 one on the same."""
    found = [
        Case("broker frames", name, Overtaken("delivery", raw), (0, 200) if name in _LEFT else (0,))
        for name, raw in _frames().items()
    ]
    found += [
        Case("broker says", name, Overtaken("delivery", raw), (0, 200))
        for name, raw in _passing().items()
    ]
    found += [
        Case("broker floods", name, Overtaken("delivery", made), (0, 200), holds=holds)
        for name, (made, holds) in _floods().items()
    ]
    found += [
        Case("broker handshakes", name, Overtaken(place, raw), (0, 200))
        for (name, place), raw in _handshakes().items()
    ]
    # Each has the bus connect anew, most after a pause: the short form has one of four.
    return [replace(one, slow=at % 4 != 0) for at, one in enumerate(found)]
