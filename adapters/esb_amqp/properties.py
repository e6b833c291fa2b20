"""The properties of AMQP messages: to the wire and back without loss, whoever wrote them.

Source: the AMQP 0-9-1 specification, sections 4.2.5.5 (field tables) and 4.2.6.1 (content headers),
with the types of fields as RabbitMQ has them (https://www.rabbitmq.com/docs/amqp-0-9-1-errata).

Not left to pamqp, the codec below aio-pika, for two reasons. It would lose some: doubles (it writes
32 bits), long header names (it cuts them), milliseconds; and what it cannot read takes down the
connection, with each redelivery anew, so that a publisher could stop a queue for good. Here such a
property is left out. And it takes 20 µs for what takes 3 here, once a message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
from pamqp import encode

from esb.errors import BadMessage

MAX_DEPTH: Final = 32
"""Tables nested deeper than this are no data anybody means."""

_MILLISECONDS_FROM: Final = 0x1_0000_0000
"""Seconds beyond the year 2106 are milliseconds: some clients write those."""

_CALENDAR: Final = 253_402_300_800_000
"""Milliseconds up to the year 10000."""

_unsigned_32: Final = struct.Struct(">I")
_unsigned_16: Final = struct.Struct(">H")


class Properties(msgspec.Struct, kw_only=True):
    """The properties of a message (class basic); "" or None means absent."""

    # In the order of the wire.
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


# --- going out -----------------------------------------------------------------------------------


def written(properties: Properties) -> bytes:
    """The end of a content header. Raises BadMessage for what AMQP cannot hold."""
    flags = 0
    parts = [b""]
    for value, (flag, name, write) in zip(
        msgspec.structs.astuple(properties), _WRITERS, strict=True
    ):
        if value is None or value == "":
            continue
        flags |= flag
        try:
            parts.append(write(value))
        except (TypeError, ValueError, struct.error) as e:
            raise BadMessage(f"AMQP cannot hold the {name.replace('_', ' ')}: {e}") from e
    parts[0] = _unsigned_16.pack(flags)
    return b"".join(parts)


def short(value: str) -> bytes:
    """A short string. Raises ValueError if it is none: longer than 255 bytes, or no Unicode."""
    raw = value.encode()
    if len(raw) > 255:
        raise ValueError(f"{value[:20]!r}... is longer than 255 bytes")
    return b"%c%b" % (len(raw), raw)


def _headers(table: Mapping[str, Any]) -> bytes:
    return _table(table, 0)


def _table(table: Mapping[str, Any], depth: int) -> bytes:
    return _sized(
        b"".join([short(name) + _value(name, value, depth) for name, value in table.items()])
    )


def _value(name: str, value: Any, depth: int) -> bytes:
    if isinstance(value, str):
        return b"S" + _sized(value.encode())
    if isinstance(value, float):
        return b"d" + encode.double(value)
    if isinstance(value, bytes):
        return b"x" + _sized(value)
    if isinstance(value, Mapping | Sequence) and not isinstance(value, bytearray):
        if depth >= MAX_DEPTH:
            raise ValueError(f"{name!r} is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return b"F" + _table({str(k): v for k, v in value.items()}, depth + 1)
        return b"A" + _sized(b"".join([_value(name, item, depth + 1) for item in value]))
    try:
        return encode.encode_table_value(value)
    except TypeError:
        if isinstance(value, Decimal):  # of more digits than AMQP's
            return encode.encode_table_value(str(value))
        kind = "an integer of more than 64 bits" if isinstance(value, int) else type(value).__name__
        raise TypeError(f"{name!r} is {kind}") from None


def _sized(raw: bytes) -> bytes:
    return _unsigned_32.pack(len(raw)) + raw


# --- coming in -----------------------------------------------------------------------------------


def read(raw: bytes, at: int, end: int) -> tuple[Properties, list[str]]:
    """The properties that lie there, from their flags on, and the names of those that cannot be
    read. Raises ValueError if they are cut short."""
    found: dict[str, Any] = {}
    left_out: list[str] = []
    try:
        (flags,) = _unsigned_16.unpack_from(raw, at)
        at += 2
        if at > end:
            raise ValueError("properties that are cut short")
        for name, size_of, value_of in _layout(flags):
            start, at = at, at + size_of(raw, at)
            if at > end:
                raise ValueError("properties that are cut short")
            try:
                found[name] = value_of(raw, start, at)
            except (ValueError, IndexError, OverflowError, OSError, struct.error):
                left_out.append(name)
    except (struct.error, IndexError):
        raise ValueError("properties that are cut short") from None
    return Properties(**found), left_out


_Size = Callable[[bytes, int], int]
_Value = Callable[[bytes, int, int], Any]


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[str, _Size, _Value], ...]:
    """What lies there, by the flags, which are few: of a queue mostly one kind."""
    return tuple(
        (name, size_of, value_of) for flag, name, size_of, value_of in _READERS if flags & flag
    )


def _text(raw: bytes, at: int, end: int) -> str:
    return raw[at + 1 : end].decode()


def _time(raw: bytes, at: int, end: int) -> int:
    timestamp = int.from_bytes(raw[at:end])
    if timestamp >= _CALENDAR:
        raise ValueError("a time beyond the calendar")
    return timestamp


def _read_table(raw: bytes, at: int, end: int, depth: int = 0) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    table: dict[str, Any] = {}
    at += 4
    while at < end:
        start, at = at + 1, at + 1 + raw[at]
        if at >= end:
            raise ValueError("a field that is cut short")
        name = raw[start:at].decode()
        table[name], at = _read_value(raw, at, end, depth)
    return table


def _read_array(raw: bytes, at: int, end: int, depth: int) -> list[Any]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    array = []
    at += 4
    while at < end:
        value, at = _read_value(raw, at, end, depth)
        array.append(value)
    return array


def _read_value(raw: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    kind = raw[at]
    at += 1
    fixed = _FIXED.get(kind)
    after = at + (4 + _unsigned_32.unpack_from(raw, at)[0] if fixed is None else fixed[0])
    if after > end:
        raise ValueError("a field that is cut short")
    if fixed is not None:
        return fixed[1](raw, at), after
    if kind == 0x53:  # S
        text = raw[at + 4 : after]
        try:
            return text.decode(), after
        except UnicodeDecodeError:
            return text, after
    if kind == 0x46:  # F
        return _read_table(raw, at, after, depth + 1), after
    if kind == 0x41:  # A
        return _read_array(raw, at, after, depth + 1), after
    if kind == 0x78:  # x
        return raw[at + 4 : after], after
    raise ValueError("a type nobody knows")


def _field_time(raw: bytes, at: int) -> datetime:
    found = as_time(int.from_bytes(raw[at : at + 8]))
    if found is None:
        raise ValueError("a time beyond the calendar")
    return found


def _decimal(raw: bytes, at: int) -> Decimal:
    return Decimal(int.from_bytes(raw[at + 1 : at + 5], signed=True)).scaleb(-raw[at])


def _plain(form: str) -> tuple[int, Callable[[bytes, int], Any]]:
    fixed = struct.Struct(form)
    return fixed.size, lambda raw, at: fixed.unpack_from(raw, at)[0]


_FIXED: Final[dict[int, tuple[int, Callable[[bytes, int], Any]]]] = {
    ord("t"): (1, lambda raw, at: raw[at] != 0),
    ord("b"): _plain(">b"),
    ord("B"): _plain(">B"),
    ord("s"): _plain(">h"),
    ord("u"): _plain(">H"),
    ord("I"): _plain(">i"),
    ord("i"): _plain(">I"),
    ord("l"): _plain(">q"),
    ord("L"): _plain(">q"),
    ord("f"): _plain(">f"),
    ord("d"): _plain(">d"),
    ord("D"): (5, _decimal),
    ord("T"): (8, _field_time),
    ord("V"): (0, lambda raw, at: None),
    0: (0, lambda raw, at: None),  # not documented, but seen
}
"""By type: the size of a field that has always the same, and how it is read."""


def as_time(timestamp: int) -> datetime | None:
    """The time that a timestamp means; None where that is beyond the calendar."""
    seconds = timestamp if timestamp < _MILLISECONDS_FROM else timestamp / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


# --- which is which ------------------------------------------------------------------------------

_TEXT: Final = (short, lambda raw, at: 1 + raw[at], _text)
_OCTET: Final = (struct.Struct(">B").pack, lambda raw, at: 1, lambda raw, at, end: raw[at])
_KINDS: Final[dict[str, tuple[Callable[[Any], bytes], _Size, _Value]]] = {
    "headers": (
        _headers,
        lambda raw, at: 4 + int(_unsigned_32.unpack_from(raw, at)[0]),
        _read_table,
    ),
    "delivery_mode": _OCTET,
    "priority": _OCTET,
    "timestamp": (struct.Struct(">q").pack, lambda raw, at: 8, _time),
}
_ALL: Final = [
    (1 << 15 - place, name, *_KINDS.get(name, _TEXT))
    for place, name in enumerate(Properties.__struct_fields__)
]
_WRITERS: Final = [(flag, name, write) for flag, name, write, _, _ in _ALL]
_READERS: Final = [(flag, name, size_of, value_of) for flag, name, _, size_of, value_of in _ALL]
