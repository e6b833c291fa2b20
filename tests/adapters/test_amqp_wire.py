"""The wire codec: what goes in comes out, what a stranger writes breaks nothing."""

from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.commands
import pamqp.frame
import pamqp.header
import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb.errors import BadMessage
from esb_amqp import wire
from esb_amqp.wire import Properties

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
short = text.filter(lambda s: len(s.encode()) <= 255)
times = st.integers(-62_000_000_000, 0xFFFF_FFFF).map(lambda s: datetime.fromtimestamp(s, UTC))
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
    delivery_mode=st.none() | st.integers(0, 255),
    priority=st.none() | st.integers(0, 255),
    correlation_id=short,
    reply_to=short,
    expiration=short,
    message_id=short,
    timestamp=st.none() | st.integers(-(2**63), 2**63 - 1),
    type=short,
    user_id=short,
    app_id=short,
    cluster_id=short,
)


@given(tables)
def test_a_table_survives(table: dict[str, Any]) -> None:
    raw = wire.encode_table(table)
    decoded, end = wire.decode_table(raw)
    assert end == len(raw)
    assert decoded == table
    assert [type(v) for v in decoded.values()] == [type(v) for v in table.values()]


@given(properties, st.integers(0, 2**40))
def test_properties_survive(sent: Properties, size: int) -> None:
    frame = wire.header_frame(7, size, sent)
    kind, channel, length = wire.unpack_frame(frame, 0)
    assert (kind, channel, length, frame[-1]) == (wire.HEADER, 7, len(frame) - 8, wire.FRAME_END)
    assert wire.read_header(frame[7:-1]) == (size, sent)


@given(st.binary(max_size=200), st.integers(0, 65_535))
def test_no_header_of_a_stranger_raises(garbage: bytes, flags: int) -> None:
    start = b"\x00\x3c\x00\x00" + struct.pack(">QH", 3, flags)
    size, _ = wire.read_header(start + garbage)
    assert size == 3


@given(st.binary(max_size=100))
def test_a_method_is_read_or_refused(garbage: bytes) -> None:
    with contextlib.suppress(wire.WireError):
        wire.read_method(garbage)


@given(properties)
def test_another_client_reads_what_we_write(sent: Properties) -> None:
    """pamqp truncates long names and knows fewer times, so tables stay simple here."""
    sent.headers = {"a": "b", "n": 1, "d": 0.1, "t": True, "nested": {"x": [1, "2", None]}}
    sent.timestamp = 1_700_000_000
    _, _, frame = pamqp.frame.unmarshal(wire.header_frame(1, 9, sent))
    assert isinstance(frame, pamqp.header.ContentHeader)
    assert frame.body_size == 9
    assert frame.properties.headers == sent.headers
    assert (frame.properties.message_id or "") == sent.message_id
    assert (frame.properties.reply_to or "") == sent.reply_to


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            wire.method_frame(
                3, wire.QUEUE_DECLARE, 0, "q", False, True, False, True, False, {"x-a": 1}
            ),
            pamqp.commands.Queue.Declare(
                queue="q", durable=True, auto_delete=True, arguments={"x-a": 1}
            ),
        ),
        (
            wire.method_frame(3, wire.BASIC_CONSUME, 0, "q", "tag", False, True, True, False, {}),
            pamqp.commands.Basic.Consume(
                queue="q", consumer_tag="tag", no_ack=True, exclusive=True
            ),
        ),
        (
            wire.method_frame(3, wire.BASIC_PUBLISH, 0, "e", "k", True, False),
            pamqp.commands.Basic.Publish(exchange="e", routing_key="k", mandatory=True),
        ),
        (
            wire.method_frame(3, wire.CONNECTION_TUNE_OK, 2047, 131072, 60),
            pamqp.commands.Connection.TuneOk(2047, 131072, 60),
        ),
    ],
)
def test_methods_are_written_as_another_client_writes_them(ours: bytes, theirs: Any) -> None:
    _, _, read = pamqp.frame.unmarshal(ours)
    assert dict(read) == dict(theirs)


def test_every_method_is_read_back() -> None:
    sample = {"o": 1, "H": 2, "I": 3, "L": 4, "s": "a", "S": "b", "F": {"k": "v"}, "b": True}
    for method in wire.METHODS.values():
        given_values = [sample[kind] for kind in method.fields]
        frame = wire.method_frame(1, method, *given_values)
        assert wire.read_method(frame[7:-1]) == (method, given_values)


@pytest.mark.parametrize(
    "table",
    [
        {"n": 2**63},
        {"long" * 100: 1},
        {"set": {1, 2}},
        {"object": object()},
    ],
)
def test_what_amqp_cannot_hold_is_told(table: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        wire.encode_table(table)


def nested(depth: int) -> dict[str, Any]:
    table: dict[str, Any] = {"leaf": 1}
    for _ in range(depth):
        table = {"a": table}
    return table


def test_nesting_is_bounded() -> None:
    assert wire.decode_table(wire.encode_table(nested(20)))[0] == nested(20)
    with pytest.raises(BadMessage, match="nested deeper"):
        wire.encode_table(nested(40))


def test_a_table_nested_too_deep_stays_bytes() -> None:
    raw = wire.encode_table({"leaf": 1})
    for _ in range(1_000):
        raw = struct.pack(">I", len(raw) + 3) + b"\x01aF" + raw
    table, end = wire.decode_table(raw)
    assert end == len(raw)
    for _ in range(wire.MAX_DEPTH):
        table = table["a"]
    assert isinstance(table["a"], bytes)


@pytest.mark.parametrize("seconds", [-1, 0, 253_402_300_799, 2**62, -(2**63)])
def test_a_time_is_one_or_stays_a_number(seconds: int) -> None:
    time = wire.as_time(seconds)
    assert isinstance(time, datetime | int)


def test_times_in_milliseconds_are_understood() -> None:
    assert wire.as_time(1_700_000_000_000) == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_text_that_is_none_becomes_bytes_or_is_mended() -> None:
    table, _ = wire.decode_table(struct.pack(">I", 8) + b"\x01aS\x00\x00\x00\x01\xff")
    assert table == {"a": b"\xff"}
    header = b"\x00\x3c\x00\x00" + struct.pack(">QH", 0, 1 << 7) + b"\x02\xffx"
    assert wire.read_header(header)[1].message_id == "\N{REPLACEMENT CHARACTER}x"
