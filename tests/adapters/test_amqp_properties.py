"""Properties: what goes out is read by others, what a stranger writes breaks nothing."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.header import ContentHeader
from support.amqp import UNREADABLE, a_table

from esb.errors import BadMessage
from esb_amqp.properties import MAX_DEPTH, Outgoing, Properties, as_time, incoming, readable

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
short = text.filter(lambda s: len(s.encode()) <= 255)
times = st.integers(0, 0xFFFF_FFFF).map(lambda s: datetime.fromtimestamp(s, UTC))
decimals = st.builds(
    lambda mantissa, scale: Decimal(mantissa).scaleb(-scale),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 20),
)
scalars = (
    text
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=40)
    | times
    | decimals
    | st.none()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(short, inner, max_size=4),
    max_leaves=20,
)
tables = st.dictionaries(short, values, max_size=6)
properties = st.builds(
    Properties,
    content_type=short,
    content_encoding=short,
    headers=st.none() | tables,
    delivery_mode=st.none() | st.integers(1, 2),
    priority=st.none() | st.integers(0, 255),
    correlation_id=short,
    reply_to=short,
    expiration=short,
    message_id=short,
    timestamp=st.none() | st.integers(0, 0xFFFF_FFFF),
    type=short,
    user_id=short,
    app_id=short,
)


def header(flags: int, raw: bytes, size: int = 3) -> bytes:
    """The frame of a content header with any bytes for its properties."""
    payload = struct.pack(">HHQH", 60, 0, size, flags) + raw
    return struct.pack(">BHI", 2, 7, len(payload)) + payload + b"\xce"


def sent(given: Properties) -> bytes:
    """The frame in which properties leave."""
    return pamqp.frame.marshal(ContentHeader(body_size=3, properties=Outgoing(given)), 7)


def read(frame: bytes) -> Properties:
    """What the library reads and the bus makes of it."""
    _, channel, found = pamqp.frame.unmarshal(frame)
    assert isinstance(found, ContentHeader)
    assert (channel, found.body_size) == (7, 3)
    return incoming(found.properties)


@given(properties)
def test_properties_survive(given: Properties) -> None:
    frame, left_out = readable(sent(given))
    assert left_out == []
    assert read(frame) == given
    headers = read(frame).headers or {}
    assert [type(v) for v in headers.values()] == [type(v) for v in (given.headers or {}).values()]


def test_milliseconds_survive() -> None:
    assert read(sent(Properties(timestamp=1_700_000_000_123))).timestamp == 1_700_000_000_123


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Properties(headers={"n": 2**63}), "'n' is an integer of more than 64 bits"),
        (Properties(headers={"long" * 100: 1}), "longer than 255 bytes"),
        (Properties(headers={"set": {1, 2}}), "'set' is set"),
        (Properties(headers={"a": {"b": [object()]}}), "'a' is object|'b' is object"),
        (Properties(message_id="x" * 256), "message id"),
        (Properties(priority=256), "priority"),
        (Properties(timestamp=2**63), "timestamp"),
    ],
)
def test_what_amqp_cannot_hold_is_told(given: Properties, told: str) -> None:
    with pytest.raises(BadMessage, match=told):
        sent(given)


def test_a_decimal_of_many_digits_becomes_text() -> None:
    number = "12345678901234567890.5"
    found = read(sent(Properties(headers={"d": Decimal(number)}))).headers
    assert found == {"d": number}


def test_a_delivery_mode_that_is_none_is_no_harm() -> None:
    frame, left_out = readable(header(1 << 12, b"\x07"))
    assert left_out == []
    assert read(frame) == Properties(delivery_mode=7)


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {"leaf": 1}
    for _ in range(depth):
        table = {"a": table}
    return table


def test_nesting_is_bounded() -> None:
    deepest = Properties(headers=nested(MAX_DEPTH))
    frame, left_out = readable(sent(deepest))
    assert left_out == []
    assert read(frame) == deepest
    with pytest.raises(BadMessage, match="nested deeper"):
        sent(Properties(headers=nested(MAX_DEPTH + 1)))


def nested_raw(depth: int) -> bytes:
    raw = a_table(b"\x04leafI\0\0\0\1")
    for _ in range(depth):
        raw = a_table(b"\x01aF" + raw)
    return raw


TABLES = {
    "a name that is no text": a_table(b"\x01\xffV"),
    "a time beyond the calendar": a_table(b"\x01aT" + struct.pack(">Q", 2**62)),
    "a type nobody knows": a_table(b"\x01aZ"),
    "one level too deep": nested_raw(MAX_DEPTH + 1),
    "deeper than Python": nested_raw(3_000),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_property_that_cannot_be_read_is_left_out(name: str) -> None:
    flag, raw = UNREADABLE[name]
    # Each beside a type, which comes after all of them on the wire.
    frame, left_out = readable(header(flag | 1 << 5, raw + b"\x01t"))
    assert left_out == [name]
    assert read(frame) == Properties(type="t")


@pytest.mark.parametrize("case", TABLES)
def test_headers_that_cannot_be_read_are_left_out(case: str) -> None:
    frame, left_out = readable(header(1 << 13 | 1 << 7, TABLES[case] + b"\x02id"))
    assert left_out == ["headers"]
    assert read(frame) == Properties(message_id="id")


def test_all_that_cannot_be_read_is_left_out() -> None:
    flags, raw = 0, b""
    for flag, one in UNREADABLE.values():  # in the order of the wire
        flags |= flag
        raw += one
    frame, left_out = readable(header(flags, raw))
    assert left_out == list(UNREADABLE)
    assert read(frame) == Properties()


def test_text_that_is_none_stays_bytes() -> None:
    frame, left_out = readable(header(1 << 13, a_table(b"\x01aS\0\0\0\1\xff")))
    assert left_out == []
    assert read(frame).headers == {"a": b"\xff"}


@given(st.binary(max_size=200), st.integers(0, 0xFFFF).map(lambda flags: flags & 0xFFFC))
def test_no_header_of_a_stranger_gets_through_unread(garbage: bytes, flags: int) -> None:
    try:
        frame, _ = readable(header(flags, garbage))
    except ValueError:
        return  # cut short: that is no message, and the connection may go
    read(frame)


@pytest.mark.parametrize("seconds", [-(2**63), 253_402_300_800_000, 2**62])
def test_a_time_beyond_the_calendar_is_none(seconds: int) -> None:
    assert as_time(seconds) is None


@pytest.mark.parametrize("timestamp", [1_700_000_000, 1_700_000_000_000])
def test_times_in_seconds_and_in_milliseconds_are_understood(timestamp: int) -> None:
    assert as_time(timestamp) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
