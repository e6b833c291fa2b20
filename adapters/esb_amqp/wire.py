"""AMQP 0-9-1 on the wire: frames, methods, field tables and message properties.

Source: the AMQP 0-9-1 specification (sections 4.2.3 to 4.2.6, and its list of methods) with the
field types that RabbitMQ really uses (https://www.rabbitmq.com/amqp-0-9-1-errata.html).

What a publisher may put into a message (names, texts, tables, times) is decoded without ever
failing, because the message would otherwise come back with each reconnect and stop its queue for
good: text that is no UTF-8 becomes bytes (or has its bad bytes replaced, where only text will do),
times beyond the calendar stay numbers, and tables nested too deep stay bytes. Encoding is strict.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec

from esb.errors import BadMessage

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END: Final = 0xCE
FRAME_OVERHEAD: Final = 8
HEARTBEAT_FRAME: Final = struct.pack(">BHIB", HEARTBEAT, 0, 0, FRAME_END)
MAX_DEPTH: Final = 32
"""Tables nested deeper than this are no data anybody means."""

_FRAME = struct.Struct(">BHI")
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")
_F64 = struct.Struct(">d")
_DECIMAL = struct.Struct(">Bi")
_MILLISECONDS_FROM = 0x1_0000_0000
"""Seconds beyond the year 2106 are milliseconds: some clients write those."""

unpack_frame = _FRAME.unpack_from
"""Type, channel and payload size of the frame at an offset."""


class WireError(Exception):
    """The broker sent something that is no AMQP 0-9-1."""


# --- methods -------------------------------------------------------------------------------------


class Method(msgspec.Struct, frozen=True):
    """One method of the protocol: its name for people, its key, the types of its fields.

    fields: o octet, H short, I long, L longlong, s shortstr, S longstr, F table, b bit.
    """

    name: str
    key: int
    fields: str


def _method(class_id: int, method_id: int, name: str, fields: str = "") -> Method:
    return Method(name, class_id << 16 | method_id, fields)


CONNECTION_START = _method(10, 10, "connection.start", "ooFSS")
CONNECTION_START_OK = _method(10, 11, "connection.start-ok", "FsSs")
CONNECTION_TUNE = _method(10, 30, "connection.tune", "HIH")
CONNECTION_TUNE_OK = _method(10, 31, "connection.tune-ok", "HIH")
CONNECTION_OPEN = _method(10, 40, "connection.open", "ssb")
CONNECTION_OPEN_OK = _method(10, 41, "connection.open-ok", "s")
CONNECTION_CLOSE = _method(10, 50, "connection.close", "HsHH")
CONNECTION_CLOSE_OK = _method(10, 51, "connection.close-ok")
CONNECTION_BLOCKED = _method(10, 60, "connection.blocked", "s")
CONNECTION_UNBLOCKED = _method(10, 61, "connection.unblocked")
CHANNEL_OPEN = _method(20, 10, "channel.open", "s")
CHANNEL_OPEN_OK = _method(20, 11, "channel.open-ok", "S")
CHANNEL_FLOW = _method(20, 20, "channel.flow", "b")
CHANNEL_FLOW_OK = _method(20, 21, "channel.flow-ok", "b")
CHANNEL_CLOSE = _method(20, 40, "channel.close", "HsHH")
CHANNEL_CLOSE_OK = _method(20, 41, "channel.close-ok")
EXCHANGE_DECLARE = _method(40, 10, "exchange.declare", "HssbbbbbF")
EXCHANGE_DECLARE_OK = _method(40, 11, "exchange.declare-ok")
QUEUE_DECLARE = _method(50, 10, "queue.declare", "HsbbbbbF")
QUEUE_DECLARE_OK = _method(50, 11, "queue.declare-ok", "sII")
QUEUE_BIND = _method(50, 20, "queue.bind", "HsssbF")
QUEUE_BIND_OK = _method(50, 21, "queue.bind-ok")
BASIC_QOS = _method(60, 10, "basic.qos", "IHb")
BASIC_QOS_OK = _method(60, 11, "basic.qos-ok")
BASIC_CONSUME = _method(60, 20, "basic.consume", "HssbbbbF")
BASIC_CONSUME_OK = _method(60, 21, "basic.consume-ok", "s")
BASIC_CANCEL = _method(60, 30, "basic.cancel", "sb")
BASIC_CANCEL_OK = _method(60, 31, "basic.cancel-ok", "s")
BASIC_PUBLISH = _method(60, 40, "basic.publish", "Hssbb")
BASIC_RETURN = _method(60, 50, "basic.return", "Hsss")
BASIC_DELIVER = _method(60, 60, "basic.deliver", "sLbss")
BASIC_ACK = _method(60, 80, "basic.ack", "Lb")
BASIC_REJECT = _method(60, 90, "basic.reject", "Lb")
BASIC_NACK = _method(60, 120, "basic.nack", "Lbb")
CONFIRM_SELECT = _method(85, 10, "confirm.select", "b")
CONFIRM_SELECT_OK = _method(85, 11, "confirm.select-ok")

METHODS: Final[Mapping[int, Method]] = {
    m.key: m for m in list(globals().values()) if isinstance(m, Method)
}


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """One whole frame (4.2.3)."""
    return b"%b%b\xce" % (_FRAME.pack(kind, channel, len(payload)), payload)


def method_frame(channel: int, method: Method, *values: Any) -> bytes:
    """The frame of a method with its fields in order. Raises BadMessage when one does not fit."""
    out = [_U32.pack(method.key)]
    bits = count = 0
    for kind, value in zip(method.fields, values, strict=True):
        if kind == "b":
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            out.append(bytes((bits,)))
            bits = count = 0
        out.append(_ENCODERS[kind](value))
    if count:
        out.append(bytes((bits,)))
    return frame(METHOD, channel, b"".join(out))


def read_method(payload: bytes) -> tuple[Method, list[Any]]:
    """The method in a frame's payload with its fields in order. Raises WireError."""
    try:
        method = METHODS[_U32.unpack_from(payload)[0]]
        values: list[Any] = []
        at, bit = 4, 0
        for kind in method.fields:
            if kind == "b":
                values.append(bool(payload[at] >> bit & 1))
                bit += 1
                continue
            if bit:
                at, bit = at + 1, 0
            value, at = _DECODERS[kind](payload, at)
            values.append(value)
    except (KeyError, IndexError, struct.error) as e:
        raise WireError(f"a method that cannot be read ({payload[:4].hex()})") from e
    return method, values


