"""An envelope as bytes, for a disk or a broker, and back, with every type kept.

MessagePack holds strings, bytes, 64-bit integers, floats, lists and maps. What it lacks (decimals,
dates with their offset, larger integers, UUIDs) travels in extension types, so that a header table
from AMQP or a typed parameter comes back as what it was. Two things are not kept: the deadline, a
promise to a caller of this process, and headers that say who somebody is (CREDENTIALS): who sent
the message is in its `principal`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from typing import Any, cast
from uuid import UUID

import msgspec

from esb.envelope import NO_HEADERS, NO_PARAMS, Body, Envelope, Headers, Outcome
from esb.errors import BadMessage, RouteFailure
from esb.redaction import CREDENTIALS

MAX_DEPTH = 64

_PLAIN = frozenset({str, bytes, bool, float, type(None)})

# Codes are on disks: never change or reuse one.
_DECIMAL, _DATETIME, _DATE, _TIME, _TIMEDELTA, _UUID, _INTEGER = range(1, 8)


class Damaged(Exception):
    """The bytes are not those that were written."""


class _Record(msgspec.Struct, omit_defaults=True):
    """What lies on the disk. A new field needs a default, so that older records can be read."""

    id: str
    source: str
    type: str
    time: str
    subject: str = ""
    correlation_id: str = ""
    headers: list[tuple[str, Any]] = []
    params: dict[str, dict[str, Any]] = {}
    outcome: str = Outcome.MESSAGE.value
    attempt: int = 1
    reply_to: str = ""
    principal: str = ""
    traceparent: str = ""
    tracestate: str = ""
    content_type: str = ""
    body: bytes = b""
    business_key: str = ""


def encode(envelope: Envelope) -> bytes:
    """The bytes of an envelope.

    Raises EsbError when its body cannot be written, BadMessage for text that is no Unicode, or
    RouteFailure for a header or parameter of a type that nothing here keeps.
    """
    body = envelope.body
    record = _Record(
        id=envelope.id,
        source=envelope.source,
        type=envelope.type,
        time=envelope.time.isoformat(),
        subject=envelope.subject,
        correlation_id=envelope.correlation_id,
        headers=[
            (name, _pack(value, 0))
            for name, value in envelope.headers
            if name.lower() not in CREDENTIALS
        ],
        params=_pack(envelope.params, 0) if envelope.params else {},
        outcome=envelope.outcome.value,
        attempt=envelope.attempt,
        reply_to=envelope.reply_to,
        principal=envelope.principal,
        traceparent=envelope.traceparent,
        tracestate=envelope.tracestate,
        content_type=body.content_type,
        business_key=envelope.business_key,
        body=b"" if body.is_empty and not body.content_type else body.raw,
    )
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError as e:
        raise BadMessage("the message has text that is not valid Unicode") from e


def decode(content: bytes) -> Envelope:
    """The envelope of `encode`d bytes. Raises Damaged."""
    try:
        record = _decoder.decode(content)
        return Envelope(
            body=Body(record.body, record.content_type),
            id=record.id,
            source=record.source,
            type=record.type,
            time=datetime.fromisoformat(record.time),
            subject=record.subject,
            correlation_id=record.correlation_id,
            business_key=record.business_key,
            headers=Headers.trusted(record.headers) if record.headers else NO_HEADERS,
            params=record.params or NO_PARAMS,
            outcome=Outcome(record.outcome),
            attempt=record.attempt,
            reply_to=record.reply_to,
            principal=record.principal,
            traceparent=record.traceparent,
            tracestate=record.tracestate,
        )
    except (msgspec.MsgspecError, ValueError, ArithmeticError) as e:
        raise Damaged("it cannot be read") from e


def digest(content: bytes) -> bytes:
    """A checksum that no bit flip and no torn page passes."""
    return blake2b(content, digest_size=16).digest()


def _pack(value: Any, depth: int) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if depth > MAX_DEPTH:
        raise BadMessage(f"headers and parameters nest at most {MAX_DEPTH} levels deep")
    if kind is int:
        if -(2**63) <= value < 2**64:
            return value
        return msgspec.msgpack.Ext(_INTEGER, f"{value:x}".encode())
    if isinstance(value, list | tuple):
        return [_pack(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: _pack(item, depth + 1) for key, item in value.items()}
    for base, code, write in _EXTENSIONS:
        if isinstance(value, base):
            return msgspec.msgpack.Ext(code, write(value).encode())
    for plain in (str, bytes, int, float):
        if isinstance(value, plain):
            # A subclass, such as an Enum's member, is stored as what it stands for.
            return _pack(plain(cast(Any, value)), depth)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    raise RouteFailure(f"a header or parameter of type {kind.__name__} cannot be stored")


def _unpack(code: int, data: memoryview) -> Any:
    read = _READERS.get(code)
    if read is None:
        raise ValueError(f"extension {code} is not known")
    return read(bytes(data).decode())


def _seconds(value: timedelta) -> str:
    return f"{value.days} {value.seconds} {value.microseconds}"


def _timedelta(text: str) -> timedelta:
    days, seconds, micros = map(int, text.split())
    return timedelta(days, seconds, micros)


# A datetime is a date, so it must be asked for first.
_EXTENSIONS: tuple[tuple[type, int, Callable[[Any], str]], ...] = (
    (Decimal, _DECIMAL, str),
    (datetime, _DATETIME, datetime.isoformat),
    (date, _DATE, date.isoformat),
    (time, _TIME, time.isoformat),
    (timedelta, _TIMEDELTA, _seconds),
    (UUID, _UUID, str),
)
_READERS: dict[int, Callable[[str], Any]] = {
    _DECIMAL: Decimal,
    _DATETIME: datetime.fromisoformat,
    _DATE: date.fromisoformat,
    _TIME: time.fromisoformat,
    _TIMEDELTA: _timedelta,
    _UUID: UUID,
    _INTEGER: lambda text: int(text, 16),
}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Record, ext_hook=_unpack)
