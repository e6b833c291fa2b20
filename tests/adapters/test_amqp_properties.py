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
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from support.amqp import UNREADABLE, a_table

from esb.errors import BadMessage
from esb_amqp.properties import MAX_DEPTH, Properties, as_time, read, written

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


def of_any(flags: int, raw: bytes) -> bytes:
    """The end of a content header with any bytes for its properties."""
    return struct.pack(">H", flags) + raw


def understood(raw: bytes) -> Properties:
    """What is read of properties that all can be."""
    found, left_out = read(raw, 0, len(raw))
    assert left_out == []
    return found


def second_opinion(raw: bytes) -> Properties:
    """What pamqp reads of them."""
    frame = struct.pack(">BHIHHQ", 2, 7, 12 + len(raw), 60, 0, 3) + raw + b"\xce"
    _, _, header = pamqp.frame.unmarshal(frame)
    assert isinstance(header, ContentHeader)
    names = zip(Properties.__struct_fields__, Basic.Properties.attributes(), strict=True)
    found = {ours: getattr(header.properties, theirs) for ours, theirs in names}
    if found["timestamp"] is not None:
        found["timestamp"] = round(found["timestamp"].timestamp())
    given = {name: value for name, value in found.items() if value is not None}
    return Properties(**given | {"headers": as_bytes(found["headers"])})


def as_bytes(value: Any) -> Any:
    """A value with bytes for what pamqp makes a bytearray."""
    if isinstance(value, dict):
        return {name: as_bytes(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_bytes(item) for item in value]
    return bytes(value) if isinstance(value, bytearray) else value


@given(properties)
def test_properties_survive(given: Properties) -> None:
    raw = written(given)
    found = understood(raw)
    assert found == given == second_opinion(raw)
    headers = found.headers or {}
    assert [type(v) for v in headers.values()] == [type(v) for v in (given.headers or {}).values()]


@given(properties)
def test_they_are_read_wherever_they_lie(given: Properties) -> None:
    raw = written(given)
    assert read(b"before" + raw + b"after", 6, 6 + len(raw)) == (given, [])


@given(properties, st.data())
def test_properties_that_are_cut_short_are_told(given: Properties, data: st.DataObject) -> None:
    raw = written(given)
    end = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ValueError, match="cut short"):
        read(raw + b"of another frame", 0, end)


FIELDS = {
    "t": b"\1",
    "b": b"\xfe",
    "B": b"\xfe",
    "s": b"\xff\xfe",
    "u": b"\xff\xfe",
    "I": b"\xff\xff\xff\xfe",
    "i": b"\xff\xff\xff\xfe",
    "l": b"\xff" * 8,
    "L": b"\xff" * 8,
    "f": struct.pack(">f", 1.5),
    "d": struct.pack(">d", 1.1),
    "D": b"\2\xff\xff\xff\xfe",
    "S": b"\0\0\0\1x",
    "A": b"\0\0\0\4t\0t\1",
    "T": struct.pack(">Q", 1_700_000_000_123),
    "F": b"\0\0\0\2\0V",
    "V": b"",
    "x": b"\0\0\0\1\xff",
    "\0": b"",
}
"""By the letter of a type: a value of it."""


@pytest.mark.parametrize("kind", FIELDS)
def test_each_type_of_field_is_read_as_others_read_it(kind: str) -> None:
    raw = of_any(1 << 13, a_table(b"\1a" + kind.encode() + FIELDS[kind] + b"\1zt\1"))
    headers = understood(raw).headers
    opinion = second_opinion(raw).headers
    assert headers is not None
    assert opinion is not None
    assert headers == opinion
    assert type(headers["a"]) is type(opinion["a"])
    assert headers["z"] is True


def test_milliseconds_survive() -> None:
    given = Properties(timestamp=1_700_000_000_123)
    assert understood(written(given)) == given


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
        written(given)


def test_a_decimal_of_many_digits_becomes_text() -> None:
    number = "12345678901234567890.5"
    found = understood(written(Properties(headers={"d": Decimal(number)}))).headers
    assert found == {"d": number}


def test_a_delivery_mode_that_is_none_is_no_harm() -> None:
    assert understood(of_any(1 << 12, b"\x07")) == Properties(delivery_mode=7)


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {"leaf": 1}
    for _ in range(depth):
        table = {"a": table}
    return table


def test_nesting_is_bounded() -> None:
    deepest = Properties(headers=nested(MAX_DEPTH))
    assert understood(written(deepest)) == deepest
    with pytest.raises(BadMessage, match="nested deeper"):
        written(Properties(headers=nested(MAX_DEPTH + 1)))


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
    "a thousand levels deep": nested_raw(1000),
    "deeper than Python": nested_raw(3_000),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_property_that_cannot_be_read_is_left_out(name: str) -> None:
    flag, raw = UNREADABLE[name]
    # Each beside a type, which comes after all of them on the wire.
    sent = of_any(flag | 1 << 5, raw + b"\x01t")
    assert read(sent, 0, len(sent)) == (Properties(type="t"), [name])


@pytest.mark.parametrize("case", TABLES)
def test_headers_that_cannot_be_read_are_left_out(case: str) -> None:
    sent = of_any(1 << 13 | 1 << 7, TABLES[case] + b"\x02id")
    assert read(sent, 0, len(sent)) == (Properties(message_id="id"), ["headers"])


def test_all_that_cannot_be_read_is_left_out() -> None:
    flags, raw = 0, b""
    for flag, one in UNREADABLE.values():  # in the order of the wire
        flags |= flag
        raw += one
    sent = of_any(flags, raw)
    assert read(sent, 0, len(sent)) == (Properties(), list(UNREADABLE))


def test_text_that_is_none_stays_bytes() -> None:
    sent = of_any(1 << 13, a_table(b"\x01aS\0\0\0\1\xff"))
    assert understood(sent).headers == {"a": b"\xff"}


@given(st.binary(max_size=200), st.integers(0, 0xFFFF).map(lambda flags: flags & 0xFFFC))
def test_no_header_of_a_stranger_breaks_anything(garbage: bytes, flags: int) -> None:
    raw = of_any(flags, garbage)
    try:
        found, left_out = read(raw, 0, len(raw))
    except ValueError:
        return  # cut short: that is no message, and the connection may go
    for name in left_out:
        assert getattr(found, name) == getattr(Properties(), name)


@given(
    st.lists(st.tuples(st.sampled_from([*FIELDS, "Z"]), st.binary(max_size=12)), max_size=6).map(
        lambda fields: b"".join(b"\1" + k.encode() * 2 + raw for k, raw in fields)
    )
)
def test_no_table_of_a_stranger_breaks_anything(fields: bytes) -> None:
    """Either it is read as others would, or left out; what comes after it is read."""
    raw = of_any(1 << 13 | 1 << 5, a_table(fields) + b"\x01t")
    found, left_out = read(raw, 0, len(raw))
    assert found.type == "t"
    assert left_out == ([] if found.headers is not None else ["headers"])
    if found.headers is not None:
        assert repr(found) == repr(second_opinion(raw))  # by its text, for what is not a number


@pytest.mark.parametrize("seconds", [-(2**63), 253_402_300_800_000, 2**62])
def test_a_time_beyond_the_calendar_is_none(seconds: int) -> None:
    assert as_time(seconds) is None


@pytest.mark.parametrize("timestamp", [1_700_000_000, 1_700_000_000_000])
def test_times_in_seconds_and_in_milliseconds_are_understood(timestamp: int) -> None:
    assert as_time(timestamp) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