# --- strings and tables --------------------------------------------------------------------------


def _short(text: str, what: str = "a short string") -> bytes:
    raw = text.encode("utf-8", "replace")
    if len(raw) > 255:
        raise BadMessage(f"{what} is longer than the 255 bytes that AMQP allows")
    return bytes((len(raw),)) + raw


def _long(text: str | bytes) -> bytes:
    raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
    return _U32.pack(len(raw)) + raw


def _read_short(data: bytes, at: int) -> tuple[str, int]:
    at += 1
    end = at + data[at - 1]
    return data[at:end].decode("utf-8", "replace"), end


def _read_long(data: bytes, at: int) -> tuple[str | bytes, int]:
    end = at + 4 + _U32.unpack_from(data, at)[0]
    raw = data[at + 4 : end]
    try:
        return raw.decode(), end
    except UnicodeDecodeError:
        return raw, end


def encode_table(table: Mapping[str, Any], depth: int = 0) -> bytes:
    """A field table (4.2.5.5). Raises BadMessage for a name or a value that AMQP cannot hold."""
    out = []
    for name, value in table.items():
        out.append(_short(name, f"the header name {name[:20]!r}..."))
        out.append(_encode_value(name, value, depth))
    raw = b"".join(out)
    return _U32.pack(len(raw)) + raw


