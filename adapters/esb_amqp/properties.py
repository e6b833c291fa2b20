"""The properties of AMQP messages: to the wire and back without loss, whoever wrote them.

Source: the AMQP 0-9-1 specification, sections 4.2.5.5 (field tables) and 4.2.6.1 (content headers).

pamqp, the codec below aio-pika, does most of it. Two things are done here. Going out, what it would
lose is kept: doubles (it writes 32 bits), long header names (it cuts them), milliseconds. Coming
in, what it cannot read is left out: it would take down the connection, with each redelivery anew,
and a publisher could so stop a queue for good.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
import pamqp.frame
from pamqp import decode, encode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from esb.errors import BadMessage

MAX_DEPTH: Final = 32
"""Tables nested deeper than this are no data anybody means."""

_MILLISECONDS_FROM: Final = 0x1_0000_0000
"""Seconds beyond the year 2106 are milliseconds: some clients write those."""

_PREFIX: Final = 7 + 12
"""Bytes of a content header's frame before its flags: frame header, class, weight, body size."""


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


# pamqp's attributes are in the same order, the order of the wire; one has another name.
_NAMES: Final = tuple(zip(Properties.__struct_fields__, Basic.Properties.attributes(), strict=True))


# --- going out -----------------------------------------------------------------------------------


class Outgoing(Basic.Properties):
    """Properties to publish with. `marshal` raises BadMessage for what AMQP cannot hold."""

    def __init__(self, properties: Properties) -> None:
        super().__init__(**{theirs: getattr(properties, ours) for ours, theirs in _NAMES})

    def encode_property(self, name: str, value: Any) -> bytes:
        """The bytes of one property."""
        try:
            if name == "timestamp":
                return struct.pack(">q", value)
            return _table(value, 0) if name == "headers" else super().encode_property(name, value)
        except (TypeError, ValueError, struct.error) as e:
            raise BadMessage(f"AMQP cannot hold the {name.replace('_', ' ')}: {e}") from e


def _table(table: Mapping[str, Any], depth: int) -> bytes:
    return _sized(
        b"".join(_short(name) + _value(name, value, depth) for name, value in table.items())
    )


def _short(name: str) -> bytes:
    try:
        return encode.short_string(name)
    except TypeError:
        raise TypeError(f"the name {name[:20]!r}... is longer than 255 bytes") from None


def _value(name: str, value: Any, depth: int) -> bytes:
    if isinstance(value, float):
        return b"d" + encode.double(value)
    if isinstance(value, bytes):
        return b"x" + _sized(value)
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str | bytearray):
        if depth >= MAX_DEPTH:
            raise ValueError(f"{name!r} is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return b"F" + _table({str(k): v for k, v in value.items()}, depth + 1)
        return b"A" + _sized(b"".join(_value(name, item, depth + 1) for item in value))
    try:
        return encode.encode_table_value(value)
    except TypeError:
        if isinstance(value, Decimal):  # of more digits than AMQP's
            return encode.encode_table_value(str(value))
        kind = "an integer of more than 64 bits" if isinstance(value, int) else type(value).__name__
        raise TypeError(f"{name!r} is {kind}") from None


def _sized(raw: bytes) -> bytes:
    return struct.pack(">I", len(raw)) + raw


# --- coming in -----------------------------------------------------------------------------------


def incoming(read: Basic.Properties) -> Properties:
    """What pamqp has read from a header that is `readable`."""
    found = {ours: getattr(read, theirs) for ours, theirs in _NAMES}
    return Properties(
        **{name: value for name, value in found.items() if value is not None}
        | {"headers": _plain(read.headers), "timestamp": _number(read.timestamp)}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return bytes(value) if isinstance(value, bytearray) else value


def _number(time: datetime | None) -> int | None:
    """Whole seconds, which AMQP has; milliseconds, which some clients write, if there are any."""
    if time is None:
        return None
    seconds = time.timestamp()
    return round(seconds * 1000) if time.microsecond else round(seconds)


def as_time(timestamp: int) -> datetime | None:
    """The time that a timestamp means; None where that is beyond the calendar."""
    seconds = timestamp if timestamp < _MILLISECONDS_FROM else timestamp / 1000
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def readable(frame: bytes) -> tuple[bytes, list[str]]:
    """The frame of a content header without the properties that cannot be read, and their names.

    Raises ValueError for a frame that is cut short.
    """
    try:
        _, _, header = pamqp.frame.unmarshal(frame)
        if isinstance(header, ContentHeader):
            _check_depth(header.properties.headers)
    except Exception:  # noqa: BLE001 - pamqp fails in many ways: OverflowError, RecursionError, ...
        return _mended(frame)
    return frame, []


def _mended(frame: bytes) -> tuple[bytes, list[str]]:
    try:
        (flags,) = struct.unpack_from(">H", frame, _PREFIX)
        kept, left_out = [b""], []
        at = _PREFIX + 2
        for name in Basic.Properties.attributes():
            flag, kind = Basic.Properties.flags[name], Basic.Properties.amqp_type(name)
            if not flags & flag:
                continue
            raw = frame[at : at + _size(kind, frame, at)]
            at += len(raw)
            try:
                _, value = decode.by_type(raw, kind)
                _check_depth(value)
                kept.append(raw)
            except Exception:  # noqa: BLE001 - as above
                flags &= ~flag
                left_out.append(name)
    except (struct.error, IndexError):
        raise ValueError("a content header that is cut short") from None
    kept[0] = frame[7:_PREFIX] + struct.pack(">H", flags)
    payload = b"".join(kept)
    return b"%b%b\xce" % (frame[:3] + struct.pack(">I", len(payload)), payload), left_out


def _size(kind: str, frame: bytes, at: int) -> int:
    if kind == "shortstr":
        return 1 + frame[at]
    if kind == "table":
        size: int = struct.unpack_from(">I", frame, at)[0]
        return 4 + size
    return {"octet": 1, "timestamp": 8}[kind]


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 2):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError("nested too deep")
