"""An envelope comes back from the disk as it went, types included."""

from __future__ import annotations

import contextlib
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esb.envelope import Body, Envelope, Headers, Outcome
from esb.errors import BadMessage, RouteFailure
from esb.record import MAX_DEPTH, Damaged, _Record, decode, digest, encode

offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m)))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
moments = st.datetimes(timezones=st.none() | offsets)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=20)
    | st.decimals(allow_nan=False)
    | moments
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.uuids()
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3)
)
names = st.from_regex(r"[A-Za-z0-9_.-]{1,10}", fullmatch=True)
envelopes = st.builds(
    Envelope,
    body=st.builds(Body, st.binary(max_size=200), text),
    id=text,
    source=text,
    type=text,
    time=st.datetimes(timezones=offsets),
    subject=text,
    correlation_id=text,
    headers=st.lists(st.tuples(names, values), max_size=4).map(Headers.trusted),
    params=st.dictionaries(text, st.dictionaries(text, values, max_size=3), max_size=2),
    outcome=st.sampled_from(Outcome),
    attempt=st.integers(1, 1000),
    reply_to=text,
    principal=text,
    traceparent=text,
    tracestate=text,
)
FIELDS = [field for field in Envelope.__struct_fields__ if field not in ("body", "deadline")]


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, datetime):
        return one == other and one.utcoffset() == other.utcoffset()
    if isinstance(one, Decimal):
        return one.as_tuple() == other.as_tuple()
    return bool(one == other)


def test_every_field_of_an_envelope_is_kept() -> None:
    assert set(Envelope.__struct_fields__) - {"deadline"} == set(_Record.__struct_fields__) - {
        "content_type"
    }


@given(envelopes)
def test_round_trip(envelope: Envelope) -> None:
    back = decode(encode(envelope))
    assert back.body.raw == envelope.body.raw
    assert back.content_type == envelope.content_type
    for field in FIELDS:
        one, other = getattr(back, field), getattr(envelope, field)
        if field == "headers":
            one, other = [list(pair) for pair in one], [list(pair) for pair in other]
        assert same(one, other), field


@given(envelopes, st.data())
def test_no_flipped_bit_passes(envelope: Envelope, data: st.DataObject) -> None:
    content = bytearray(encode(envelope))
    before = digest(bytes(content))
    at = data.draw(st.integers(0, len(content) * 8 - 1))
    content[at // 8] ^= 1 << (at % 8)
    assert digest(bytes(content)) != before


@given(st.binary(max_size=100))
def test_garbage_is_damaged_and_nothing_else(garbage: bytes) -> None:
    with pytest.raises(Damaged):
        decode(garbage)


@given(envelopes, st.data())
def test_a_record_that_was_cut_or_changed_is_an_envelope_or_damaged(
    envelope: Envelope, data: st.DataObject
) -> None:
    content = bytearray(encode(envelope))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(Damaged):
        decode(bytes(content[: data.draw(st.integers(at, len(content)))]))


def test_the_types_of_an_amqp_table() -> None:
    table: dict[str, Any] = {
        "bytes": b"\x00\xff",
        "decimal": Decimal("1.10"),
        "when": datetime(2026, 1, 2, 3, 4, 5, 6, UTC),
        "day": date(2026, 1, 2),
        "at": time(3, 4),
        "list": [1, -(2**63), 2**64, "x", None, [True]],
        "table": {"inner": {"deep": 1.5}},
        "id": UUID(int=7),
        "long": timedelta(days=3, microseconds=1),
    }
    headers = Headers([("X-Table", table), ("x-table", "twice")])
    back = decode(encode(Envelope(headers=headers)))
    assert list(back.headers) == [("X-Table", table), ("x-table", "twice")]
    assert same(back.headers.get("x-table"), table)


def test_a_body_of_data_is_stored_as_its_bytes_and_a_deadline_is_not() -> None:
    envelope = Envelope(body=Body(b"<a/>", "application/xml"), deadline=5.0)
    assert decode(encode(envelope)).deadline is None
    assert decode(encode(Envelope(body=Body.of(None, "")))).body.is_empty


def test_credentials_never_get_to_the_disk() -> None:
    headers = Headers([("Authorization", "Bearer s3cr3t"), ("COOKIE", "s3cr3t"), ("a", "1")])
    content = encode(Envelope(headers=headers, principal="partner"))
    assert b"s3cr3t" not in content
    assert list(decode(content).headers) == [("a", "1")]
    assert decode(content).principal == "partner"


def test_what_cannot_be_stored_is_told() -> None:
    with pytest.raises(RouteFailure, match="type object"):
        encode(Envelope(headers=Headers([("x", object())])))  # type: ignore[list-item]
    with pytest.raises(BadMessage, match="Unicode"):
        encode(Envelope(headers=Headers([("x", "\ud800")])))
    deep: Any = "x"
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(BadMessage, match="deep"):
        encode(Envelope(params={"query": {"a": deep}}))


def test_a_field_of_a_later_version_is_no_damage() -> None:
    import msgspec

    raw = msgspec.msgpack.decode(encode(Envelope(id=str(uuid4()))))
    assert decode(msgspec.msgpack.encode({**raw, "later": 1})).id == raw["id"]