def _encode_value(name: str, value: Any, depth: int) -> bytes:
    if isinstance(value, str):
        return b"S" + _long(value)
    if isinstance(value, bool):
        return b"t\x01" if value else b"t\x00"
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return b"I" + _I32.pack(value)
        if -(2**63) <= value < 2**63:
            return b"l" + _I64.pack(value)
        raise BadMessage(f"header {name!r} is an integer of more than the 64 bits AMQP has")
    if value is None:
        return b"V"
    if isinstance(value, float):
        return b"d" + _F64.pack(value)
    if isinstance(value, bytes | bytearray):
        return b"x" + _long(bytes(value))
    if isinstance(value, datetime):
        seconds = int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
        return b"T" + _I64.pack(seconds)
    if isinstance(value, Decimal):
        return _encode_decimal(value)
    if depth >= MAX_DEPTH:
        raise BadMessage(f"header {name!r} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return b"F" + encode_table({str(k): v for k, v in value.items()}, depth + 1)
    if isinstance(value, Sequence):
        raw = b"".join(_encode_value(name, item, depth + 1) for item in value)
        return b"A" + _U32.pack(len(raw)) + raw
    raise BadMessage(f"header {name!r} is a {type(value).__name__}, which AMQP cannot hold")


def _encode_decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if isinstance(exponent, int) and -255 <= exponent <= 0 and len(digits) <= 10:
        mantissa = int("".join(map(str, digits))) * (-1 if sign else 1)
        if -(2**31) <= mantissa < 2**31:
            return b"D" + _DECIMAL.pack(-exponent, mantissa)
    return b"S" + _long(str(value))


def decode_table(data: bytes, at: int = 0, depth: int = 0) -> tuple[dict[str, Any], int]:
    """The table at an offset and the offset behind it. Raises struct.error or IndexError when it
    is cut short, WireError for a type nobody knows."""
    end = at + 4 + _U32.unpack_from(data, at)[0]
    at += 4
    table: dict[str, Any] = {}
    while at < end:
        name, at = _read_short(data, at)
        table[name], at = _decode_value(data, at, depth)
    return table, end


def _decode_value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    kind = data[at]
    at += 1
    if kind == 0x53:  # S
        return _read_long(data, at)
    if kind == 0x74:  # t
        return data[at] != 0, at + 1
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return number.unpack_from(data, at)[0], at + number.size
    if kind == 0x46 or kind == 0x41:  # F, A
        if depth < MAX_DEPTH:
            read = decode_table if kind == 0x46 else _decode_array
            return read(data, at, depth + 1)
        end = at + 4 + _U32.unpack_from(data, at)[0]
        return data[at + 4 : end], end
    if kind == 0x54:  # T
        return as_time(_I64.unpack_from(data, at)[0]), at + 8
    if kind == 0x44:  # D
        scale, mantissa = _DECIMAL.unpack_from(data, at)
        return Decimal(mantissa).scaleb(-scale), at + 5
    if kind == 0x78:  # x
        end = at + 4 + _U32.unpack_from(data, at)[0]
        return data[at + 4 : end], end
    if kind == 0x56:  # V
        return None, at
    raise WireError(f"a table field of the unknown type {chr(kind)!r}")


def _decode_array(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    end = at + 4 + _U32.unpack_from(data, at)[0]
    at += 4
    items = []
    while at < end:
        item, at = _decode_value(data, at, depth)
        items.append(item)
    return items, end


def as_time(timestamp: int) -> datetime | int:
    """The time that a timestamp means, or the number itself where that is beyond the calendar."""
    seconds = timestamp if timestamp < _MILLISECONDS_FROM else timestamp / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return timestamp


_NUMBERS: Final = {
    ord(kind): struct.Struct(">" + code)
    for kind, code in {
        "b": "b", "B": "B", "s": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q",
        "f": "f", "d": "d",
    }.items()
}  # fmt: skip

_ENCODERS: Final[Mapping[str, Any]] = {
    "o": lambda value: bytes((value,)),
    "H": _U16.pack,
    "I": _U32.pack,
    "L": _U64.pack,
    "s": _short,
    "S": _long,
    "F": encode_table,
}
_DECODERS: Final[Mapping[str, Any]] = {
    "o": lambda data, at: (data[at], at + 1),
    "H": lambda data, at: (_U16.unpack_from(data, at)[0], at + 2),
    "I": lambda data, at: (_U32.unpack_from(data, at)[0], at + 4),
    "L": lambda data, at: (_U64.unpack_from(data, at)[0], at + 8),
    "s": _read_short,
    "S": _read_long,
    "F": decode_table,
}


# --- message properties --------------------------------------------------------------------------


class Properties(msgspec.Struct, kw_only=True):
    """The properties of a message (class basic); "" or None means absent."""

    content_type: str = ""
    content_encoding: str = ""
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str = ""
    reply_to: str = ""
    expiration: str = ""
    message_id: str = ""
    timestamp: int | None = None
    type: str = ""
    user_id: str = ""
    app_id: str = ""
    cluster_id: str = ""


# In the order of the wire, the first at the highest of the sixteen flags.
_PROPERTIES: Final = tuple(
    (1 << 15 - index, name, kind)
    for index, (name, kind) in enumerate(
        zip(Properties.__struct_fields__, "ssFoosssstssss", strict=True)
    )
)


def header_frame(channel: int, size: int, properties: Properties) -> bytes:
    """The content header of a message with a body of `size` bytes (4.2.6.1)."""
    flags = 0
    out = [b""]
    for flag, name, kind in _PROPERTIES:
        value = getattr(properties, name)
        if value is None or value == "":
            continue
        flags |= flag
        if kind == "s":
            out.append(_short(value, f"the {name.replace('_', ' ')}"))
        elif kind == "F":
            out.append(encode_table(value))
        elif kind == "t":
            out.append(_I64.pack(value))
        else:
            out.append(bytes((value,)))
    out[0] = b"\x00\x3c\x00\x00" + _U64.pack(size) + _U16.pack(flags)
    return frame(HEADER, channel, b"".join(out))


def read_header(payload: bytes) -> tuple[int, Properties]:
    """Body size and properties of a content header, as far as they can be read. Raises WireError
    when it has no size."""
    properties = Properties()
    try:
        size = _U64.unpack_from(payload, 4)[0]
        flags = _U16.unpack_from(payload, 12)[0]
        at = 14
        for flag, name, kind in _PROPERTIES:
            if not flags & flag:
                continue
            value: Any
            if kind == "s":
                value, at = _read_short(payload, at)
            elif kind == "F":
                value, at = decode_table(payload, at)
            elif kind == "t":
                value, at = _I64.unpack_from(payload, at)[0], at + 8
            else:
                value, at = payload[at], at + 1
            setattr(properties, name, value)
    except (IndexError, struct.error, WireError):
        if len(payload) < 14:
            raise WireError("a content header that is cut short") from None
        # What follows an unreadable property is unknown; the message itself is whole.
    return size, properties
